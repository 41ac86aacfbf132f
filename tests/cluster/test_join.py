"""Who joins when Redis does not let it, or is closed meanwhile, is told so; and nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock, patch

import pytest
from twisted.internet.task import Clock

from restmq.delivery.channels import Channels
from restmq.delivery.presence import Presence
from restmq.delivery.service import Delivery
from restmq.live.comet import Comet
from restmq.model.errors import Unavailable
from restmq.runtime.future import deferred
from restmq.store.connection import Redis
from tests.support import reactor
from tests.support.instance import Instance
from tests.support.listener import Listener, have
from tests.support.pair import Pair
from tests.support.patience import PATIENCE, until
from tests.support.ports import free_port
from tests.support.proxy import Between
from tests.support.redis_server import RedisServer
from tests.support.requests import add, batch_add, stats, texts
from tests.support.stream import handler
from tests.support.websocket import HANDSHAKE

TRANSPORTS = ("c", "sse", "ws")
SHORT = "[redis]\ndeadline = 3s\n"
BROADCASTS = "the queue broadcasts now, and what everybody gets nobody can lease"


def ask(instance: Instance, transport: str, rest: str) -> Listener:
    """Ask for a stream that will be refused: the whole answer."""
    listener = Listener(instance.port, f"/{transport}/{rest}", HANDSHAKE if transport == "ws" else "")
    try:
        return listener.until_end()
    finally:
        listener.close()


def unavailable(answer: Listener, transport: str, words: str = "") -> None:
    """It was told that this cannot be now, as its transport tells it."""
    assert words.encode() in answer.body
    if transport == "sse":  # an EventSource gives up for good on anything but 200
        assert answer.status == 200
        assert answer.body.startswith(b": ")
        assert answer.body.endswith(b"\nretry: 2000\n")
    else:
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


# -- while no beat is answered


class Beatless:
    """A Redis that can be used, as its greeting says, and does not answer an instance's beat."""

    def __init__(self, server: RedisServer, how: str) -> None:
        self.link = server.client()
        self.how, self.between = how, Between(server.folder, server)
        self.address = f"unix:{self.between.path}"
        self.words = "READONLY" if how == "refused" else "Redis did not answer within 3 s"

    @contextmanager
    def now(self, instance: Instance) -> Iterator[None]:
        """From the moment at which the instance has new links to it."""
        before = instance.log.read_text().count("can be used again")
        if self.how == "refused":
            self.link.replicaof("127.0.0.1", free_port())  # where nobody listens
        else:
            self.between.swallows = b"restmq:{inst}:last"  # which only a beat names
        for kind in ("normal", "pubsub"):
            self.link.client_kill_filter(_type=kind, skipme=True)
        until(lambda: instance.log.read_text().count("can be used again") > before)
        until(lambda: len(self.link.client_list()) > 2)  # that for messages is there, too
        time.sleep(0.2)
        yield
        if self.how == "refused":
            self.link.replicaof("NO", "ONE")
        else:
            self.between.swallows = b""

    def stop(self) -> None:
        """The end."""
        self.between.stop()
        self.link.close()


@pytest.fixture(params=["refused", "unanswered"])
def beatless(own: RedisServer, request: pytest.FixtureRequest) -> Iterator[Beatless]:
    """Refused by a Redis that became a replica, or unanswered as on a link that goes deaf."""
    one = Beatless(own, request.param)
    yield one
    one.stop()


def test_who_joins_while_no_beat_is_answered_is_told_so_and_who_was_there_stays(
    beatless: Beatless, start: Any, listen: Any, queue: str
) -> None:
    one = start(SHORT, beatless.address)
    before = [listen(one, f"/{transport}/{queue}") for transport in TRANSPORTS]
    add(one, queue, "before")
    for consumer in before:
        consumer.until(have(1))
    names = f"{queue}.other", queue, f"{queue},{queue}.third"  # which nobody hears here, or some, or both
    asked = [(transport, name) for name in names for transport in TRANSPORTS]
    with beatless.now(one), ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda words: ask(one, *words), asked))
        for (transport, _name), answer in zip(asked, answers):
            unavailable(answer, transport, beatless.words)
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    after = [joined(one, listen, f"/{transport}/{queue}.other") for transport in TRANSPORTS]
    add(one, f"{queue}.other", "new")
    add(one, queue, "after")
    for consumer in after:
        assert consumer.until(have(1)).values == ["new"]
    for consumer in before:
        assert consumer.until(have(2)).values == ["before", "after"]


def joined(instance: Instance, listen: Any, target: str) -> Listener:
    """A consumer, as soon as it may join: a beat has to be answered first."""
    while True:
        listener: Listener = listen(instance, target)
        if listener.headers.get("content-length") is None:
            return listener
        unavailable(listener.until_end(), target.split("/")[1])


# -- closed while it joins


@contextmanager
def joining(pair: Pair, transport: str, rest: str) -> Iterator[Future[Listener]]:
    """It has begun to join, and what it asks after its first subscription is held back until the block ends."""
    with ThreadPoolExecutor(1) as pool:
        pair.between.holds = True
        asked = pool.submit(ask, pair.here, transport, rest)
        try:
            until(lambda: not pair.between.flows.is_set())
            pair.between.holds = False
            yield asked
            assert not asked.done()
        finally:
            pair.between.holds = False
            pair.between.flows.set()


def silent(pair: Pair, *queues: str) -> bool:
    """Whether no instance hears or taps any of these."""
    channels = [pair.link.pubsub_channels(f"restmq:{{{queue}}}:*") for queue in queues]
    return not any(channels) and not any(pair.link.exists(f"restmq:{{{queue}}}:taps") for queue in queues)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_leases_a_queue_that_broadcasts_before_the_next_is_joined_is_told(
    pair: Pair, listen: Any, queue: str, transport: str
) -> None:
    first, second = f"{queue}.a", f"{queue}.b"
    for name in (first, second):
        assert pair.there.form(f"/p/{name}", "policy=roundrobin")[0] == 200
    plain = listen(pair.here, f"/c/{first}")  # so that the other has joined this one at once
    until(lambda: stats(pair.there, first)["consumers"] == 1)
    with joining(pair, transport, f"{first},{second}?lease=1m") as asked:
        assert pair.there.form(f"/p/{first}", "policy=broadcast")[0] == 200
        add(pair.there, first, "everybody's")
        plain.until(have(1))  # and by then it has heard of the policy, too
    unavailable(asked.result(PATIENCE), transport, f"the stream was closed while it joined: {BROADCASTS}")
    until(lambda: stats(pair.there, second)["consumers"] == 0)
    until(lambda: silent(pair, second))
    assert pair.there.form(f"/p/{first}", "policy=roundrobin")[0] == 200
    again = listen(pair.here, f"/{transport}/{first},{second}?lease=1m")
    add(pair.there, second, "leased")
    assert again.until(have(1)).elements[0]["lease"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_leases_is_not_refused_for_a_policy_that_is_over(
    pair: Pair, listen: Any, queue: str, transport: str
) -> None:
    """Another instance has answered for the new one, whose word is on its way to this."""
    listen(pair.here, f"/c/{queue}")  # so that this one knows the queue
    until(lambda: stats(pair.there, queue)["consumers"] == 1)
    answer = ask(pair.here, transport, f"{queue}?lease=1m")
    assert answer.status == 400 and b"broadcasts" in answer.body
    pair.between.late = 0.5
    assert pair.there.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    leasing = listen(pair.here, f"/{transport}/{queue}?lease=1m")
    batch_add(pair.there, queue, *texts(2))
    assert leasing.until(have(1)).elements[0]["lease"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tap_that_is_cut_while_it_opens_is_told(pair: Pair, listen: Any, queue: str, transport: str) -> None:
    names = f"{queue}.a", f"{queue}.b"
    with joining(pair, transport, f"{','.join(names)}?tap=1") as asked:
        until(lambda: pair.link.pubsub_channels(f"restmq:{{{names[0]}}}:*"))
        before = pair.one("messages")
        assert pair.link.client_kill_filter(_id=before) == 1
        until(lambda: before not in {one["id"] for one in pair.own()} and len(pair.own()) == 2)
        time.sleep(0.3)  # it has its new link
    unavailable(asked.result(PATIENCE), transport, "the stream was closed while it joined: Redis was away")
    until(lambda: silent(pair, *names))
    tap = listen(pair.here, f"/{transport}/{','.join(names)}?tap=1")
    add(pair.there, names[1], "seen")
    assert tap.until(have(1)).values == ["seen"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_joins_while_the_instance_ends_is_told(pair: Pair, queue: str, transport: str) -> None:
    with joining(pair, transport, f"{queue}.a,{queue}.b") as asked:
        pair.here.process.terminate()
        until(lambda: "closing live consumers" in pair.here.log.read_text())
    unavailable(asked.result(PATIENCE), transport, "the stream was closed while it joined: the server is ending")
    pair.here.stop()
    until(lambda: silent(pair, f"{queue}.a", f"{queue}.b"))


# -- what a join that failed leaves


@contextmanager
def delivering(address: str) -> Iterator[Delivery]:
    """A Delivery on a Redis, whose links are up and which beats."""
    with reactor.core(address) as core:

        def make() -> Delivery:
            messages = Redis(address, reactor.reactor, on_message=lambda channel, data: None)
            presence = Presence(core, reactor.reactor)
            return Delivery(core, messages, presence, Channels(core, messages, presence), reactor.reactor)

        delivery = reactor.call(make)
        reactor.call(delivery.messages.start)
        reactor.call(delivery.presence.start)
        until(lambda: joins(delivery))
        try:
            yield delivery
        finally:
            reactor.call(delivery.close)
            reactor.call(delivery.messages.disconnect)


def joins(delivery: Delivery) -> bool:
    """Whether a queue can be joined."""
    return delivery.channels.connected and not delivery.rejoining


def comet(queue: str) -> Any:
    """A consumer that nobody reads."""
    return Comet(handler(), [queue.encode()], Clock())


def beats_until_refused(delivery: Delivery, queue: str) -> int:
    """How many beats are asked for from a join until it is refused."""
    instances = delivery.core.instances
    told: list[tuple[Any, int]] = []
    asked = Mock(wraps=instances.beat)

    def begin() -> None:
        joining = deferred(delivery.join(comet(queue), [queue.encode()]))
        joining.addBoth(lambda outcome: told.append((outcome, asked.call_count)))

    with patch.object(instances, "beat", asked):
        reactor.call(begin)
        until(lambda: told)
    assert told[0][0].check(Unavailable)
    return told[0][1]


def test_joins_that_failed_leave_nothing_behind(own: RedisServer, queue: str) -> None:
    with delivering(own.address) as delivery, own.client() as link:
        stays, name = comet(queue), queue.encode()
        reactor.wait(delivery.join, stays, [name])
        own.stop()
        until(lambda: not delivery.channels.connected)
        for word in (f"{queue}.{number}" for number in range(50)):
            for join in (delivery.join, delivery.taps.join):
                with pytest.raises(Unavailable):
                    reactor.wait(join, comet(word), [word.encode()])
        assert (list(delivery.queues), delivery.channels.queues) == ([name], [name])
        own.start()
        until(lambda: joins(delivery) and delivery.queues[name].joined)
        link.replicaof("127.0.0.1", free_port())
        for kind in ("normal", "pubsub"):
            link.client_kill_filter(_type=kind, skipme=True)
        until(lambda: delivery.rejoining and delivery.channels.connected)
        for word in (queue, f"{queue}.1", f"{queue}.2"):
            assert 1 <= beats_until_refused(delivery, word) <= 2  # one may be under way, and each waits for the next
        assert (list(delivery.queues), delivery.channels.queues) == ([name], [name])
        link.replicaof("NO", "ONE")
        until(lambda: joins(delivery) and delivery.queues[name].joined)
        assert {channel[: len(queue) + 10] for channel in link.pubsub_channels("restmq:*")} == {
            f"restmq:{{{queue}}}:".encode()
        }
        reactor.call(delivery.leave, stays)
        until(lambda: (delivery.queues, delivery.channels.queues) == ({}, []))
        until(lambda: link.pubsub_channels("restmq:*") == [])


# -- a queue that is forgotten broadcasts, unless restmq.conf has it otherwise


def test_who_leases_a_queue_that_is_forgotten_is_closed_with_the_reason(
    instance: Any, other: Any, listen: Any, queue: str
) -> None:
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    leasing = [listen(instance, f"/{transport}/{queue}?lease=1m") for transport in TRANSPORTS]
    plain = listen(instance, f"/c/{queue}")
    batch_add(instance, queue, *texts(4))
    for consumer in (*leasing, plain):
        consumer.until(have(1))
    assert other.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    comet, sse, ws = (consumer.until_end() for consumer in leasing)
    assert comet.trailer == f"RestMQ-Closed: {BROADCASTS}"
    assert f": {BROADCASTS}\nretry: ".encode() in sse.body
    assert (ws.code, ws.reason) == (1001, BROADCASTS)
    until(lambda: stats(instance, queue)["consumers"] == 1)
    add(other, queue, "after")
    plain.until(lambda c: "after" in c.values)
    assert plain.elements[-1] == {"key": f"{queue}:1", "value": "after"}
    assert [len(consumer.elements) for consumer in leasing] == [1, 1, 1]
    for where in (instance, other):
        for transport in TRANSPORTS:
            answer = ask(where, transport, f"{queue}?lease=1m")
            assert answer.status == 400
            assert b"broadcasts, and what everybody gets nobody can lease" in answer.body


def test_who_leases_stays_when_the_queue_is_forgotten_where_all_queues_are_roundrobin(
    start: Any, listen: Any, queue: str
) -> None:
    one = start("[queues]\npolicy = roundrobin\n")
    leasing = [listen(one, f"/{transport}/{queue}?lease=1m") for transport in TRANSPORTS]
    for number, name in enumerate(("before", "after"), 1):
        batch_add(one, queue, *(f"{name}{count}" for count in range(3)))  # as many as they may have at a time
        for consumer in leasing:
            assert [value[: len(name)] for value in consumer.until(have(number)).values][-1] == name
            assert all(element["lease"] for element in consumer.elements)
        assert one.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    assert not any(consumer.quiet().ended for consumer in leasing)
    assert sorted(value for consumer in leasing for value in consumer.values) == sorted(
        f"{name}{count}" for name in ("before", "after") for count in range(3)
    )
    assert stats(one, queue)["consumers"] == 3
