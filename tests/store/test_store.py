"""The functions on a real Redis against a plain model: after every step answers, messages, books and keys agree.

The clock is a key that the test sets: nothing sleeps. RESTMQ_EXAMPLES says how many
sequences of 50 steps are run; a failing one is shrunk and printed as the calls to make.
"""

from __future__ import annotations

import copy
import json
import os
import random
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from restmq.model.settings import DEFAULTS
from tests.support.model import Model
from tests.support.model_live import AWAY, DEAD, DELAYED, LEASED, WAITING, by_time
from tests.support.stored import BEGAN, KEY, LEDGER, Stored, Verbs, groups, triples
from tests.support.watched import NOTHING, SETTINGS, Watched

EXAMPLES = int(os.environ.get("RESTMQ_EXAMPLES", "60"))
VALUES = st.lists(st.sampled_from([b"", b"a", b"007", b"x" * 50, b"\xc3\xa9\r\n"]), min_size=1, max_size=5)
INSTANCES = st.sampled_from(["A", "B"])
RARELY = st.sampled_from([False] * 7 + [True])
AT_TIMES = st.sampled_from([False, False, True])
WAITS = st.sampled_from([1, 29, 30, 100, 101, 1000, 6000, 300_000])
CONFS = [
    {},
    {"history": 5, "history_bytes": 100},
    {"max_deliveries": 2, "backoff": "exp:100:400", "dead_ttl": 1000, "idle_ttl": 5000},
    {"max_deliveries": 1, "policy": "roundrobin"},
    {"policy": "roundrobin", "history": 0},
    {"max_length": 7, "max_bytes": 120, "overflow": "drop_oldest"},
]
LIMITS = st.sampled_from([None, None, 1 << 20, 60])


class Queue(Watched):
    """What may happen to a queue, in any order."""

    @initialize(
        conf=st.sampled_from(CONFS),
        looks=st.booleans(),
        turns=st.booleans(),
        listen=st.sampled_from(["", "", "A", "AB"]),
        line=st.sampled_from(["", "AB", "BBA"]),
        stopped=st.booleans(),
    )
    def begin(self, conf: dict[str, Any], looks: bool, turns: bool, listen: str, line: str, stopped: bool) -> None:
        """A policy, who listens and who waits from the start.

        Looking ends what is due: half of the sequences look after every step, half only at times.
        """
        self.looks = looks
        self.run = self.loaded(conf)
        bounded = bool(set(conf) - {"policy", "history", "history_bytes"})
        self.model = Model({**DEFAULTS, **conf}, bounded)
        self.time(BEGAN)
        self.least = (self.model.rule("history"), self.model.rule("history_bytes"))
        if turns:
            self.setting("policy", "roundrobin")
        for inst in listen:
            self.subscribe(inst)
            self.join_as(inst, (2, 128, 2), 0, NOTHING)
        for inst in line:
            self.getting("take", inst, 1, None, True)
        if line and stopped:
            assert self.run("flow", 1, 100, "pull") == self.model.flow(True, 100, ["pull"])

    # -- producing

    @rule(
        values=VALUES,
        ttl=st.sampled_from([None, None, 50, 1000]),
        delay=st.sampled_from([None, None, 30]),
        many=st.sampled_from([0, 0, 0, 300]),
    )
    def add(self, values: list[bytes], ttl: int | None, delay: int | None, many: int) -> None:
        """As the core merges adds: what has no room is told by its place."""
        self.adding([b"many"] * many or values, ttl, delay, {})

    @rule(values=VALUES)
    def add_plainly(self, values: list[bytes]) -> None:
        self.adding(values, None, None, {})

    @rule(
        values=VALUES,
        ttl=st.sampled_from([None, 50]),
        delay=st.sampled_from([None, 2000]),
        at=st.sampled_from([None, None, -30, 30]),
        key=st.integers(0, 4),
    )
    def add_all(self, values: list[bytes], ttl: int | None, delay: int | None, at: int | None, key: int) -> None:
        """All or none, and with a key once."""
        options: dict[str, Any] = {"all": 1}
        if at is not None:
            options["at"], delay = self.model.now + at, None
        if key:
            options.update(key=f"key{key % 2}", digest="abc"[len(values) % 3], window=600_000)
        self.adding(values, ttl, delay, options)

    # -- consuming

    @rule(most=st.sampled_from([1, 2, 10, 400]))
    def take(self, most: int) -> None:
        reply, told = self.both("take", [most, ""], lambda: self.model.take(most))
        if reply is not None:
            assert triples(reply) == [(e.number, e.shown, e.value) for e in told]

    @rule(inst=INSTANCES, most=st.sampled_from([1, 3, 400]), limit=LIMITS, waits=st.booleans())
    def take_many(self, inst: str, most: int, limit: int | None, waits: bool) -> None:
        """A GET that knows what it took, and may wait."""
        self.getting("take", inst, most, limit, waits)

    @rule(inst=INSTANCES, most=st.sampled_from([1, 3, 400]), limit=LIMITS, waits=st.booleans())
    def lease(self, inst: str, most: int, limit: int | None, waits: bool) -> None:
        self.getting("lease", inst, most, limit, waits)

    @precondition(lambda self: any(self.model.woken.values()))
    @rule(inst=INSTANCES, verb=st.sampled_from(["take", "lease"]))
    def answer_a_wake(self, inst: str, verb: str) -> None:
        if self.model.woken.get(inst):
            self.model.woken[inst] -= 1
            self.getting(verb, inst, 1, None, True, True)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), asked=st.sampled_from([1, 1, 2]))
    def untake(self, data: Any, asked: int) -> None:
        """Asked again, because the answer was lost, it changes nothing more."""
        if self.taken:
            element, epoch, value, how = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            word = next(self.epochs)
            replies = [self.run("untake", epoch, element.number, value, how, word) for _ in range(asked)]
            assert replies[0] == self.model.untake(element, epoch)

    @precondition(lambda self: self.model.line or any(self.model.woken.values()))
    @rule(inst=INSTANCES, data=st.data())
    def unwait(self, inst: str, data: Any) -> None:
        """Clients leave, of GETs that wait or were woken already."""
        model = self.model
        many = data.draw(st.integers(0, model.line.count(inst) + model.woken.get(inst, 0)))
        if many:
            reply, told = self.run("unwait", inst, many), model.unwait(inst, many)
            assert reply == told
            model.woken[inst] = model.woken.get(inst, 0) - told

    @rule()
    def get(self) -> None:
        reply, told = self.both("get", [], self.model.get)
        if reply is not None:
            assert [int(reply[0]), *reply[1:]] == told

    @rule(most=st.sampled_from([10, 50]))
    def newest(self, most: int) -> None:
        there = self.model.waiting[::-1]
        alive = [(e.number, e.shown, e.value) for e in there if not self.model.over(e)]
        reply = triples(self.run("newest", most))
        assert reply == alive[:most] if len(alive) == len(there) else set(reply) <= set(alive)

    @rule(back=st.integers(0, 12), data=st.data(), leased=st.booleans())
    def delete(self, back: int, data: Any, leased: bool) -> None:
        """With a lease and without, whatever state it is in."""
        if leased and (self.leases or self.model.those(LEASED) or self.model.those(AWAY)):
            lease = self.some_lease(data)
            assert self.run("del", *lease) == self.model.delete(lease[0], lease)
        else:
            number = max(1, self.model.added - back)
            assert self.run("del", number, "", "") == self.model.delete(number)

    # -- leases

    @precondition(lambda self: self.leases or self.model.those(AWAY))
    @rule(data=st.data(), many=st.integers(1, 3), twice=st.booleans())
    def ack(self, data: Any, many: int, twice: bool) -> None:
        leases = [self.some_lease(data) for _ in range(many)]
        leases += leases[: int(twice)]
        told = self.model.ack(leases)
        assert self.run("ack", *(word for lease in leases for word in lease)) == told
        assert not twice or not told[-1], "what is acknowledged is gone"

    @precondition(lambda self: self.leases or self.model.those(AWAY))
    @rule(
        data=st.data(),
        many=st.integers(1, 2),
        delay=st.sampled_from(["", "", 0, 30, 5000, "dead", "@30", "@-30"]),
        failed=st.booleans(),
        reason=st.sampled_from(["", "it broke"]),
        whichever=RARELY,
    )
    def nack(self, data: Any, many: int, delay: Any, failed: bool, reason: str, whichever: bool) -> None:
        leases = [self.some_lease(data) for _ in range(many)]
        leases = [(lease[0], "", "") if whichever else lease for lease in leases]
        meant = None if delay == "" else delay
        if str(delay)[:1] == "@":  # a time, not how long
            meant, delay = max(0, int(delay[1:])), f"@{self.model.now + int(delay[1:])}"
        words = [word for lease in leases for word in (*lease, delay, int(failed), reason)]
        told = self.model.nack([(lease, meant, failed, reason) for lease in leases])
        assert self.run("nack", *words) == told

    @rule(inst=INSTANCES, values=VALUES, most=st.sampled_from([1, 3]), kicked=st.booleans())
    def add_and_work_in_vain(self, inst: str, values: list[bytes], most: int, kicked: bool) -> None:
        """Elements that are leased, the worker fails, and those that died of it get another chance."""
        self.adding(values, None, None, {})
        before = len(self.leases)
        self.getting("lease", inst, most, None, False)
        for lease in self.leases[before:]:
            told = self.model.nack([(lease, None, True, "it fails")])
            assert self.run("nack", *lease, "", 1, "it fails") == told
        if kicked and self.model.those(DEAD):
            assert list(map(int, self.run("kick", 1))) == self.model.kick(1, [])

    @precondition(lambda self: self.leases or self.model.those(AWAY))
    @rule(data=st.data(), ms=st.sampled_from([30, 100, 2000]), whichever=RARELY)
    def touch(self, data: Any, ms: int, whichever: bool) -> None:
        lease = self.some_lease(data)
        lease = (lease[0], "", "") if whichever else lease
        *told, epoch = [*self.run("touch", *lease, ms), b""][:3]
        assert [*told, epoch.decode()][: len(told) + bool(epoch)] == self.model.touch(lease, ms)

    @precondition(lambda self: self.model.those(DEAD))
    @rule(many=st.integers(0, 2), data=st.data())
    def kick(self, many: int, data: Any) -> None:
        some = st.sampled_from([*(e.number for e in self.model.those(DEAD)), 1, self.model.added + 1])
        numbers = [] if many else data.draw(st.lists(some, min_size=1, max_size=3))
        reply = self.run("kick", many, *numbers)
        assert list(map(int, reply)) == self.model.kick(many, numbers)

    @precondition(lambda self: self.model.those(DEAD))
    @rule(really=RARELY)
    def bury(self, really: bool) -> None:
        if really:
            assert self.run("bury") == self.model.bury()

    # -- the whole queue

    @rule(really=RARELY)
    def purge(self, really: bool) -> None:
        if really:
            assert self.run("purge", 0, next(self.epochs)) == self.model.purge()

    @rule(really=RARELY)
    def forget(self, really: bool) -> None:
        if really:
            epoch = next(self.epochs)
            assert self.run("purge", 1, epoch) == self.model.forget(epoch)
            self.least = (0, 0)

    @rule(name=st.sampled_from(sorted(SETTINGS)), data=st.data())
    def set(self, name: str, data: Any) -> None:
        self.setting(name, data.draw(st.sampled_from(SETTINGS[name])))

    @rule(
        stop=st.booleans(),
        ms=st.sampled_from([0, 0, 100, 2000]),
        scopes=st.lists(st.sampled_from(["live", "pull", "add"]), min_size=1, max_size=3, unique=True),
    )
    def flow(self, stop: bool, ms: int, scopes: list[str]) -> None:
        assert self.run("flow", int(stop), ms, *scopes) == self.model.flow(stop, ms, scopes)

    @rule(ms=WAITS, swept=st.booleans())
    def tick(self, ms: int, swept: bool) -> None:
        """Time goes on; somebody sweeps at once, or not yet."""
        self.time(self.model.now + ms)
        if swept:
            self.sweep(False)

    @rule(quiet=RARELY)
    def sweep(self, quiet: bool) -> None:
        epoch, held = next(self.epochs), 5000 if quiet else 0
        due, forgotten = self.run("sweep", held, epoch)
        assert [due if due != b"" else "", forgotten] == self.model.sweep(held, epoch)
        if forgotten:
            self.least = (0, 0)

    # -- looking

    @rule()
    def look(self) -> None:
        reply, model = self.run("look"), self.model
        books = dict(zip(LEDGER, reply))
        assert books == model.look()
        assert 2 * books["added"] == sum(books[name] for name in LEDGER[:-1])
        listening = sum(count for _, _, count in model.consumers.values())
        told = [not model.stopped, model.roundrobin, model.born, listening, model.position, len(model.line)]
        assert reply[13:] == [int(word) for word in told]

    @rule(
        state=st.sampled_from([WAITING, LEASED, DELAYED, DEAD, "one", "way"]),
        most=st.sampled_from([1, 3, 500]),
        data=st.data(),
    )
    def peek(self, state: str, most: int, data: Any) -> None:
        model = self.model
        after = data.draw(st.sampled_from([0, *sorted(model.elements)[:20], model.added + 1]))
        found = {
            WAITING: [e for e in model.waiting if e.number > after][:most],
            DEAD: [e for e in model.those(DEAD) if e.number > after][:most],
            DELAYED: by_time(model.those(DELAYED), "until"),
            LEASED: by_time(model.those(LEASED), "until"),
            "one": [e for e in [model.elements.get(after)] if e],
            "way": model.those(AWAY),
        }[state]
        unknown = False
        if state in (DELAYED, LEASED):
            numbers = [e.number for e in found]
            unknown = after != 0 and after not in numbers
            found = found[numbers.index(after) + 1 if after and not unknown else 0 :][:most]
        there = [e for e in found if not model.over(e)]
        asked = [*(e.number for e in found), model.added + 1] if state == "way" else []
        reply = self.run("peek", state, after, most, *asked)
        if unknown:
            assert reply == ([b"?"] if self.link.exists(KEY + "m") else [])
            return
        said = [
            (int(N), name.decode(), value, int(D), int(C), int(age), int(left or -1), errors.decode().split("\n")[1:])
            for N, name, value, D, C, age, left, errors in groups(reply, 8)
        ]
        assert said == [
            (
                e.number,
                LEASED if e.state == AWAY else e.state,
                e.value,
                e.handed,
                e.shown,
                max(0, model.now - e.added),
                max(0, ends - model.now) if (ends := e.until if e.state in (LEASED, DELAYED) else e.ends) else -1,
                e.errors,
            )
            for e in there
        ]

    @rule(
        what=st.sampled_from(["after", "key", "last", "ago", "all", "now"]),
        which=st.sampled_from([0, 1, 2, 5, 29, 1000]),
        most=st.sampled_from([0, 1, 500]),
    )
    def replay(self, what: str, which: int, most: int) -> None:
        model, stored = self.model, Stored(self.link)
        floor = stored.state["floor"]
        kept = {at: entry for at, entry in sorted(stored.history.items()) if at > floor}
        epoch = next(self.epochs)
        came, now, gap, start, to, *told = self.run("replay", what, which, most, epoch)
        model.epoch = model.epoch or epoch
        assert (came.decode(), now, gap) == (model.epoch, model.position, floor)
        model.end()
        recent = [at for at, entry in kept.items() if entry[2] >= model.now - which]
        places = [at for at, entry in kept.items() if entry[0] == which]
        if what == "ago":
            assert [at for at in kept if at > start] == recent
            assert start >= floor or recent == list(kept), "what is not kept may have been of that time"
        else:
            assert (
                start
                == {
                    "after": which,
                    "key": places[-1] if places else 0,
                    "last": max(0, now - which),
                    "all": floor,
                    "now": now,
                }[what]
            )
        page = {at: stored.history[at] for at in [at for at in stored.history if at > start][:most]}
        alive = {at: entry for at, entry in page.items() if not 0 < entry[3] <= model.now}
        assert [(int(at), int(N), value) for at, N, value in groups(told, 3)] == [
            (at, entry[0], entry[1]) for at, entry in alive.items()
        ]
        assert to == (max(page) if page else max(start, now))

    # -- the instances

    @rule(inst=INSTANCES, count=st.integers(1, 3), full=st.integers(0, 3), stuck=st.integers(0, 3), data=st.data())
    def join(self, inst: str, count: int, full: int, stuck: int, data: Any) -> None:
        """Its first consumer, or one more, or fewer of them ready."""
        self.subscribe(inst)
        ready = max(0, count - full)
        room = data.draw(st.sampled_from([64 * ready, 2 * ready])) + (stuck if full else 0)
        self.live(inst, (ready, room, count), data, NOTHING)

    @rule(inst=INSTANCES, data=st.data())
    def leave(self, inst: str, data: Any) -> None:
        self.live(inst, (0, 0, 0), data, NOTHING)

    def live(self, inst: str, numbers: tuple[int, int, int], data: Any, known: Any) -> None:
        model = self.model
        confirmed = data.draw(st.integers(model.sure, model.position))
        deaf = data.draw(st.sampled_from([0, 0, 0, confirmed, model.position]))
        if known is NOTHING and data.draw(st.booleans()):  # as instances do that know the queue
            known = (model.epoch, *NOTHING[1:])
        self.join_as(inst, numbers, confirmed, known, deaf)

    @precondition(lambda self: self.model.those(AWAY))
    @rule(
        inst=INSTANCES,
        data=st.data(),
        beyond=st.sampled_from([0, 0, 1]),
        stale=st.sampled_from([0, 0, 0, 1]),
        drained=st.sampled_from([None, None, 0, 1, 3]),
    )
    def confirm(self, inst: str, data: Any, beyond: int, stale: int, drained: int | None) -> None:
        """Some are written to a socket, some are leased by a consumer; other consumers are ready than before."""
        model = self.model
        position = data.draw(st.integers(model.sure, model.position)) + beyond
        held = [element.number for element in model.those(AWAY, inst)]
        numbers = held[: data.draw(st.sampled_from([0, 1, len(held)]))] + [model.added + 1] * beyond
        others = [N for N in held if N not in numbers]
        other = "B" if inst == "A" else "A"
        others += [element.number for element in model.those(AWAY, other)][:beyond]
        leased = [(N, 100) for N in others[: data.draw(st.sampled_from([0, 2, len(others)]))]]
        listening = model.consumers.get(inst, (0, 0, 0))
        if drained is not None:
            listening = (drained, 2 * drained, 3)
        out = data.draw(st.sampled_from([0, 0, position, model.position + beyond]))
        told = "%d %d %d" % listening + f" {out}" * (out > 0)
        words = [position, told, len(numbers), *numbers, *(word for pair in leased for word in pair)]
        if stale:
            assert self.run("confirm", inst, "another epoch", *words) == -1
            assert self.run("give_back", inst, "another epoch", *numbers) == 0
            return
        reply = self.run("confirm", inst, model.epoch, *words)
        assert reply == model.confirm(inst, position, listening, numbers, leased, out)
        given = [N for N, _ in leased[:3] if N in held and N in model.elements]  # those of the other are not
        self.leases += [(N, model.elements[N].handed, model.epoch) for N in given]

    @precondition(lambda self: self.model.those(AWAY))
    @rule(inst=INSTANCES, other=INSTANCES, few=st.booleans())
    def back(self, inst: str, other: str, few: bool) -> None:
        """What an instance holds; what is another's is refused."""
        model = self.model
        numbers = [element.number for element in model.those(AWAY, other)]
        numbers = numbers[: 2 if few else None]
        if numbers:
            assert self.run("give_back", inst, model.epoch, *numbers) == model.back(inst, numbers)

    @rule(inst=INSTANCES, on=st.booleans())
    def tap(self, inst: str, on: bool) -> None:
        """It sees what is added, and takes nothing."""
        ear, model = self.ears[inst], self.model
        assert self.run("tap", inst, int(on)) == 1
        model.tap(inst, on)
        if on != (inst in model.tapping):
            (ear.messages.subscribe if on else ear.messages.unsubscribe)(ear.taps)
            ear.heard()
            (model.tapping.add if on else model.tapping.discard)(inst)

    @rule(inst=INSTANCES, really=AT_TIMES)
    def vanish(self, inst: str, really: bool) -> None:
        """Its subscriptions are gone; it may join again, or be reaped."""
        if not really:
            return
        ear = self.ears[inst]
        ear.messages.unsubscribe(*ear.channels, ear.taps)
        ear.heard()
        self.model.subscribed.discard(inst)
        self.model.tapping.discard(inst)

    @rule(inst=INSTANCES, really=AT_TIMES)
    def reap(self, inst: str, really: bool) -> None:
        if really:
            assert self.run("reap", inst) == 0
            self.model.reap(inst)

    # -- Redis loses data

    @rule()
    def save(self) -> None:
        """What Redis may come back with."""
        keys = [key for key in self.link.keys("*") if key != b"clock"]
        self.snapshot = (copy.deepcopy(self.model), {key: self.link.dump(key) for key in keys})

    @rule(
        really=RARELY,
        all=st.booleans(),
        notice=st.sampled_from(["seen", "join", "twice", "nobody"]),
        inst=INSTANCES,
        data=st.data(),
    )
    def lose(self, really: bool, all: bool, notice: str, inst: str, data: Any) -> None:
        """It comes back with what was saved, or with nothing; an instance that knew more may notice."""
        if not really:
            return
        before = self.model
        self.link.flushdb()
        self.model = Model(before.conf, before.bounded)
        if not all and self.snapshot is not None:
            self.model = copy.deepcopy(self.snapshot[0])
            for key, dumped in self.snapshot[1].items():
                self.link.restore(key, 0, dumped)
        self.model.subscribed, self.model.tapping = before.subscribed, before.tapping
        self.model.sent = {}
        self.time(before.now)
        self.handed = {}
        self.least = (0, 0)
        known = (before.epoch, before.added, before.position, before.settings_told(), all or self.snapshot is None)
        if notice == "join":
            self.subscribe(inst)
            self.live(inst, (1, 64, 1), data, known)
        elif notice != "nobody":
            for _ in range(2 if notice == "twice" else 1):
                self.seen(known)
        if self.model.epoch == before.epoch:  # nobody could know of what was lost, and leases were
            self.leases = []

    @rule(really=RARELY)
    def nothing_was_lost(self, really: bool) -> None:
        model = self.model
        if really:
            self.seen((model.epoch, model.added, model.position, model.settings_told(), False))


@pytest.mark.timeout(600 + EXAMPLES)  # a failing sequence takes a while to shrink
def test_every_verb_does_what_the_model_does(link: Any, pytestconfig: pytest.Config) -> None:
    Queue.link, Queue.all_loaded = link, {}
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


def two_that_wait(link: Any) -> Queue:
    """A GET at A, then one at B."""
    Queue.link, Queue.all_loaded = link, {}
    queue = Queue()
    for inst in "AB":
        queue.getting("take", inst, 1, None, True)
    queue.all_is_well()
    return queue


def test_what_a_woken_instance_did_not_take_before_it_died_wakes_the_next(link: Any) -> None:
    queue = two_that_wait(link)
    queue.adding([b"a"], None, None, {})
    assert queue.model.woken == {"A": 1}
    queue.reap(inst="A", really=True)
    assert queue.model.woken == {"B": 1}
    queue.all_is_well()
    queue.teardown()


def test_a_get_of_an_instance_that_does_not_listen_is_passed_over(link: Any) -> None:
    queue = two_that_wait(link)
    queue.vanish(inst="A", really=True)
    queue.adding([b"a"], None, None, {})
    assert queue.model.woken == {"B": 1}
    queue.all_is_well()
    queue.teardown()


def fresh(link: Any) -> Queue:
    """A queue nobody has used."""
    Queue.link, Queue.all_loaded = link, {}
    return Queue()


def on_its_way(link: Any) -> Queue:
    """An element that is on its way to a round-robin consumer of A, and nothing that is due."""
    queue = fresh(link)
    queue.setting("policy", "roundrobin")
    queue.subscribe("A")
    queue.join_as("A", (1, 64, 1), 0, NOTHING)
    queue.adding([b"a"], None, None, {})
    queue.all_is_well()
    assert (queue.model.elements[1].state, queue.run.state()["due"]) == (AWAY, 0)
    return queue


def test_what_is_touched_on_its_way_comes_back_when_that_lease_ends(link: Any) -> None:
    queue = on_its_way(link)
    epoch = queue.model.epoch
    assert queue.run("touch", 1, 1, epoch, 100) == [1, 1, epoch.encode()]
    assert queue.model.touch((1, 1, epoch), 100) == [1, 1, epoch]
    queue.all_is_well()
    assert queue.run.state()["due"] == BEGAN + 100
    queue.tick(100, True)
    queue.all_is_well()
    assert queue.model.elements[1].handed == 2, "it was handed out again"
    queue.teardown()


@pytest.mark.parametrize("how", ["ack", "del", "nack", "by key", "leased"])
def test_what_leaves_on_its_way_is_told_to_the_instance_that_it_was_going_to(link: Any, how: str) -> None:
    queue = on_its_way(link)
    lease = (1, 1, queue.model.epoch)
    if how == "leased":
        words = ["A", queue.model.epoch, 0, "1 64 1", 0, 1, 100]
        assert queue.run("confirm", *words) == queue.model.confirm("A", 0, (1, 64, 1), [], [(1, 100)]) == 100
        assert queue.model.elements[1].state == LEASED
    if how == "ack":
        assert queue.run("ack", *lease) == queue.model.ack([lease]) == [1]
    elif how == "del":
        assert queue.run("del", *lease) == queue.model.delete(1, lease) == 1
    elif how == "nack":
        told = queue.model.nack([(lease, 5000, True, "it broke")])
        assert queue.run("nack", *lease, 5000, 1, "it broke") == told == [1, 5000]
    else:
        assert queue.run("del", 1, "", "") == queue.model.delete(1) == 1
    assert queue.model.sent["A"][-1] == ("A", queue.model.epoch, [1])
    queue.all_is_well()
    assert queue.run("give_back", "A", queue.model.epoch, 1) == queue.model.back("A", [1]) == 0
    queue.all_is_well()
    queue.teardown()


@pytest.mark.parametrize("how", ["swept", "acked", "nacked", "deleted", "leased", "purged", "forgotten", "reaped"])
def test_what_was_on_its_way_in_a_life_that_redis_lost_is_there_once(link: Any, how: str) -> None:
    queue = on_its_way(link)
    known = (queue.model.epoch, 7, 0, queue.model.settings_told(), False)
    queue.seen(known)
    queue.all_is_well()
    epoch = queue.model.epoch
    assert (epoch != known[0], queue.model.lost) == (True, [f"lost:{epoch}:A"])
    lease = (1, 1, epoch)
    if how == "acked":  # nobody has that lease, but a consumer of A whose instance told too late might
        assert queue.run("ack", *lease) == queue.model.ack([lease]) == [1]
    elif how == "nacked":
        assert queue.run("nack", *lease, "", 0, "")[:1] == queue.model.nack([(lease, None, False, "")])[:1] == [1]
        assert queue.model.elements[1].handed == 2, "it was dealt anew"
    elif how == "deleted":
        assert queue.run("del", 1, "", "") == queue.model.delete(1) == 1
    elif how == "leased":
        words = ["A", epoch, 0, "1 64 1", 0, 1, 100]
        assert queue.run("confirm", *words) == queue.model.confirm("A", 0, (1, 64, 1), [], [(1, 100)])
    elif how == "reaped":
        queue.reap(inst="A", really=True)
    elif how != "swept":
        forget = int(how == "forgotten")
        assert queue.run("purge", forget, "third") == (queue.model.forget("third") if forget else queue.model.purge())
    queue.all_is_well()
    queue.sweep(False)
    queue.all_is_well()
    assert not link.keys(KEY + "lost*")
    handed = {"swept": 2, "nacked": 2, "leased": 1, "reaped": 1}.get(how)
    assert [element.handed for element in queue.model.elements.values()] == ([handed] if handed else [])
    queue.teardown()


@pytest.mark.parametrize("heard", [False, True])
def test_nothing_is_left_of_a_forgotten_queue_when_who_waited_has_gone(link: Any, heard: bool) -> None:
    queue = fresh(link)
    if heard:  # what was broadcast moved its position
        queue.subscribe("A")
        queue.join_as("A", (1, 64, 1), 0, NOTHING)
        queue.adding([b"heard"], None, None, {})
        queue.join_as("A", (0, 0, 0), 1, (queue.model.epoch, *NOTHING[1:]))
        assert queue.model.position == 1
    for inst in "AB":
        queue.getting("take", inst, 1, None, True)
    queue.forget(True)
    queue.all_is_well()
    for inst in "AB":
        assert link.exists(KEY + "a")
        assert queue.run("unwait", inst, 1) == queue.model.unwait(inst, 1) == 0
        queue.all_is_well()
    assert not link.keys(KEY + "*")
    queue.teardown()


def test_what_was_delayed_does_not_overtake_an_older_one(link: Any) -> None:
    """It waits in another place than those that were never handed out, and is younger than one of them."""
    queue = fresh(link)
    queue.adding([b"old"], None, None, {})
    queue.adding([b"delayed"], None, 30, {})
    queue.adding([b"young"], None, None, {})
    queue.tick(30, True)
    for value in (b"old", b"delayed", b"young"):
        assert queue.run("take", 1, "")[2] == value == queue.model.take(1)[0].value
        queue.all_is_well()
    queue.teardown()


@pytest.mark.parametrize("later", ["young", "old"])
@pytest.mark.parametrize("how", ["take", "lease", "get", "live"])
def test_nothing_overtakes_because_what_was_before_it_has_ended(link: Any, how: str, later: str) -> None:
    """Two were delayed and one not, or the other way round; the first has ended, and nobody swept."""
    queue = fresh(link)
    ends, old, young = (30, 30, None) if later == "young" else (None, None, 30)
    queue.adding([b"ends"], 50, ends, {})
    queue.adding([b"old"], None, old, {})
    queue.adding([b"young"], None, young, {})
    queue.setting("policy", "roundrobin")
    queue.tick(30, True)
    queue.tick(30, False)
    queue.all_is_well()
    for number, value in (2, b"old"), (3, b"young"):
        if how == "take":
            assert queue.run("take", 1, "")[2] == value == queue.model.take(1)[0].value
        elif how == "lease":
            assert queue.run("lease", 1, 1000, "")[3] == value == queue.model.lease(1, 1000)[0].value
        elif how == "get":
            assert queue.run("get")[2] == value == queue.model.get()[2]
            assert queue.run("take", 1, "")[2] == value == queue.model.take(1)[0].value
        else:
            queue.subscribe("A")
            queue.join_as("A", (1, number - 1, 1), 0, NOTHING)
            queue.sweep(False)
            assert [element.number for element in queue.model.those(AWAY)] == [2, 3][: number - 1]
        queue.all_is_well()
    queue.teardown()


def test_idempotency_keys_are_kept_for_their_window_and_not_much_longer(link: Any) -> None:
    run, now = Verbs(link), BEGAN

    def add(key: str, ms: int, digest: str = "same") -> list[Any]:
        link.set("clock", now + ms)
        words = json.dumps({"all": 1, "key": key, "digest": digest, "window": 1000})
        reply: list[Any] = run("add", now + ms, words, "epoch", b"v")
        return reply

    def kept() -> tuple[set[bytes], set[bytes]]:
        return set(link.hkeys(KEY + "k0")), set(link.hkeys(KEY + "k1"))

    assert add("one", 0) == [1, 1, 0, 1]
    assert add("two", 900) == [2, 0, 0, 1]
    assert kept() == ({b"one", b"two"}, set())
    assert add("three", 1001) == [3, 0, 0, 1]
    assert kept() == ({b"three"}, {b"one", b"two"}), "a new generation begins"
    assert add("two", 1800) == [2, 0, 1, 1], "the older one still answers"
    with pytest.raises(redis.ResponseError, match="CONFLICT"):
        add("two", 1800, "another")
    assert add("one", 1800) == [4, 0, 0, 1], "its window is over"
    assert add("one", 1801) == [4, 0, 1, 1], "and the newer one is asked first"
    assert add("four", 2100) == [5, 0, 0, 1]
    assert kept() == ({b"four"}, {b"three", b"one"}), "the oldest is gone"
    assert add("three", 2001) == [3, 0, 1, 1]


def test_what_is_brought_back_after_a_purge_stays_away(link: Any) -> None:
    queue = fresh(link)
    queue.adding([b"a", b"b"], None, None, {})
    queue.getting("take", "A", 1, None, False)
    assert queue.run("purge", 0, "never") == queue.model.purge() == 1
    queue.adding([b"c"], None, None, {})
    queue.getting("take", "A", 1, None, False)
    for element, epoch, value, how in queue.taken:
        reply = queue.run("untake", epoch, element.number, value, how, element.number)
        assert reply == queue.model.untake(element, epoch) == 1
        queue.all_is_well()
    books = queue.run.books()
    assert (books["waiting"], books["purged"], books["taken"]) == (1, 2, 0)
    assert queue.run("take", 1, "")[2] == b"c"
    queue.teardown()


def test_a_tap_keeps_an_idle_queue(link: Any) -> None:
    queue = fresh(link)
    queue.setting("idle_ttl", "1000")
    queue.adding([b"a"], None, None, {})
    assert len(queue.run("take", 1, "")) == 3
    queue.model.take(1)
    queue.tap("A", True)
    for _ in range(3):
        queue.tick(2000, True)
        queue.all_is_well()
    assert queue.model.born
    queue.tap("A", False)
    queue.tick(2000, True)
    queue.all_is_well()
    assert not queue.model.born and not link.exists(KEY + "m")
    queue.teardown()


@pytest.mark.parametrize("scope", ["live", "pull", "add"])
def test_a_start_of_what_was_not_stopped_leaves_the_short_way_open(link: Any, scope: str) -> None:
    queue = fresh(link)
    queue.adding([b"a"], None, None, {})
    assert queue.run("flow", 0, 0, scope) == queue.model.flow(False, 0, [scope])
    queue.all_is_well()
    assert not Stored(link).flags["ruled"]
    queue.teardown()


@pytest.mark.parametrize("ruling", ["tap", "dead tap", "setting", "stop", "stop that ends"])
def test_what_ruled_a_queue_and_is_gone_leaves_the_short_way_open(link: Any, ruling: str) -> None:
    queue = fresh(link)
    queue.adding([b"a"], None, None, {})
    if "tap" in ruling:
        queue.tap("A", True)
    elif ruling == "setting":
        queue.setting("history", "5")
    else:
        queue.flow(True, 100 if "ends" in ruling else 0, ["add"])
    queue.all_is_well()
    assert Stored(link).flags["ruled"]
    if ruling == "tap":
        queue.tap("A", False)
    elif ruling == "dead tap":
        assert queue.run("reap", "A", "1") == 0
        queue.model.reap("A")
    elif ruling == "setting":
        queue.setting("history", "")
    elif ruling == "stop":
        queue.flow(False, 0, ["add"])
    else:
        queue.tick(200, True)
    queue.all_is_well()
    assert not Stored(link).flags["ruled"]
    queue.teardown()


def test_a_tap_of_a_queue_that_never_was_leaves_no_key(link: Any) -> None:
    queue = fresh(link)
    queue.tap("A", True)
    queue.tap("A", False)
    queue.all_is_well()
    assert link.keys(KEY + "*") == []
    queue.teardown()
