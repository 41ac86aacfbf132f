"""A queue in Redis and the model of it, side by side: how a verb is called on both, and what holds after every step.

Owns no rule: test_store.py says what may happen.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from restmq.model.settings import DEFAULTS
from tests.support.model import Lease, Model, Stopped
from tests.support.model_live import AWAY, BROADCAST, CHUNK, DEAD, DELAYED, LEASED, WAITING, WINDOW
from tests.support.stored import BEGAN, LEDGER, Ear, Stored, Verbs, groups

MOST = 700  # elements in a queue: any script ends within one call
SETTINGS = {
    "policy": ["broadcast", "roundrobin"],
    "history": ["", "3", "0"],
    "history_bytes": ["", "60", "0"],
    "max_deliveries": ["", "1", "2"],
    "backoff": ["", "fixed:1000", "exp:100:300"],
    "dead_ttl": ["", "500"],
    "max_length": ["", "0", "5", "20"],
    "max_bytes": ["", "30", "200"],
    "overflow": ["", "refuse", "drop_oldest"],
    "idle_ttl": ["", "0", "2000"],
}
NOTHING: tuple[str, int, int, dict[str, str], bool] = ("", 0, 0, {}, False)  # what an instance knew that comes anew


class Watched(RuleBasedStateMachine):
    """One queue, two instances that may listen to it, and the model of it: all that holds after every step."""

    link: Any
    all_loaded: ClassVar[dict[str, Verbs]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.link.flushdb()
        self.ears = {inst: Ear(self.link, inst) for inst in ("A", "B")}
        self.epochs = (f"epoch{count}" for count in range(10_000))
        self.run = self.loaded({})
        self.model = Model(dict(DEFAULTS))
        self.beyond: set[int] = set()  # positions that history was too small for at some time
        self.leases: list[tuple[int, int, str]] = []  # ever given, whether they hold or not
        self.taken: list[tuple[Any, str, bytes, bytes]] = []  # for GETs whose clients left
        self.handed: dict[tuple[str, int], int] = {}
        self.snapshot: tuple[Model, dict[bytes, bytes]] | None = None
        self.least = (0, 0)
        self.looks = False
        self.time(BEGAN)

    def teardown(self) -> None:
        for ear in self.ears.values():
            ear.messages.close()

    def loaded(self, conf: dict[str, Any]) -> Verbs:
        if str(conf) not in self.all_loaded:
            self.all_loaded[str(conf)] = Verbs(self.link, conf)
        return self.all_loaded[str(conf)]

    def time(self, now: int) -> None:
        self.model.now = now
        self.link.set("clock", now)

    def both(self, verb: str, words: list[Any], call: Any) -> Any:
        """A function and what the model answers: a refusal must be the same, else the caller compares."""
        try:
            told, refusal = call(), ""
        except Stopped as stopped:
            refusal = str(stopped)
        if not refusal:
            return self.run(verb, *words), told
        with pytest.raises(redis.ResponseError) as refused:
            self.run(verb, *words)
        assert str(refused.value) == refusal
        return None, None

    def look(self) -> None:
        """Ask for the books; what drives this says how."""
        raise NotImplementedError

    # -- what holds after every step

    @invariant()
    def all_is_well(self) -> None:
        if self.looks:
            self.look()
        self.what_was_published_is_what_was_handed_over()
        stored = Stored(self.link)
        self.every_element_stands_where_it_must(stored)
        self.the_state_is_the_model_s(stored)
        self.history_keeps_what_it_must_and_not_much_more(stored)
        self.nothing_that_is_due_is_missed(stored)
        self.a_get_that_waits_is_not_forgotten()
        self.hand_outs_are_counted_up()

    def what_was_published_is_what_was_handed_over(self) -> None:
        for inst, ear in self.ears.items():
            assert ear.heard() == self.model.sent.pop(inst, [])

    def every_element_stands_where_it_must(self, stored: Stored) -> None:
        model = self.model
        elements = model.elements.items()
        assert {**stored.plain, **stored.kept} == {N: (e.value, e.added) for N, e in elements}
        assert not set(stored.plain) & set(stored.kept)
        assert set(stored.back) == {N for N, e in elements if e.state == WAITING and e.again}
        assert stored.way == {N: (e.owner, e.handed) for N, e in elements if e.state == AWAY}
        assert stored.unsure == {N: e.position for N, e in elements if e.owner == BROADCAST}
        assert stored.leased == {N: e.until for N, e in elements if e.state == LEASED}
        assert stored.delayed == {N: e.until for N, e in elements if e.state == DELAYED}
        assert set(stored.dead) == {N for N, e in elements if e.state == DEAD}
        assert stored.ttl == {N: e.ends for N, e in elements if e.ends}
        assert stored.own == {N: e.own for N, e in elements if e.own >= 0}
        assert stored.tries == {
            N: tries
            for N, e in elements
            for owner in [e.owner if e.state == LEASED and e.owner else "-"]
            for tries in [(e.handed - (e.state == AWAY), e.shown, e.failed, owner, e.errors)]
            if tries != (0, 0, 0, "-", [])
        }
        places = [set(stored.back), set(stored.way), set(stored.leased), set(stored.delayed), set(stored.dead)]
        places.append({N for N in stored.plain if stored.state["c"] < N} - set(stored.back))
        assert sum(map(len, places)) == len(elements) == len(set().union(*places)), "each in one state"

    def the_state_is_the_model_s(self, stored: Stored) -> None:
        model = self.model
        books, state = model.books(), stored.state
        assert (state["n"], books["added"]) == (model.added, sum(books[name] for name in LEDGER[1:-1]))
        assert int(stored.notes.get("passed", 0)) == model.passed
        assert (int(stored.notes.get("sv", 0)), stored.notes.get("ex", "")) == (model.version, model.former)
        for name in ("bytes", "taken", "delivered", "acked"):
            assert state[name] == books[name], name
        for name in ("deleted", "expired", "purged", "dropped"):
            assert int(stored.notes.get(name, 0)) == books[name], name
        assert int(stored.notes.get("gb", 0)) == sum(len(e.value) for e in model.those(DEAD))
        told = (model.cursor, model.position, model.sure, model.best, model.left, model.due)
        assert tuple(state[name] for name in ("c", "pos", "sure", "best", "left", "due")) == told
        for name in ("born", "waits", "live", "roundrobin", "stopped", "ruled"):
            assert stored.flags.get(name, model.conf["policy"] == name) == getattr(model, name), name
        assert {name: text for name, text in stored.notes.items() if name in SETTINGS} == model.own
        assert stored.notes.get("ep", "") == model.epoch
        assert (stored.stops, stored.ring, stored.line) == (model.stops, model.ring, model.line)
        assert (stored.since, stored.consumers) == (model.since, model.consumers)
        assert stored.taps == model.taps
        for inst, way in stored.ways.items():
            assert way == {e.number for e in model.those(AWAY, inst) if not e.lost}
        assert stored.lost == {name: {e.number for e in model.those(AWAY) if e.lost == name} for name in model.lost}
        assert stored.holders >= {inst for inst, way in stored.ways.items() if way}
        assert stored.flags.get("slow") or not (
            stored.back or stored.kept or stored.tries or stored.way or stored.ttl or stored.leased or stored.dead
        ), "the hot path must know"

    def history_keeps_what_it_must_and_not_much_more(self, stored: Stored) -> None:
        model = self.model
        floor, most, size = stored.state["floor"], *self.least
        if not model.position:  # its life was over
            self.beyond.clear()
        kept, held = {}, 0
        for at in sorted(model.history, reverse=True):
            entry = model.history[at]
            held += len(entry[1])
            if at <= model.position - most or held > size or not size:
                self.beyond.add(at)  # it may be cut now, and does not come back if what came after it is taken back
            if at > floor or at > model.sure or at not in self.beyond:
                kept[at] = entry
        assert {at: stored.history.get(at) for at in kept} == kept
        assert all(model.history[at] == entry for at, entry in stored.history.items() if at > floor)
        assert floor >= model.floor
        most = int(self.model.conf["history"])
        assert len(stored.history) <= most * 1.125 + 8 + WINDOW + CHUNK, "trimmed at the next broadcast"

    def nothing_that_is_due_is_missed(self, stored: Stored) -> None:
        model = self.model
        times = [e.ends for e in model.elements.values() if e.ends]
        times += [e.until for e in model.elements.values() if e.state == DELAYED]
        times += [till for till in model.stops.values() if till]
        state = stored.state
        assert not times or 0 < state["due"] <= min(times)
        ends = [e.until for e in model.those(LEASED)]
        assert not ends or 0 < state["due"] <= max(min(ends), model.now + 5000)
        assert not model.lost or 0 < state["due"] <= model.now
        idle = model.rule("idle_ttl") if model.ruled and model.born else 0
        assert not idle or 0 < state["due"] <= model.now + idle

    def a_get_that_waits_is_not_forgotten(self) -> None:
        model = self.model
        there = [element for element in model.waiting if not model.over(element)]
        due = 0 < model.due <= model.now
        assert not model.line or model.halted("pull") is not None or due or sum(model.woken.values()) >= len(there)

    def hand_outs_are_counted_up(self) -> None:
        for N, element in self.model.elements.items():
            assert element.handed >= self.handed.get((self.model.epoch, N), 0)
            self.handed[self.model.epoch, N] = element.handed

    # -- a verb on both

    def adding(self, values: list[bytes], ttl: int | None, delay: int | None, options: dict[str, Any]) -> None:
        if len(self.model.elements) + len(values) > MOST:
            return
        if ttl or delay:
            values = values[:5]
        told = {**options, **({"ttl": ttl} if ttl else {}), **({"delay": delay} if delay else {})}
        epoch = next(self.epochs)
        words = [self.model.now, json.dumps(told) if told else "", epoch, *values]
        reply, expected = self.both("add", words, lambda: self.model.add(values, told, epoch))
        if reply is not None:
            reply = [word.decode() if isinstance(word, bytes) else word for word in reply]
            assert [*reply, 0, len(values)][:4] + reply[4:] == expected

    def getting(self, verb: str, inst: str, most: int, limit: int | None, waits: bool, first: bool = False) -> None:
        options: dict[str, Any] = {"limit": limit} if limit is not None else {}
        if waits:
            self.subscribe(inst)
            options.update({"instance": inst, **({"first": 1} if first else {})})
        epoch = self.model.epoch
        who = inst if waits else ""
        if verb == "take":
            words = [most, json.dumps({"full": 1, **options})]
            reply, told = self.both(verb, words, lambda: self.model.take(most, limit, who, first))
        else:
            words = [most, 100, json.dumps(options) if options else ""]
            reply, told = self.both(verb, words, lambda: self.model.lease(most, 100, limit, who, first))
        if reply is None:
            return
        assert reply[0].decode() == epoch
        found = groups(reply[1:], 4)
        assert [(int(N), int(C), value) for N, C, value, _ in found] == [(e.number, e.shown, e.value) for e in told]
        if verb == "take":
            self.taken += [(e, epoch, value, how) for e, (_, _, value, how) in zip(told, found)]
            self.taken = self.taken[-5:]
        else:
            assert [D for _, _, _, D in found] == [e.handed for e in told]
            self.leases += [(e.number, e.handed, epoch) for e in told[:5]]
            assert len(set(self.leases[-5:])) == len(self.leases[-5:]), "no lease is given twice"

    def some_lease(self, data: Any) -> Lease:
        """One that holds, or one that was given at any time, or one that never was."""
        model = self.model
        holding = [(e.number, e.handed, model.epoch) for e in model.elements.values() if model.held(e)]
        given = self.leases[-8:] or [(1, 1, "never")]
        lease: tuple[int, int, str] = data.draw(st.sampled_from(holding or given) | st.sampled_from(given))
        wrong = data.draw(st.sampled_from([""] * 7 + ["hand-out", "epoch", "element"]))
        return {
            "": lease,
            "hand-out": (lease[0], lease[1] + 1, lease[2]),
            "epoch": (lease[0], lease[1], "another"),
            "element": (lease[0] + 1, lease[1], lease[2]),
        }[wrong]

    def setting(self, name: str, text: str) -> None:
        epoch = next(self.epochs)
        due, *own = self.run("set", epoch, name, text)
        assert due == self.model.set({name: text}, epoch)
        self.are_its_settings(own)
        told = (self.model.rule("history"), self.model.rule("history_bytes"))
        self.least = (min(self.least[0], told[0]), min(self.least[1], told[1]))

    def are_its_settings(self, words: list[bytes]) -> None:
        assert {name.decode(): text.decode() for name, text in groups(words, 2)} == self.model.settings_told()

    def subscribe(self, inst: str) -> None:
        if inst not in self.model.subscribed:
            ear = self.ears[inst]
            ear.messages.subscribe(*ear.channels)
            ear.heard()
            self.model.subscribed.add(inst)

    def join_as(self, inst: str, numbers: tuple[int, int, int], confirmed: int, known: Any, deaf: int = 0) -> None:
        model = self.model
        epoch = next(self.epochs)
        words = [*known[:3], json.dumps(known[3]), epoch, int(known[4])]
        *reply, due, own = self.run("listen", inst, *numbers, confirmed, *words, deaf)
        told = model.join(inst, numbers, confirmed, known, epoch, deaf)
        assert [reply[0].decode(), reply[1], reply[2], reply[3].decode()] == told
        self.are_its_settings(own)
        assert due == model.soon()

    def seen(self, known: Any) -> None:
        epoch = next(self.epochs)
        told, left, *own = self.run("seen", known[0], known[1], json.dumps(known[3]), epoch, int(known[4]))
        assert (told.decode() or None) == self.model.seen(known, epoch)
        assert left == self.model.soon()
        self.are_its_settings(own)
