"""An instance among others: the beat on a real Redis, by a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from restmq.delivery.presence import Presence
from restmq.store.core import Core
from tests.support import reactor
from tests.support.patience import until
from tests.support.stored import DB

ALIVE, DOOMED, LAST = (f"restmq:{{inst}}:{word}" for word in ("alive", "doomed", "last"))
LASTS = 60_000  # ms, so that a machine that is busy gives nobody up


@pytest.fixture
def core(redis_server: Any, link: Any) -> Iterator[Core]:
    with reactor.core(redis_server.address, DB) as one:
        until(lambda: one.redis.link is not None)
        yield one


class One:
    """A Presence whose seconds the test counts, and what it was told."""

    def __init__(self, core: Core, lasts: float = LASTS / 1000) -> None:
        self.clock, self.seconds = Clock(), 100.0
        self.told: list[str] = []
        self.presence = Presence(core, self.clock, lambda: self.seconds, lasts)
        self.presence.on_alive = lambda: self.told.append("alive")
        self.presence.on_given_up = lambda: self.told.append("doomed")

    def renewed(self) -> None:
        """As Delivery does: this is told, and lives on under a new id."""
        self.told.append("doomed")
        self.presence.renew()

    def beat(self) -> None:
        """Beat, and wait for what comes of it."""
        before = len(self.told)
        reactor.call(self.presence.beat)
        until(lambda: len(self.told) > before and not self.presence._asking and not self.presence._working)


def now(link: Any) -> int:
    """Redis' time in ms."""
    seconds, micro = link.time()
    return int(seconds * 1000 + micro // 1000)


def last(link: Any, silent: int = 0, run: str = "") -> str:
    """What the last beat left, so many ms ago, with this run of Redis or another."""
    return f"{now(link) - silent} {run or link.info('server')['run_id']}"


def test_the_fence_is_up_when_the_last_answered_beat_is_older_than_two_and_a_half_seconds(core: Core) -> None:
    one = One(core, 3.0)
    assert not one.presence.fenced()  # it never beat: it holds nothing
    one.beat()
    one.seconds = 102.5
    assert not one.presence.fenced()
    one.seconds = 102.6
    assert one.presence.fenced()
    one.beat()
    assert not one.presence.fenced()


def test_a_beat_counts_from_when_it_was_sent(core: Core) -> None:
    one = One(core, 3.0)

    def beat_and_sleep() -> None:  # in the reactor's thread: the answer cannot come between these two
        one.presence.beat()
        one.seconds = 103.0

    reactor.call(beat_and_sleep)
    until(lambda: one.told == ["alive"])
    assert one.presence.fenced()


def test_it_beats_once_a_second_and_not_after_the_stop(core: Core, link: Any) -> None:
    one = One(core)
    reactor.call(one.presence.start)
    until(lambda: one.told == ["alive"])
    reactor.call(one.clock.advance, 1)
    until(lambda: one.told == ["alive"] * 2)
    reactor.call(one.presence.stop)
    reactor.call(one.clock.advance, 5)
    assert reactor.wait(core.ready) == []  # asked after any beat there could have been
    assert one.told == ["alive"] * 2


def test_a_beat_keeps_its_instance_alive_for_as_long_as_it_lasts(core: Core, link: Any) -> None:
    one = One(core)
    before = now(link)
    one.beat()
    assert before + LASTS <= link.zscore(ALIVE, one.presence.instance) <= now(link) + LASTS


def test_an_expired_instance_is_doomed_and_reaped(core: Core, link: Any) -> None:
    link.set(LAST, last(link))
    link.zadd(ALIVE, {"dead": now(link) - 1, "well": now(link) + 2 * LASTS})
    link.sadd("restmq:{inst}:q:dead", "lost")
    live = (core.context, b"dead", b"1", b"0", b"1", b"0", b"", b"0", b"0", b"{}", b"e", b"0")
    reactor.wait(core.settings.set_policy, b"lost", "roundrobin")
    reactor.wait(core.turn.call, "listen", b"lost", *live)
    assert reactor.wait(core.inspection.stats, b"lost")["consumers"] == 1
    One(core).beat()
    assert reactor.wait(core.inspection.stats, b"lost")["consumers"] == 0
    assert link.zrange(ALIVE, 0, -1)[-1] == b"well"
    assert link.zscore(ALIVE, "dead") is None
    assert link.zcard(DOOMED) == 0
    assert not link.exists("restmq:{inst}:q:dead")


def test_who_reaps_has_a_claim_on_it_that_ends(core: Core, link: Any) -> None:
    link.zadd(DOOMED, {"dead": 0})
    link.set(LAST, last(link))
    assert reactor.wait(core.instances.beat, b"one", True, LASTS) == (True, [b"dead"])
    assert reactor.wait(core.instances.beat, b"two", True, LASTS) == (True, [])
    assert now(link) < link.zscore(DOOMED, "dead") <= now(link) + LASTS
    link.zadd(DOOMED, {"dead": now(link) - 1})  # as long later the first one has died, too
    assert reactor.wait(core.instances.beat, b"two", True, LASTS) == (True, [b"dead"])


def test_nobody_is_suspected_when_nobody_beat_for_long_or_redis_was_started_anew(core: Core, link: Any) -> None:
    for silent, run, dead in ((30_000, "", [b"other"]), (41_000, "", []), (500, "another", [])):
        link.delete(ALIVE, DOOMED)
        link.set(LAST, last(link, silent, run))
        link.zadd(ALIVE, {"other": now(link) - 100})
        before = now(link)
        assert reactor.wait(core.instances.beat, b"one", True, LASTS) == (True, dead)
        if not dead:
            assert before + LASTS <= link.zscore(ALIVE, "other") <= now(link) + LASTS


def test_who_was_given_up_is_told_once_and_lives_on_under_a_new_id(core: Core, link: Any) -> None:
    one = One(core)
    one.beat()
    first = one.presence.instance
    one.presence.on_given_up = one.renewed
    link.zrem(ALIVE, first)
    link.zadd(DOOMED, {first: now(link) + 60_000})
    one.beat()
    one.beat()
    assert one.told == ["alive", "doomed", "alive"]
    assert one.presence.instance != first
    assert link.zscore(ALIVE, one.presence.instance) is not None
    assert link.zscore(ALIVE, first) is None


def test_the_fence_stays_up_until_the_new_id_has_been_answered(core: Core, link: Any) -> None:
    one = One(core)
    one.beat()
    one.presence.on_given_up = one.renewed
    one.seconds += 100
    link.zrem(ALIVE, one.presence.instance)
    one.beat()
    assert one.presence.fenced()
    one.beat()
    assert not one.presence.fenced()


def test_reaping_that_takes_long_keeps_no_beat_back(core: Core, link: Any) -> None:
    one = One(core)
    link.set(LAST, last(link))
    link.zadd(DOOMED, {"dead": 0})
    link.sadd("restmq:{inst}:q:dead", *range(5000))  # a round trip each
    for _ in range(3):
        before = len(one.told)
        reactor.call(one.presence.beat)
        until(lambda before=before: len(one.told) > before and not one.presence._asking)
    assert one.presence._working
    assert link.exists("restmq:{inst}:q:dead")
    until(lambda: not one.presence._working)
    assert not link.exists("restmq:{inst}:q:dead")


def doom(link: Any, dead: str, queues: int) -> None:
    """Somebody who died and was in so many queues: a round trip each."""
    link.set(LAST, last(link))
    link.zadd(DOOMED, {dead: 0})
    link.sadd(f"restmq:{{inst}}:q:{dead}", *range(queues))


def beat_once(one: One) -> None:
    """A beat, without waiting for what comes of it."""
    before = len(one.told)
    reactor.call(one.presence.beat)
    until(lambda: len(one.told) > before and not one.presence._asking)


def test_who_dies_while_another_is_reaped_is_reaped_with_it_and_not_when_its_claim_ends(core: Core, link: Any) -> None:
    one = One(core)
    doom(link, "first", 5000)
    beat_once(one)
    doom(link, "second", 1)
    beat_once(one)
    assert link.exists("restmq:{inst}:q:first")  # the first is not done yet
    until(lambda: not one.presence._working)
    assert link.zcard(DOOMED) == 0
    assert not link.exists("restmq:{inst}:q:first", "restmq:{inst}:q:second")


def test_who_is_named_again_while_it_is_reaped_is_reaped_once_more_at_the_most(core: Core, link: Any) -> None:
    one = One(core)
    doom(link, "dead", 5000)
    for _ in range(3):
        beat_once(one)
        link.zadd(DOOMED, {"dead": 0})  # the claim has ended
    assert one.presence._dead == [b"dead"]
    until(lambda: not one.presence._working)
    assert link.zcard(DOOMED) == 0
    assert one.presence._dead == []


def test_one_that_cannot_be_reaped_does_not_keep_the_others(core: Core, link: Any) -> None:
    one = One(core)
    for dead in ("bad", "well"):
        doom(link, dead, 1)
    link.delete("restmq:{inst}:q:bad")
    link.set("restmq:{inst}:q:bad", "no set")
    one.beat()
    one.beat()
    assert link.zrange(DOOMED, 0, -1) == [b"bad"]  # claimed again by and by
    assert not link.exists("restmq:{inst}:q:well")


def test_reaping_goes_on_when_redis_is_there_again(core: Core, link: Any) -> None:
    one = One(core)
    doom(link, "dead", 5000)
    mine = reactor.wait(core.redis.call, b"CLIENT", b"ID")
    beat_once(one)
    link.client_kill_filter(_id=mine)
    until(lambda: not one.presence._working)
    link.zadd(DOOMED, {"dead": now(link) + 60_000}, xx=True)  # its claim does not end
    until(lambda: core.redis.link is not None)
    one.beat()
    assert link.zcard(DOOMED) == 0


def test_a_beat_that_fails_is_followed_by_the_next(core: Core, link: Any) -> None:
    one = One(core)
    link.set(ALIVE, "no zset")
    reactor.call(one.presence.beat)
    until(lambda: not one.presence._asking)
    assert one.told == []
    link.delete(ALIVE)
    one.beat()
    assert one.told == ["alive"]
