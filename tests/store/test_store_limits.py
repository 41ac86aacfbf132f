"""No script but a batch's add takes more than 1,000 steps: what it does is counted, in commands of Redis.

INFO commandstats counts every command that a script calls, so nothing here depends on how
fast this machine is. RESTMQ_LOAD_SECONDS, when it is given, keeps the million for the full run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.load import CUT
from tests.support.redis_server import RedisServer, emptied
from tests.support.stored import BEGAN, KEY, Ear, Verbs

MANY = 100_000
STEPS = 1000
EACH = 25  # commands that one element may cost
WHOLE = not CUT


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of which no instance, which beats, asks anything: what it counts is ours."""
    server = RedisServer(tmp_path_factory.mktemp("quiet"))
    yield server
    server.stop()


@pytest.fixture
def link(quiet: RedisServer) -> Iterator[Any]:
    """A client of it."""
    yield from emptied(quiet)


@pytest.fixture
def ear(link: Any) -> Iterator[Ear]:
    """The subscriptions of an instance named A."""
    one = Ear(link, "A")
    one.messages.subscribe(*one.channels)
    one.heard()
    yield one
    one.messages.close()


class Measured:
    """A queue whose calls are counted."""

    def __init__(self, link: Any, rules: dict[str, Any] | None = None) -> None:
        self.link, self.run = link, Verbs(link, rules)
        self.most = 0
        self.time(0)

    def time(self, ms: int) -> None:
        """So many ms since the beginning."""
        self.now = BEGAN + ms
        self.link.set("clock", self.now)

    def fill(self, many: int, options: str = "") -> None:
        """Elements of one byte."""
        pipe = self.link.pipeline(transaction=False)
        for at in range(0, many, 500):
            pipe.fcall(*self.run.command("add", self.now, options, "epoch", *[b"v"] * min(500, many - at)))
        assert sum(reply[1] for reply in pipe.execute()) == (1 if many else 0) - (self.run.state()["n"] > many)

    def commands(self) -> int:
        """All that were called since the last reset."""
        return sum(stat["calls"] for stat in self.link.info("commandstats").values())

    def __call__(self, verb: str, *words: Any) -> Any:
        self.link.config_resetstat()
        reply = self.run(verb, *words)
        self.most = max(self.most, self.commands())
        return reply


def until(done: Callable[[Any], bool], call: Callable[[], Any]) -> int:
    """Call it until it says that there is no more; answers how often."""
    for count in range(1, 1000):
        if done(call()):
            return count
    raise AssertionError("it never says that there is no more")


def test_what_is_due_at_once_is_ended_in_small_steps(link: Any) -> None:
    queue = Measured(link)
    queue.fill(MANY // 2, '{"delay": 1000}')
    queue.fill(MANY // 2, '{"ttl": 1000}')
    queue.time(2000)
    calls = until(lambda reply: reply[0] != 0, lambda: queue("sweep", 0, "epoch"))
    assert calls <= MANY / 2 / 250 + 2
    books = queue.run.books()
    assert (books["expired"], books["waiting"], books["delayed"]) == (MANY // 2, MANY // 2, 0)
    assert queue.most <= STEPS * EACH


def test_a_take_behind_many_that_have_ended_says_that_there_is_more(link: Any) -> None:
    many = MANY if WHOLE else MANY // 4
    queue = Measured(link)
    queue.fill(many, '{"ttl": 1000}')
    queue.fill(1)
    queue.time(2000)
    found: list[Any] = []

    def take() -> list[Any]:
        found[:] = queue("take", 1, "")
        return found

    assert until(lambda reply: reply != [1], take) == many // STEPS + 1
    assert int(found[0]) == many + 1
    assert queue.most <= STEPS * EACH


@pytest.mark.parametrize("verb", ["lease", "get"])
def test_a_lease_and_a_look_behind_many_that_have_ended_say_that_there_is_more(link: Any, verb: str) -> None:
    queue = Measured(link)
    queue.fill(3000, '{"ttl": 1000}')
    queue.fill(1)
    queue.time(2000)
    words = (1, 1000, '{"limit": 1000}') if verb == "lease" else ()

    def over(reply: list[Any]) -> bool:
        return reply[1:] != [1] if verb == "lease" else reply != [2]

    assert until(over, lambda: queue(verb, *words)) == 4
    assert queue.most <= STEPS * EACH


def test_a_full_queue_of_ended_elements_takes_new_ones(link: Any) -> None:
    queue = Measured(link, {"max_length": 3000})
    queue.fill(3000, '{"ttl": 1000}')
    queue.time(2000)
    queue("add", queue.now, "", "epoch", b"v")
    assert queue.run.books()["waiting"] >= 1
    assert queue.most <= STEPS * EACH


def test_a_bound_that_was_lowered_shrinks_the_queue_in_small_steps(link: Any) -> None:
    queue = Measured(link)
    queue.fill(MANY)
    queue("set", "epoch", "max_length", "10", "overflow", "drop_oldest")
    reply = [queue("add", queue.now, "", "epoch", b"v")[3] for _ in range(MANY // STEPS + 2)]
    assert set(reply) == {1}
    assert queue.run.books()["waiting"] == 10
    assert queue.most <= STEPS * EACH


def test_adds_that_came_together_shrink_a_queue_by_no_more_than_one(link: Any) -> None:
    queue = Measured(link)
    queue.fill(5000)
    queue("set", "epoch", "max_length", "10", "overflow", "drop_oldest")
    for added, left in ((500, 4500), (1000, 4000)):
        assert len(queue("add", queue.now, "", "epoch", *[b"v"] * 500)) == 4, "none was refused"
        assert queue.run.books()["dropped"] == 2 * added
        assert queue.run.books()["waiting"] == left
    queue("set", "epoch", "max_length", "0", "max_bytes", "100")
    assert queue("add", queue.now, "", "epoch", *[b"v"] * 500)[4:6] == [1, b"OVERFULL"]
    assert queue.most <= STEPS * EACH


def test_a_purge_of_much_that_is_on_its_way_takes_small_steps(link: Any, ear: Ear) -> None:
    queue = Measured(link)
    queue("set", "epoch", "policy", "roundrobin")
    queue("listen", "A", 100, 100_000, 100, 0, "", 0, 0, "{}", "epoch", 0)
    queue.fill(20_000)
    while queue.run.books()["waiting"]:
        queue("add", queue.now, "", "epoch", b"v")
    assert queue.run.books()["leased"] >= 20_000
    queue.most = 0
    assert queue("purge", 0, "epoch") == 1
    assert queue.most <= 20
    assert queue.run.books()["purged"] >= 20_000


def test_what_was_on_its_way_when_redis_came_back_with_less_is_given_back_in_small_steps(link: Any) -> None:
    ears = [Ear(link, inst) for inst in "AB"]
    queue = Measured(link)
    queue("set", "epoch", "policy", "roundrobin")
    for one in ears:
        one.messages.subscribe(*one.channels)
        one.heard()
        queue("listen", one.inst, 100, 100_000, 100, 0, "", 0, 0, "{}", "epoch", 0)
    queue.fill(20_000)
    while queue.run.books()["waiting"]:
        queue("add", queue.now, "", "epoch", b"v")
    away = queue.run.books()["leased"]
    assert away >= 20_000
    for one in ears:
        one.messages.unsubscribe(*one.channels)  # so that what comes back is not dealt at once
        one.heard()
    queue.most = 0
    assert queue("seen", "epoch", away + 5, "{}", "another", 0)[:2] == [b"another", 0], "the rest is due at once"
    assert queue.most <= 50
    assert queue.run.books()["leased"] == away
    queue("seen", "another", away + 9, "{}", "a third", 0)
    calls = until(lambda reply: reply[0] != 0, lambda: queue("sweep", 0, "epoch"))
    assert calls <= away / 250 + 3
    assert queue.most <= STEPS * EACH
    books = queue.run.books()
    assert (books["leased"], books["waiting"], books["dropped"]) == (0, away, 0)
    assert not link.keys(KEY + "lost*") + link.keys(KEY + "way:*")
    for one in ears:
        one.messages.close()


@pytest.mark.parametrize("how", ["dies", "leaves", "confirms", "confirms and leaves", "redis loses"])
def test_what_only_a_newcomer_has_confirmed_goes_on_in_small_steps(link: Any, how: str) -> None:
    """Who joined first is stuck, and the window moves on without it: many are unsure."""
    ears = [Ear(link, inst) for inst in "AB"]
    queue = Measured(link, {"history": 100})
    for one, already in zip(ears, (0, 10)):
        one.messages.subscribe(*one.channels)
        queue.fill(already)
        queue("listen", one.inst, 1, 64, 1, 0, "", 0, 0, "{}", "epoch", 0)
    while queue.run.state()["pos"] < 12_000:
        queue.fill(250)
        queue("confirm", "B", "epoch", queue.run.state()["pos"], "1 64 1", 0)
    there = queue.run.books()["leased"]
    assert there >= 12_000
    queue.most = 0
    if how.startswith("confirms"):
        assert queue("confirm", "A", "epoch", there, "1 64 1", 0) == 0, "the rest is due at once"
    if how == "redis loses":
        assert queue("seen", "epoch", there + 1, "{}", "another", 0) == [b"another", 0]
    if how.endswith("leaves"):
        assert queue("listen", "A", 0, 0, 0, 0, "", 0, 0, "{}", "epoch", 0)[4] == 0
    if how == "dies":
        until(lambda reply: reply == 0, lambda: queue("reap", "A"))
    until(lambda reply: reply[0] != 0, lambda: queue("sweep", 0, "epoch"))
    assert queue.most <= STEPS * EACH
    books, state = queue.run.books(), queue.run.state()
    heard = {"dies": there - 10, "leaves": there - 10, "redis loses": 0}.get(how, there)
    assert books["delivered"] == heard
    assert books["delivered"] + books["leased"] + books["waiting"] == there
    assert link.zcard(KEY + "b") == books["leased"] == state["pos"] - state["sure"]
    for one in ears:
        one.messages.close()


def test_acknowledging_and_giving_back_five_hundred_takes_small_steps(link: Any) -> None:
    queue = Measured(link)
    queue.fill(1000)
    queue("lease", 1000, 60_000, "")
    for verb, first, more in (("ack", 1, ()), ("nack", 501, (0, 1, "no"))):
        words = [word for N in range(first, first + 500) for word in (N, 1, "epoch", *more)]
        assert sum(queue(verb, *words)[:500]) == 500
    assert queue.most <= STEPS * EACH


def test_one_add_to_a_bounded_queue_looks_at_few_elements(link: Any) -> None:
    """Dropping one costs the same whether thousands wait behind it or none."""
    queue = Measured(link, {"max_bytes": 20_000, "overflow": "drop_oldest"})
    queue.fill(20_000)
    for _ in range(3):
        queue("add", queue.now, "", "epoch", b"v")
    assert queue.run.books()["waiting"] == 20_000
    assert queue.most <= 30
    scanned = link.info("commandstats")["cmdstat_xrange"]
    assert scanned["calls"] <= 3


def test_bury_kick_reap_and_live_take_small_steps(link: Any) -> None:
    queue = Measured(link, {"max_deliveries": 1})
    queue.fill(3000)
    for _ in range(3):
        queue("lease", 1000, 1000, "")
    queue.time(2000)
    until(lambda reply: reply[0] != 0, lambda: queue("sweep", 0, "epoch"))
    assert queue.run.books()["dead"] == 3000
    assert len(queue("kick", 500)) == 500
    assert until(lambda reply: reply < 500, lambda: queue("bury")) == 6
    queue("listen", "A", 100, 100_000, 100, 0, "", 0, 0, "{}", "epoch", 0)
    until(lambda reply: reply == 0, lambda: queue("reap", "A"))
    assert queue.most <= STEPS * EACH


@pytest.mark.parametrize("state", ["waiting", "dead", "delayed", "leased", "way", "history"])
def test_a_peek_costs_what_it_shows(link: Any, ear: Ear, state: str) -> None:
    queue = Measured(link, {"max_deliveries": 1})
    queue.fill(5000, '{"delay": 5000}' if state == "delayed" else "")
    if state in ("leased", "dead"):
        for _ in range(5):
            queue("lease", 1000, 1000, "")
    if state == "dead":
        queue.time(2000)
        until(lambda reply: reply[0] != 0, lambda: queue("sweep", 0, "epoch"))
    if state == "way":
        queue("set", "epoch", "policy", "roundrobin")
        queue("listen", "A", 100, 100_000, 100, 0, "", 0, 0, "{}", "epoch", 0)
    queue.most = 0
    shown = queue("peek", state, 0, 50, *(range(1, 51) if state == "way" else ()))
    assert len(shown) == (0 if state == "history" else 50 * 8)
    assert queue.most <= 50 * 8 + 20


def test_a_long_history_is_paged_from_the_oldest_on(link: Any, ear: Ear) -> None:
    many = 3000
    queue = Measured(link, {"history": many})
    queue.fill(many)
    queue("listen", "A", 1, 64, 1, 0, "", 0, 0, "{}", "epoch", 0)
    while queue.run.state()["sure"] < many:
        queue("confirm", "A", "epoch", queue.run.state()["pos"], "1 64 1", 0)
    queue.most = 0
    shown: list[int] = []
    asked = after = 0
    while True:
        page = queue("peek", "history", after, 700)
        while len(page) == 2:
            asked, page = asked + 1, queue("peek", "history", after, 700, page[1])
        if not page:
            break
        shown += map(int, page[::8])
        after = shown[-1]
    assert shown == list(range(1, many + 1))
    assert asked == 1 + 2 + 2 + 2, "a thousand a call: once more behind 1400, twice behind 2100, 2800 and 3000"
    assert queue.most <= 700 * 2 + 20
    answer = queue("peek", "history", many + 1, 1)
    while len(answer) == 2:
        answer = queue("peek", "history", many + 1, 1, answer[1])
    assert answer == [b"?"]


def test_a_start_wakes_the_gets_that_wait_in_small_steps(link: Any, ear: Ear) -> None:
    queue = Measured(link)
    queue("flow", 1, 0, "pull")
    for _ in range(3500):
        queue("take", 1, '{"instance": "A"}')
    queue.fill(3400)

    def woken() -> list[int]:
        return [many for kind, _, many in ear.heard() if kind == "W" and isinstance(many, int)]

    assert woken() == []
    assert queue("flow", 0, 0, "pull") == 0, "the rest is due at once"
    assert woken() == [1000]
    assert len(queue("take", 1, '{"instance": "A", "first": 1}')) == 3
    assert woken() == [1000], "those who come wake the next"
    assert queue("sweep", 0, "epoch") == [0, 0]
    assert woken() == [1000], "and so does a sweep"
    assert len(queue("lease", 1, 1000, '{"instance": "A", "first": 1}')) == 5
    assert woken() == [400], "as many as there were elements"
    assert queue("sweep", 0, "epoch")[1] == 0
    assert woken() == []


@pytest.mark.parametrize("how", ["purge", "unwait"])
def test_nobody_is_woken_for_what_is_gone(link: Any, ear: Ear, how: str) -> None:
    """Neither when the elements went before all were woken, nor when those who waited left."""
    queue = Measured(link)
    queue("flow", 1, 0, "pull")
    for _ in range(1200):
        queue("take", 1, '{"instance": "A"}')
    queue.fill(1200)
    queue("flow", 0, 0, "pull")
    if how == "purge":
        assert queue("purge", 0, "epoch") == 1
    else:
        assert queue("unwait", "A", 1200) == 1000
        queue("take", 1000, "")
        queue("take", 1000, "")
        for _ in range(100):
            queue("take", 1, '{"instance": "A"}')
    ear.heard()
    queue.fill(5)
    assert [message[::2] for message in ear.heard()] == [("W", 5)]


def test_what_came_back_is_handed_out_without_a_look_at_what_is_younger(link: Any) -> None:
    queue = Measured(link)
    queue.fill(20)
    for N in queue("lease", 10, 1000, "")[1::4]:
        assert queue("nack", N, "", "", "", 0, "")[0] == 1
    link.config_resetstat()
    assert queue("take", 10, "")[::3] == [b"%d" % N for N in range(1, 11)]
    assert link.info("commandstats")["cmdstat_xrange"]["calls"] == 10, "one for each value"


@pytest.mark.parametrize("many", [10, 1_000_000 if WHOLE else 50_000])
def test_a_sweep_costs_the_same_beside_a_million_delayed_as_beside_ten(link: Any, many: int) -> None:
    queue = Measured(link)
    queue.fill(many, '{"delay": 100000000}')
    queue.fill(1, '{"delay": 1000}')
    queue.time(500)
    assert queue("sweep", 0, "epoch") == [500, 0]
    assert queue.most <= 12, "nothing was due"
    queue.time(1000)
    assert queue("sweep", 0, "epoch")[1] == 0
    assert queue.run.books()["waiting"] == 1
    assert queue.most <= 30
    queue.most = 0
    assert len(queue("take", 1, "")) == 3
    assert queue.most <= 30
