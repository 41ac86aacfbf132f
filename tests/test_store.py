"""The scripts on a real Redis against a plain model: after every step answers, messages and books agree.

Redis' clock cannot be set, so a ttl is either 1 ms, and over before the next
step, or an hour. RESTMQ_EXAMPLES says how many sequences of 50 steps are run.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model import BROADCAST, Model

from restmq import scripts

pytestmark = pytest.mark.store
EXAMPLES = int(os.environ.get("RESTMQ_EXAMPLES", "60"))
DB = 15
KEY = "restmq:{q}:"
HOUR = 3_600_000
MOST = 700  # elements in a queue: any script ends within one call
LEDGER = "added waiting delayed leased dead taken delivered acked deleted expired purged dropped bytes".split()
STATE = "n bytes c due taken acked delivered pos sure best sum cut floor left flags".split()
VALUES = st.lists(st.sampled_from([b"", b"a", b"007", b"x" * 50, b"\xc3\xa9\r\n"]), min_size=1, max_size=5)
BATCHES = VALUES | VALUES | VALUES | st.just([b"many"] * 300)
INSTANCES = st.sampled_from(["A", "B"])


class Scripts:
    """The scripts for one queue, called as the core calls them."""

    def __init__(self, link: Any, history: int = 1000, history_bytes: int = 1 << 20) -> None:
        self.link = link
        loaded = scripts.load({"history": history, "history_bytes": history_bytes})
        self.sha = {name: link.script_load(script.text) for name, script in loaded.items()}

    def __call__(self, verb: str, *words: Any) -> Any:
        return self.link.evalsha(self.sha[verb], 1, KEY + "m", *words)

    def state(self) -> dict[str, int]:
        """The packed state, by lua/lib/state.lua's names."""
        packed = self.link.get(KEY + "m")
        return dict(zip(STATE, map(int, struct.unpack(">14dB", packed) if packed else [0] * 15)))

    def books(self) -> dict[str, int]:
        """look.lua's columns; it ends what is due."""
        return dict(zip(LEDGER, self("look", DB)))


class Ear:
    """The subscriptions of one instance."""

    def __init__(self, link: Any, inst: str) -> None:
        self.channels = (f"{KEY}c{DB}", f"{KEY}i{DB}:{inst}")
        self.messages = link.pubsub()
        self.messages.subscribe("nothing")  # so that it always has a connection to be asked over

    def heard(self) -> list[Any]:
        """All that came. Redis answers PING on the same connection, so nothing can still be under way."""
        self.messages.ping()
        came = []
        while True:
            message = self.messages.get_message(timeout=5)
            if message["type"] == "pong":
                return came
            if message["type"] == "message":
                came.append(self.read(message["data"]))

    @staticmethod
    def read(data: bytes) -> Any:
        """The message as the model has it."""
        head, sizes, body = data.split(b"\n", 2)
        kind, _, first = head.decode().split(" ")
        numbers = list(map(int, sizes.split()))
        told = []
        for at in range(0, len(numbers), 3):
            number, handed, length = numbers[at : at + 3]
            told.append((number, handed, body[:length]))
            body = body[length:]
        assert body == b""
        return kind, int(first), told


def triples(reply: list[Any]) -> list[tuple[int, int, bytes]]:
    """Number, count, value, number, count, value…"""
    assert len(reply) % 3 == 0
    return [(int(reply[at]), int(reply[at + 1]), reply[at + 2]) for at in range(0, len(reply), 3)]


class Queue(RuleBasedStateMachine):
    """One queue, two instances that may listen to it, and the model of it."""

    link: Any

    def __init__(self) -> None:
        super().__init__()
        self.link.flushdb()
        self.run = Scripts(self.link)
        self.ears = {inst: Ear(self.link, inst) for inst in ("A", "B")}
        self.model = Model()
        self.epochs = (f"epoch{count}" for count in range(10_000))
        self.looks = False

    def teardown(self) -> None:
        for ear in self.ears.values():
            ear.messages.close()

    @initialize(looks=st.booleans())
    def begin(self, looks: bool) -> None:
        """Looking ends what is due: half of the sequences look after every step, half only at times."""
        self.looks = looks

    # -- what holds after every step

    @invariant()
    def what_was_published_is_what_was_handed_over(self) -> None:
        for inst, ear in self.ears.items():
            assert ear.heard() == self.model.sent.pop(inst, [])

    @invariant()
    def the_books_agree_and_balance(self) -> None:
        if self.looks:
            self.look()
        model, state = self.model, self.run.state()
        books = model.books()
        assert state["n"] == books["added"]
        assert [state[name] for name in ("bytes", "taken", "delivered", "acked")] == [
            books[name] for name in ("bytes", "taken", "delivered", "acked")
        ]
        assert (state["pos"], state["sure"]) == (model.position, model.sure)

    @invariant()
    def every_element_stands_where_it_must(self) -> None:
        model, state = self.model, self.run.state()
        pipe = self.link.pipeline(transaction=False)
        pipe.xrange(KEY + "q").zrange(KEY + "r", 0, -1).hgetall(KEY + "y").zrange(KEY + "b", 0, -1, withscores=True)
        pipe.zrange(KEY + "t", 0, -1, withscores=True).hkeys(KEY + "x").lrange(KEY + "ring", 0, -1)
        pipe.smembers(KEY + "way:A").smembers(KEY + "way:B")
        q, r, y, b, t, x, ring, *ways = pipe.execute()
        assert [(int(key.partition(b"-")[0]), fields[b"v"]) for key, fields in q] == [
            (number, element.value) for number, element in sorted(model.elements.items())
        ]
        waiting = {element.number for element in model.waiting}
        assert {int(number) for number in r} == {number for number in waiting if number <= state["c"]}
        assert {int(number): way.split()[0].decode() for number, way in y.items()} == {
            number: element.owner for number, element in model.elements.items() if element.owner
        }
        assert {int(number): int(at) for number, at in b} == {
            element.number: element.position for element in model.away(BROADCAST)
        }
        for inst, way in zip("AB", ways):
            assert {int(number) for number in way} == {element.number for element in model.away(inst)}
        assert {int(number) for number, _ in t} == {n for n, element in model.elements.items() if element.ends}
        assert {int(number) for number in x} <= set(model.elements)
        assert [inst.decode() for inst in ring] == model.ring
        assert not t or 0 < state["due"] <= t[0][1], "what ends must be due"
        assert state["flags"] & 2 or not (r or y or t or x), "the hot path must know"

    # -- the verbs

    @rule(values=BATCHES, ttl=st.sampled_from(["", "", "", HOUR, 1]))
    def add(self, values: list[bytes], ttl: Any) -> None:
        if len(self.model.elements) + len(values) > MOST:
            return
        if ttl == 1:
            values = values[:5]
        epoch = next(self.epochs)
        reply = self.run("add", DB, int(time.time() * 1000), ttl and '{"ttl": %d}' % ttl, epoch, *values)
        assert reply[:2] == self.model.add(values, ttl != "", epoch)
        if ttl == 1:
            time.sleep(0.003)
            for number in range(reply[0], reply[0] + len(values)):
                self.model.elements[number].over = True

    @rule(most=st.sampled_from([1, 2, 10, 400]))
    def take(self, most: int) -> None:
        assert triples(self.run("take", DB, most, "")) == self.model.take(most)

    @rule()
    def get(self) -> None:
        reply = self.run("get", DB)
        assert [int(reply[0]), *reply[1:]] == self.model.get()

    @rule(most=st.sampled_from([1, 10]))
    def newest(self, most: int) -> None:
        assert triples(self.run("newest", DB, most)) == self.model.newest(most)

    @rule(back=st.integers(0, 12))
    def delete(self, back: int) -> None:
        number = max(1, self.model.added - back)
        assert self.run("del", DB, number, "", "") == self.model.delete(number)

    @rule(really=st.sampled_from([False, False, True]))
    def purge(self, really: bool) -> None:
        if really:
            assert self.run("purge", DB, 0, next(self.epochs)) == self.model.purge()

    @rule(really=st.sampled_from([False, False, True]))
    def forget(self, really: bool) -> None:
        if really:
            epoch = next(self.epochs)
            assert self.run("purge", DB, 1, epoch) == self.model.forget(epoch)

    @rule(policy=st.sampled_from(["broadcast", "roundrobin"]))
    def policy(self, policy: str) -> None:
        self.run("set", DB, next(self.epochs), "policy", policy)
        self.model.set(policy == "roundrobin", self.model.stopped)

    @rule(stop=st.booleans())
    def stop(self, stop: bool) -> None:
        self.run("flow", DB, int(stop), 0, "live")
        self.model.set(self.model.roundrobin, stop)

    @rule()
    def sweep(self) -> None:
        self.model.sweep()
        self.model.pump()
        due, _ = self.run("sweep", DB, 0, next(self.epochs))
        assert due != b"" or not any(element.ends for element in self.model.elements.values())

    @rule()
    def look(self) -> None:
        self.model.sweep()
        books = self.run.books()
        assert books == self.model.books()
        assert 2 * books["added"] == sum(books[name] for name in LEDGER[:-1])

    # -- the instances

    @rule(inst=INSTANCES, count=st.integers(1, 3), full=st.integers(0, 3), stuck=st.integers(0, 3), data=st.data())
    def join(self, inst: str, count: int, full: int, stuck: int, data: Any) -> None:
        """Its first consumer, or one more, or fewer of them ready."""
        ear = self.ears[inst]
        if inst not in self.model.subscribed:
            ear.messages.subscribe(*ear.channels)
            ear.heard()
            self.model.subscribed.add(inst)
        self.live(inst, (max(0, count - full), stuck if full else 0, count), data)

    @rule(inst=INSTANCES, data=st.data())
    def leave(self, inst: str, data: Any) -> None:
        self.live(inst, (0, 0, 0), data)

    @staticmethod
    def room(numbers: tuple[int, int, int]) -> tuple[int, int, int]:
        """As an instance tells them: how many may be on their way to it in all."""
        ready, stuck, count = numbers
        return ready, 64 * ready + stuck, count

    def told(self, inst: str) -> str:
        return "%d %d %d" % self.room(self.model.consumers.get(inst, (0, 0, 0)))

    def live(self, inst: str, numbers: tuple[int, int, int], data: Any) -> None:
        model = self.model
        confirmed = data.draw(st.integers(model.sure, model.position))
        after = data.draw(st.sampled_from(["", model.position, max(0, model.position - 3), 0]))
        mine = {element.number for element in model.away(inst)}
        history = {at: told for at, told in model.history.items() if after != "" and at > after}
        complete = after == "" or after >= model.floor
        epoch = next(self.epochs)
        reply = self.run("live", DB, inst, *self.room(numbers), confirmed, "", 0, 0, "{}", after, epoch, 0)
        *told, missing, held, came, _ = reply
        assert [told[0].decode(), told[1], told[2], told[3].decode()] == model.listen(inst, numbers, confirmed, epoch)
        assert {int(number) for number in held} == (mine if after != "" else set())
        assert missing or complete
        told_history = {int(came[at]): (int(came[at + 1]), came[at + 2]) for at in range(0, len(came), 3)}
        assert told_history == {at: history[at] for at in sorted(history)[:1000]}

    @rule(inst=INSTANCES, data=st.data(), beyond=st.sampled_from([0, 0, 1]), stale=st.sampled_from([0, 0, 0, 1]))
    def confirm(self, inst: str, data: Any, beyond: int, stale: int) -> None:
        model = self.model
        if not model.epoch:
            return
        position = data.draw(st.integers(model.sure, model.position)) + beyond
        held = [element.number for element in model.away(inst)]
        numbers = held[: data.draw(st.sampled_from([0, 1, len(held)]))] + [model.added + 1] * beyond
        if stale:
            assert self.run("confirm", DB, inst, "another epoch", position, "0 0 0", len(numbers), *numbers) == 0
            assert self.run("back", DB, inst, "another epoch", *numbers) == 0
        else:
            reply = self.run("confirm", DB, inst, model.epoch, position, self.told(inst), len(numbers), *numbers)
            assert reply == model.confirm(inst, position, numbers)

    @rule(inst=INSTANCES, other=INSTANCES, few=st.booleans())
    def back(self, inst: str, other: str, few: bool) -> None:
        """What an instance holds; what is another's is refused."""
        model = self.model
        numbers = [element.number for element in model.away(other)]
        numbers = numbers[: 2 if few else None]
        if model.epoch:
            assert self.run("back", DB, inst, model.epoch, *numbers) == model.back(inst, numbers)

    @rule(inst=INSTANCES)
    def vanish(self, inst: str) -> None:
        """Its subscriptions are gone; it may join again, or be reaped."""
        ear = self.ears[inst]
        ear.messages.unsubscribe(*ear.channels)
        ear.heard()
        self.model.subscribed.discard(inst)

    @rule(inst=INSTANCES)
    def reap(self, inst: str) -> None:
        assert self.run("reap", DB, inst) == 0
        self.model.reap(inst)


@pytest.fixture
def link(redis_server: Any) -> Iterator[Any]:
    """A client on an empty database."""
    client = redis.Redis(unix_socket_path=str(redis_server.socket), db=DB)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


# A sequence takes a tenth of a second, or half of one where the machine is busy.
@pytest.mark.timeout(120 + EXAMPLES)
def test_every_verb_does_what_the_model_does(link: Any, pytestconfig: pytest.Config) -> None:
    Queue.link = link
    seed = int(pytestconfig.getoption("hypothesis_seed") or random.getrandbits(32))
    print(f"to repeat this: --hypothesis-seed={seed}")
    run_state_machine_as_test(
        hypothesis.seed(seed)(Queue),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
