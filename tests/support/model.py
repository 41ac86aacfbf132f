"""What one queue must do, in plain Python: the answers, what is published to whom, and the books.

Owns no key and no script: test_store.py compares it with Redis. Time stands still
unless the test moves `now`. Each verb answers what its script must answer.
"""

from __future__ import annotations

import copy
from typing import Any, Union

from tests.support.model_live import AWAY, BROADCAST, DEAD, DELAYED, LEASED, WAITING, Element, Live, by_time

SWEPT = 250  # of each kind a sweep
Lease = tuple[int, Union[int, str], str]  # number, hand-outs, epoch


class Stopped(Exception):
    """What a script refuses, in its words."""


class Model(Live):
    """One queue. `conf` is what restmq.conf says; `bounded` that it says something of more than history."""

    def __init__(self, conf: dict[str, Any], bounded: bool = False) -> None:
        super().__init__()
        self.conf, self.bounded = conf, bounded
        self.own: dict[str, str] = {}
        self.used = 0
        self.emptied = 0  # the highest number when it was purged
        self.passed = 0  # numbers that were passed over
        self.version = 0  # how often the settings were changed
        self.former = ""  # the epoch that Redis lost
        self.roundrobin = conf["policy"] == "roundrobin"
        self.keys: dict[str, tuple[int, str, int, int]] = {}

    def rule(self, name: str) -> Any:
        """What holds: the queue's own, else restmq.conf's."""
        told = self.own.get(name, self.conf[name])
        return int(told) if str(told).isdigit() else told

    def books(self) -> dict[str, int]:
        """The columns that Core.ledger tells."""
        columns = {state: len(self.those(state)) for state in (WAITING, DELAYED, DEAD)}
        columns.update(self.flows, added=self.added - self.passed)
        columns["leased"] = len(self.those(LEASED)) + len(self.those(AWAY))
        columns["bytes"] = sum(len(element.value) for element in self.elements.values())
        return columns

    # -- what every script begins and ends with

    def begin(self) -> None:
        """A use of the queue."""
        self.offered, self.freed = 0, {}
        self.before = self.used
        if self.ruled and self.rule("idle_ttl"):
            self.used = self.now

    def end(self) -> None:
        """Consumers whose leases are over may have as many more. What was only looked at, or heard, is forgotten."""
        flags = (self.born, self.live, self.waits, self.ruled, self.stopped)
        if not any((*flags, self.added, self.version, self.stops, self.used, self.due)):
            self.epoch, self.left = "", 0
            self.position = self.sure = self.best = self.floor = 0
        self.tell()

    def refuse(self, scope: str) -> None:
        till = self.halted(scope)
        if till is not None:
            raise Stopped(f"STOPPED {till - self.now if till else 0}")

    def soon(self) -> int:
        return max(0, self.due - self.now) if self.due else -1

    def ended(self, element: Element) -> bool:
        """Its ttl is over: then it is gone now."""
        if self.over(element):
            self.gone(element, "expired")
            return True
        return False

    def look(self) -> dict[str, int]:
        """The books, after what is due was ended."""
        self.freed = {}
        self.expire()
        self.end()
        return self.books()

    def expire(self) -> None:
        over = [element for element in self.elements.values() if self.over(element)]
        for element in by_time(over, "ends")[:SWEPT]:
            self.gone(element, "expired")

    # -- producing

    def add(self, values: list[bytes], o: dict[str, Any], epoch: str) -> list[Any]:
        """Raises Stopped with the word of the refusal."""
        self.begin()
        told = self.keys.get(o.get("key", ""))
        if told and self.now - told[0] <= o["window"]:
            if told[1] != o["digest"]:
                raise Stopped("CONFLICT")
            return [told[2], 0, 1, told[3]]
        self.refuse("add")
        answer: list[Any] = [self.added + 1, int(not self.born), 0, 0]
        if o.get("all"):
            why = self._overfull(len(values), sum(map(len, values)))
            if why:
                self.end()
                raise Stopped(why)
        many: list[Element] = []
        for place, value in enumerate(values, 1):
            why = "" if o.get("all") else self._overfull(1, len(value))
            if why:
                answer += [place, why]
            else:
                many.append(self._added(value, o, epoch))
        answer[3] = len(many)
        if many and "key" in o:
            self.keys[o["key"]] = (self.now, o["digest"], answer[0], len(many))
        if many and self.taps:
            for inst in self.tapping:
                message = ("T", self.epoch, (0, [(e.number, 0, e.value) for e in many]))
                self.sent.setdefault(inst, []).append(message)
            if not self.tapping:
                self.taps.clear()
                self._unrule()
        self.pump()
        self.end()
        return [*answer, self.soon()] if "at" in o else answer

    def _added(self, value: bytes, o: dict[str, Any], epoch: str) -> Element:
        if not self.born:
            self.epoch = self.epoch or epoch
            self._birth()
        self.added += 1
        element = Element(self.added, value, self.now, self.now + o["ttl"] if "ttl" in o else 0)
        delay = o.get("delay", max(0, o.get("at", 0) - self.now))
        if delay:
            element.state, element.until = DELAYED, self.now + delay
            self.late(element.until)
        else:
            self.offered += 1
        if element.ends:
            self.late(element.ends)
        self.elements[self.added] = element
        return element

    def _birth(self) -> None:
        self.born, self.ruled = True, self.ruled or self.bounded
        self._rest()

    def _rest(self) -> None:
        if self.ruled and self.rule("idle_ttl"):
            self.used = self.now
            self.late(self.now + self.rule("idle_ttl"))

    def _overfull(self, many: int, size: int) -> str:
        """Room is made of the oldest that wait, and of none if that is not enough."""
        most, heaviest = self.rule("max_length"), self.rule("max_bytes")
        if (most and many > most) or (heaviest and size > heaviest):
            return "OVERSIZE"
        if not self._excess(many, size):
            return ""
        self.expire()
        going: list[Element] = []
        waiting = self.waiting
        while self._excess(many - len(going), size - sum(len(element.value) for element in going)):
            if self.rule("overflow") != "drop_oldest" or len(going) == len(waiting):
                return "OVERFULL"
            going.append(waiting[len(going)])
        for element in going:
            self.gone(element, "dropped")
        return ""

    def _excess(self, many: int, size: int) -> bool:
        most, heaviest = self.rule("max_length"), self.rule("max_bytes")
        there = [element for element in self.elements.values() if element.state != DEAD]
        held = sum(len(element.value) for element in there)
        return bool((most and len(there) + many > most) or (heaviest and held + size > heaviest))

    # -- consuming

    def take(self, most: int, limit: int | None = None, inst: str = "", first: bool = False) -> list[Element]:
        """With an instance, a GET of it waits if there is nothing."""
        found = self._heads(most, limit, inst, first)
        for element in found:
            self.gone(element, "taken")
        return found

    def lease(self, most: int, ms: int, limit: int | None = None, inst: str = "", first: bool = False) -> list[Element]:
        found = self._heads(most, limit, inst, first)
        for element in found:
            if not element.again:
                self.cursor = max(self.cursor, element.number)
            element.state, element.again, element.until = LEASED, False, self.now + ms
            element.handed += 1
            self.late(element.until)
        return found

    def _heads(self, most: int, limit: int | None, inst: str, first: bool) -> list[Element]:
        self.begin()
        found: list[Element] = []
        if not inst:
            self.refuse("pull")
        if self.halted("pull") is None:
            alive = [element for element in self.waiting if not self.over(element)][:most]
            size, full = 0, False
            while len(found) < most and not full:
                left = None if limit is None else limit - size
                more, seen = self._beyond(found, most - len(found), left)
                for element in more:
                    if limit is not None and found and size + len(element.value) > limit:
                        full = True
                        break
                    found.append(element)
                    size += len(element.value)
                if not seen or (limit is not None and size >= limit):
                    break
            assert found == alive[: len(found)], "the oldest first"
            assert len(found) == len(alive) or size + len(alive[len(found)].value) > (limit or 0) > 0
        if inst and not found:
            self.line = [inst, *self.line] if first else [*self.line, inst]
            self.waits = True
        return found

    def _beyond(self, found: list[Element], most: int, limit: int | None) -> tuple[list[Element], int]:
        for element in found:
            del self.elements[element.number]
        answer = self.heads(most, limit)
        for element in found:
            self.elements[element.number] = element
        return answer

    def untake(self, element: Element, epoch: str) -> int:
        """It stands at its key's place again."""
        self.begin()
        if epoch != self.epoch or element.number in self.elements or element.number > self.added:
            return 0
        if element.number <= self.emptied:
            self.flows["taken"] -= 1
            self.flows["purged"] += 1
            return 1
        back = self.elements[element.number] = copy.copy(element)
        self.flows["taken"] -= 1
        if back.ends:
            self.late(back.ends)
        self.waits_again(back)
        self.pump()
        self.end()
        return 1

    def unwait(self, inst: str, many: int) -> int:
        """The last of that instance leave; those that were woken already pass it on."""
        self.begin()
        woken = many
        for place in range(len(self.line) - 1, -1, -1):
            if woken and self.line[place] == inst:
                del self.line[place]
                woken -= 1
        self.wake(woken)
        self.end()
        return woken

    def get(self) -> list[Any]:
        self.begin()
        self.refuse("pull")
        while True:
            found, seen = self.heads(1)
            for element in found:
                element.shown += 1
                return [element.number, element.shown, element.value]
            if not seen:
                return [int(self.born)]

    def delete(self, number: int, lease: Lease | None = None) -> int:
        self.begin()
        element = self.elements.get(number)
        if element is None:
            return 0
        answer = 1
        if self.ended(element):
            answer = 0
        elif lease and not self.holds(lease):
            answer = -1
        else:
            self.gone(element, "acked" if lease else "deleted")
            self.pump()
        self.end()
        return answer

    # -- leases

    def holds(self, lease: Lease) -> bool:
        """That hand-out of that element, in this life of the queue, and nobody ended it. Hand-outs '': whichever."""
        number, handed, epoch = lease
        element = self.elements.get(number)
        if element is None or self.ended(element) or not self.held(element):
            return False
        return handed == "" or (handed, epoch) == (element.handed, self.epoch)

    @staticmethod
    def held(element: Element) -> bool:
        """It is somebody's: leased, or on its way to a consumer of one instance, which may lease it."""
        return element.state == LEASED or (element.state == AWAY and element.owner != BROADCAST)

    def ack(self, leases: list[Lease]) -> list[int]:
        self.begin()
        answer = [self._ack(lease) for lease in leases]
        self.end()
        return answer

    def _ack(self, lease: Lease) -> int:
        held = self.holds(lease)
        if held:
            self.gone(self.elements[lease[0]], "acked")
        return int(held)

    def nack(self, nacks: list[tuple[Lease, int | str | None, bool, str]]) -> list[int]:
        """With a delay in ms or None, or the word dead, whether the try failed, and why."""
        self.begin()
        answer = []
        for lease, delay, failed, reason in nacks:
            held = self.holds(lease)
            if held:
                self._release(self.elements[lease[0]], failed, delay, reason)
            answer.append(1 if held else 0 if lease[0] in self.elements else -1)
        self.pump()
        self.end()
        return [*answer, self.soon()]

    def touch(self, lease: Lease, ms: int) -> list[Any]:
        self.begin()
        element = self.elements.get(lease[0])
        held = self.holds(lease)
        self.end()
        if element is None or not held:
            return [0 if lease[0] in self.elements else -1]
        element.state, element.until = LEASED, self.now + ms
        self.late(element.until)
        return [1, element.handed, self.epoch]

    def _release(self, element: Element, failed: bool, delay: int | str | None, reason: str) -> None:
        self.free(element)
        element.failed += failed
        if reason:
            element.errors.append(reason)
        if delay == "dead" or (failed and 0 < self.rule("max_deliveries") <= element.failed):
            self._die(element)
            return
        if delay is None:
            delay = self._pause(element.failed) if failed else 0
        if delay:
            element.state, element.until = DELAYED, self.now + int(delay)
            self.late(element.until)
        else:
            self.waits_again(element)

    def _pause(self, failed: int) -> int:
        kind, *times = str(self.rule("backoff")).split(":")
        if kind == "fixed":
            return int(times[0])
        return min(int(times[0]) * 2 ** (failed - 1), int(times[1])) if kind == "exp" else 0

    def _die(self, element: Element) -> None:
        element.state, element.until = DEAD, 0
        ends = self.now + self.rule("dead_ttl")
        if self.rule("dead_ttl") and not 0 < element.ends <= ends:
            element.own, element.ends = element.ends, ends
            self.late(ends)

    def kick(self, many: int, numbers: list[int]) -> list[int]:
        self.begin()
        out = []
        for number in [e.number for e in self.those(DEAD)][:many] if many else numbers:
            element = self.elements.get(number)
            if element is None or self.ended(element) or element.state != DEAD:
                continue
            if element.own >= 0:
                element.ends, element.own = element.own, -1
            element.failed = 0
            self.waits_again(element)
            out.append(number)
        self.pump()
        self.end()
        return out

    def bury(self) -> int:
        self.begin()
        dead = self.those(DEAD)
        for element in dead[:500]:
            self.gone(element, "deleted")
        return len(dead[:500])

    # -- what is due

    def sweep(self, held_ms: int, epoch: str) -> list[Any]:
        """ms until the next is due or '', and whether the queue was forgotten."""
        self.begin()
        held, idle = self.now + held_ms, 0
        ttl = self.rule("idle_ttl") if self.ruled else 0
        if ttl:
            if self.live or self.waits or self.taps or self.elements:
                idle = self.now + ttl
            else:
                self.used = self.before
                idle = self.used + ttl
        if idle and idle <= self.now:
            self._forget(epoch)
            return ["", 1]
        if 0 < self.due <= self.now:
            self._sweep(held)
        if idle:
            self.late(idle)
        self.pump()
        self.end()
        return [max(0, self.due - self.now) if self.due else "", 0]

    def _sweep(self, held: int) -> None:
        self.expire()
        if held <= self.now:
            ended = [element for element in self.those(LEASED) if element.until <= self.now]
            for element in by_time(ended, "until")[:SWEPT]:
                self._release(element, True, None, "the lease ended")
        for element in by_time(self.those(DELAYED), "until")[:SWEPT]:
            if element.until <= self.now:
                self.waits_again(element)
        if self.lost:
            name = self.lost.pop(0)
            self.giveback([element for element in self.those(AWAY) if element.lost == name])
        self.due = self.now if self.lost else 0
        for element in self.elements.values():
            if element.ends:
                self.late(element.ends)
            if element.state == LEASED:
                self.late(max(element.until, held))
            if element.state == DELAYED:
                self.late(element.until)
        for scope, till in list(self.stops.items()):
            if 0 < till <= self.now:
                del self.stops[scope]
                if scope == "live":
                    self.stopped = False
                self._unrule()
                if scope == "pull":
                    self.offered = len(self.waiting)
            elif till:
                self.late(till)

    # -- the whole queue

    def purge(self) -> int:
        self.begin()
        held = self._empty()
        self.flows["purged"] += held
        self.emptied = self.added
        return int(held > 0)

    def _empty(self) -> int:
        held = len(self.elements)
        if self.live:
            self.to_all("Z", None)
        self.elements.clear()
        self.history.clear()
        self.lost.clear()
        self.floor = self.sure = self.best = self.position
        self.cursor = self.added
        self.due = self.due if self.ruled else 0
        return held

    def forget(self, epoch: str) -> int:
        self.begin()
        return self._forget(epoch)

    def _forget(self, epoch: str) -> int:
        """Those that listen, wait and tap are kept, and their positions."""
        had = int(self._empty() > 0 or self.born)
        heard = bool(self.live or self.waits or self.taps)
        kept = ["now", "subscribed", "tapping", "sent", "woken"]
        if heard:
            kept += ["live", "position", "left", "ring", "consumers", "since", "line", "waits", "taps"]
            kept += ["floor", "sure", "best"]
        keeping = {name: getattr(self, name) for name in kept}
        Model.__init__(self, self.conf, self.bounded)
        self.__dict__.update(keeping)
        self.ruled = bool(self.taps)
        self.epoch = epoch if heard else ""
        self._deal_by()
        return had

    def set(self, told: dict[str, str], epoch: str) -> int:
        self.begin()
        self.epoch = self.epoch or epoch
        for name, text in told.items():
            self.own[name] = text
            if not text:
                del self.own[name]
            if name == "policy":
                self._deal_by()
            else:
                self.ruled = True
        self.version, self.former = self.version + 1, ""
        self._unrule()
        self._rest()
        self.pump()
        self.end()
        return self.soon()

    def flow(self, stop: bool, ms: int, scopes: list[str]) -> int:
        self.begin()
        for scope in scopes:
            self.stops.pop(scope, None)
            if stop:
                self.stops[scope] = self.now + ms if ms else 0
            if stop and ms:
                self.late(self.now + ms)
            if scope == "live":
                self.stopped = stop
            self.ruled = self.ruled or (stop and (scope != "live" or ms > 0))
        self._unrule()
        self.offered = len(self.waiting)
        self.pump()
        self.end()
        return self.soon()

    def _unrule(self) -> None:
        """Nothing but restmq.conf may rule it any more."""
        if not (self.stops or self.taps or set(self.own) - {"policy"}):
            self.ruled = self.born and self.bounded

    # -- the instances

    def join(
        self, inst: str, numbers: tuple[int, int, int], confirmed: int, known: Any, epoch: str, deaf: int = 0
    ) -> list[Any]:
        """`known`: what the instance knew of the queue, see renew(); `deaf`: see note()."""
        self.begin()
        self.renew(known, epoch)
        self.epoch = self.epoch or epoch
        same = known[0] == self.epoch  # else it speaks of another life's positions
        self.listen(inst, numbers, confirmed if same else 0, deaf if same else 0)
        answer = [self.epoch, self.position, self.added, "roundrobin" if self.roundrobin else "broadcast"]
        self.settle()
        self.pump()
        self.end()
        return answer

    def confirm(
        self,
        inst: str,
        position: int,
        listening: tuple[int, int, int],
        numbers: list[int],
        leased: list[tuple[int, int]],
        out: int = 0,
    ) -> int:
        """`listening`: as listen(). `leased`: number and ms of those that a consumer of that instance leases.

        `out`: the highest position that is out there, whatever of those before it is.
        """
        self.begin()
        if inst in self.consumers:
            self.consumers[inst] = listening
        self.arrived(numbers)
        for number, ms in leased:
            element = self.elements.get(number)
            if element is not None and element.state == AWAY and element.owner == inst:
                element.state, element.until = LEASED, self.now + ms
                self.late(element.until)
        self.note(inst, position)
        self.best = max(self.best, min(out, self.position))
        self.settle()
        self.pump()
        self.end()
        return self.soon()

    def back(self, inst: str, numbers: list[int]) -> int:
        self.begin()
        mine = [e for e in self.those(AWAY, inst) if e.number in numbers and not e.lost]
        self.giveback(mine)
        self.pump()
        self.end()
        return len(mine)

    def reap(self, inst: str) -> None:
        self.begin()
        self.leave(inst)
        self.live = self.live and bool(self.ring)
        self.since.pop(inst, None)
        if inst in self.taps:
            self.taps.discard(inst)
            self._unrule()
        self.line = [other for other in self.line if other != inst]
        self.woken.pop(inst, None)
        self.giveback([element for element in self.those(AWAY, inst) if not element.lost][:500])
        self.settle()
        self.offered = len(self.waiting)
        self.pump()
        self.end()

    def tap(self, inst: str, on: bool) -> None:
        self.begin()
        if on:
            self.taps.add(inst)
            self.ruled = True
        elif inst in self.taps:
            self.taps.discard(inst)
            self._unrule()
        self.end()

    def seen(self, known: Any, epoch: str) -> str | None:
        """An instance comes back to the queue, and tells what it knew; the epoch there is."""
        self.begin()
        if self.renew((*known[:2], 0, *known[3:]), epoch):
            self.pump()
            self.end()
        return self.epoch or None

    def settings_told(self) -> dict[str, str]:
        """Its settings as an instance knows them."""
        return {**self.own, "sv": str(self.version)} if self.version else {}

    def _adopt(self, told: dict[str, str]) -> None:
        self.own = {name: text for name, text in told.items() if name != "sv"}
        self.version = int(told["sv"])
        self.ruled = self.ruled or any(name != "policy" for name in self.own)
        self._deal_by()

    def _deal_by(self) -> None:
        self.roundrobin = self.rule("policy") == "roundrobin"
        if self.live:
            self.to_all("P", self.rule("policy"))

    def renew(self, known: Any, epoch: str) -> bool:
        """Known: epoch, highest number, position, settings, whether Redis' birth word is another."""
        was, highest, position, told, reborn = known
        later = int(told.get("sv", 0)) > self.version
        if later and was and self.epoch and self.former == was:
            self._adopt(told)
        if not was or (self.epoch and self.epoch != was) or (not self.epoch and not reborn):
            return False
        if self.epoch and highest <= self.added and position <= self.position:
            return False
        self.giveback(self.those(AWAY, BROADCAST))
        held = [element for element in self.those(AWAY) if not element.lost]
        for inst in sorted({element.owner for element in held}):
            self.lost.append(f"lost:{epoch}:{inst}")
            self.late(self.now)
            for element in held:
                if element.owner == inst:
                    element.lost = self.lost[-1]
        self.history.clear()
        self.passed += max(0, highest - self.added)
        self.added, self.position = max(self.added, highest), max(self.position, position)
        self.sure = self.best = self.floor = self.position
        self.since = dict.fromkeys(self.since, (self.position, self.position))
        self.epoch, self.former = epoch, was
        if later:
            self._adopt(told)
        self._birth()
        return True
