"""The scripts on a real Redis against a plain model: after every step the books agree, and balance."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from restmq import scripts

pytestmark = pytest.mark.store
EXAMPLES = int(os.environ.get("RESTMQ_EXAMPLES", "60"))
COLUMNS = [
    "added",
    "waiting",
    "delayed",
    "leased",
    "dead",
    "taken",
    "delivered",
    "acked",
    "deleted",
    "expired",
    "purged",
    "dropped",
    "bytes",
]
FLOWS = ("taken", "delivered", "deleted", "expired", "purged")
HOUR = 3_600_000
VALUES = st.lists(st.sampled_from(["", "a", "007", "x" * 50, "é"]), min_size=1, max_size=5)


class Books(RuleBasedStateMachine):
    """One queue, one instance that may listen to it, and what they must hold."""

    link: Any
    sha: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.link.flushall()
        self.sha = {name: self.link.script_load(script.text) for name, script in scripts.load().items()}
        self.messages = self.link.pubsub()
        self.messages.subscribe("restmq:{q}:c0", "restmq:{q}:i0:A")
        for _ in range(2):
            assert self.messages.get_message(timeout=5)["type"] == "subscribe"
        self.listening, self.ready = False, 0
        self.begin()

    def begin(self) -> None:
        """A queue that was never used."""
        self.added, self.born, self.position, self.sure = 0, False, 0, 0
        self.waiting: dict[int, str] = {}
        self.shown: dict[int, int] = {}
        self.ending: set[int] = set()  # their ttl is over as soon as anybody looks
        self.away: dict[int, tuple[str, int]] = {}  # on their way: value, position or 0
        self.flows = dict.fromkeys(FLOWS, 0)
        self.roundrobin = self.stopped = False

    def teardown(self) -> None:
        self.messages.close()

    def run(self, verb: str, *words: Any) -> Any:
        """Call a script as the core does."""
        return self.link.evalsha(self.sha[verb], 1, "restmq:{q}:m", *words)

    def pump(self) -> None:
        """The model's hand-over, and what was published must be the same."""
        want: list[tuple[bytes, int, str]] = []
        if self.listening and not self.stopped:
            room = self.ready * 64 - sum(1 for _, at in self.away.values() if not at) if self.roundrobin else 10**6
            for n in sorted(self.waiting)[: max(0, room) if self.roundrobin and self.ready else None]:
                if n in self.ending:
                    self.expire(n)
                    continue
                if self.roundrobin and not self.ready:
                    break
                value = self.waiting.pop(n)
                if not self.roundrobin:
                    self.position += 1
                self.away[n] = (value, 0 if self.roundrobin else self.position)
                want.append((b"R" if self.roundrobin else b"B", n, value))
        got: list[tuple[bytes, int, str]] = []
        while True:
            message = self.messages.get_message(timeout=1 if len(got) < len(want) else 0)
            if message is None:
                break
            head, sizes, body = message["data"].split(b"\n", 2)
            numbers = [int(word) for word in sizes.split()]
            for place in range(0, len(numbers), 3):
                n, _, length = numbers[place : place + 3]
                got.append((head[:1], n, body[:length].decode()))
                body = body[length:]
        assert got == want

    def expire(self, n: int) -> None:
        """Its ttl was seen to be over."""
        del self.waiting[n]
        self.ending.discard(n)
        self.shown.pop(n, None)
        self.flows["expired"] += 1

    def balance(self) -> None:
        """Look, which ends what is due, and compare every column."""
        books = dict(zip(COLUMNS, self.run("look")))
        for n in sorted(self.ending & set(self.waiting)):
            self.expire(n)
        values = [*self.waiting.values(), *(value for value, _ in self.away.values())]
        want = dict.fromkeys(COLUMNS, 0)
        want.update(self.flows, added=self.added, waiting=len(self.waiting), leased=len(self.away))
        want["bytes"] = sum(len(value.encode()) for value in values)
        assert books == want
        assert 2 * books["added"] == sum(books[word] for word in COLUMNS[:-1])

    @rule(values=VALUES, ttl=st.sampled_from(["", "", "", HOUR, 1]))
    def add(self, values: list[str], ttl: Any) -> None:
        if ttl == 1 and self.listening:
            ttl = ""  # whether it is handed over in its one millisecond is nobody's to say
        first = self.run("add", 0, int(time.time() * 1000), ttl, "epoch", *values)[0]
        assert first == self.added + 1
        for value in values:
            self.added += 1
            self.waiting[self.added] = value
            if ttl == 1:
                self.ending.add(self.added)
        if ttl == 1:
            time.sleep(0.003)
        self.born = True
        self.pump()
        self.balance()

    @rule(most=st.sampled_from([1, 2, 10]))
    def take(self, most: int) -> None:
        reply = self.run("take", most)
        got = [(int(reply[at]), int(reply[at + 1]), reply[at + 2].decode()) for at in range(0, len(reply) // 3 * 3, 3)]
        want = [(n, self.shown.get(n, 0), self.waiting[n]) for n in sorted(self.waiting)][:most]
        assert got == want
        for n, _, _ in want:
            del self.waiting[n]
        self.flows["taken"] += len(want)
        self.balance()

    @rule()
    def get(self) -> None:
        reply = self.run("get")
        if self.waiting:
            n = min(self.waiting)
            self.shown[n] = self.shown.get(n, 0) + 1
            assert (int(reply[0]), reply[1], reply[2].decode()) == (n, self.shown[n], self.waiting[n])
        else:
            assert reply == [int(self.born)]
        self.balance()

    @rule(back=st.integers(0, 12))
    def delete(self, back: int) -> None:
        n = max(1, self.added - back)
        there = n in self.waiting or n in self.away
        assert self.run("del", 0, n) == int(there)
        self.waiting.pop(n, None)
        self.away.pop(n, None)
        self.flows["deleted"] += there
        self.pump()
        self.balance()

    @rule(forget=st.sampled_from([0, 0, 1]), really=st.sampled_from([False, False, True]))
    def purge(self, forget: int, really: bool) -> None:
        if not really:
            return
        held = len(self.waiting) + len(self.away)
        had = self.run("purge", forget, "another")
        assert had == int(held > 0 or (forget == 1 and self.born))
        position = self.position if self.listening else 0
        if forget:
            self.begin()
            self.position = self.sure = position
        else:
            self.flows["purged"] += held
            self.waiting, self.away, self.shown, self.ending = {}, {}, {}, set()
            self.sure = self.position
        self.balance()

    @rule(policy=st.sampled_from(["broadcast", "roundrobin"]))
    def policy(self, policy: str) -> None:
        self.run("set", 0, "policy", policy)
        self.roundrobin = policy == "roundrobin"
        self.pump()
        self.balance()

    @rule(stop=st.booleans())
    def stop(self, stop: bool) -> None:
        self.run("set", 0, "stop", int(stop))
        self.stopped = stop
        self.pump()
        self.balance()

    def live(self, ready: int, count: int) -> None:
        """What an instance says of its consumers."""
        reply = self.run("live", 0, "A", ready, 0, count, 0, "", 0, 0, "broadcast", "", "epoch")
        self.listening, self.ready = count > 0, ready
        if not count:  # nobody else can have heard what is not sure
            for n, (value, at) in list(self.away.items()):
                if at:
                    self.waiting[n] = value
                    del self.away[n]
        assert reply[2] == self.added
        self.pump()
        self.balance()

    @rule(ready=st.integers(0, 2))
    def join(self, ready: int) -> None:
        self.live(ready, 2)

    @rule(really=st.sampled_from([False, True]))
    def leave(self, really: bool) -> None:
        if really and self.listening:
            self.live(0, 0)

    @rule()
    def confirm(self) -> None:
        epoch = self.link.hget("restmq:{q}:a", "ep")
        if epoch is None or not self.listening:
            return
        numbers = [n for n, (_, at) in self.away.items() if not at]
        self.run("confirm", 0, "A", epoch, self.position, *numbers)
        self.flows["delivered"] += len(self.away)
        self.away, self.sure = {}, self.position
        self.pump()
        self.balance()

    @rule()
    def reap(self) -> None:
        self.run("reap", 0, "A")
        for n, (value, _) in self.away.items():
            self.waiting[n] = value
        self.away, self.listening, self.ready = {}, False, 0
        self.pump()
        self.balance()


def test_every_verb_keeps_the_books_balanced(redis_server: Any) -> None:
    Books.link = redis.Redis(unix_socket_path=str(redis_server.socket), db=15)
    Books.link.flushall = Books.link.flushdb
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
