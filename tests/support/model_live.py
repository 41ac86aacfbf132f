"""What one queue must do for those who listen, in plain Python: hand over, confirm, take back, wake.

Owns elements and the instances; model.py adds the verbs. A number that only bounds
work (256 a chunk, 1,000 unconfirmed, 250 of each kind a sweep) is part of what a queue
must do, and so is written here again.
"""

from __future__ import annotations

from typing import Union

CHUNK, WINDOW, AHEAD = 256, 1000, 64
BROADCAST = "*"
FLOWS = ("taken", "delivered", "acked", "deleted", "expired", "purged", "dropped")
WAITING, AWAY, LEASED, DELAYED, DEAD = "waiting", "away", "leased", "delayed", "dead"
#: What a message says: a number or several, a text, nothing, or a position and (number, hand-outs, value) of each.
Said = Union[int, str, list[int], tuple[int, list[tuple[int, int, bytes]]], None]
Message = tuple[str, str, Said]  # kind, epoch, what it says


class Element:
    """One element. `owner` is * or an instance while it is away, the instance whose consumer leases it, or nobody."""

    def __init__(self, number: int, value: bytes, added: int, ends: int) -> None:
        self.number, self.value, self.added = number, value, added
        self.ends = ends  # ms at which its ttl is over, 0 for never
        self.own = -1  # while dead_ttl ends it before that: its own
        self.state = WAITING
        self.until = 0  # ms at which its lease ends or it is due
        self.lost = ""  # the set it is in when it was on its way in a life that Redis lost
        self.again = False  # it came back, or was delayed: it waits at its key's place
        self.handed = self.shown = self.failed = self.position = 0
        self.owner = ""
        self.errors: list[str] = []


def by_time(elements: list[Element], what: str) -> list[Element]:
    """As a sorted set has them: of the same ms, by the text of their numbers."""
    return sorted(elements, key=lambda element: (getattr(element, what), str(element.number)))


class Live:
    """One queue's elements, and the instances that listen, wait and tap."""

    def __init__(self) -> None:
        self.now = 0
        self.elements: dict[int, Element] = {}
        self.flows = dict.fromkeys(FLOWS, 0)
        self.added = self.position = self.sure = self.best = self.left = self.cursor = self.due = 0
        self.born = self.roundrobin = self.stopped = self.live = self.ruled = False
        self.epoch = ""
        self.stops: dict[str, int] = {}  # scope -> ms at which it ends, 0 for never
        self.ring: list[str] = []
        self.consumers: dict[str, tuple[int, int, int]] = {}  # ready, how many may be on their way, count
        self.since: dict[str, tuple[int, int]] = {}  # position when it joined, position confirmed
        self.history: dict[int, tuple[int, bytes, int, int]] = {}  # number, value, when, end of its ttl
        self.lost: list[str] = []  # sets of those that were on their way in a life that Redis lost
        self.floor = 0  # positions up to here may be missing in the history
        self.line: list[str] = []  # GETs that wait, by instance
        self.waits = False
        self.woken: dict[str, int] = {}  # GETs that were woken and did not ask yet
        self.taps: set[str] = set()
        self.subscribed: set[str] = set()
        self.tapping: set[str] = set()
        self.sent: dict[str, list[Message]] = {}
        self.freed: dict[str, list[int]] = {}
        self.offered = 0

    # -- what there is

    def those(self, state: str, owner: str | None = None) -> list[Element]:
        """By number."""
        found = [e for e in self.elements.values() if e.state == state and owner in (None, e.owner)]
        return sorted(found, key=lambda element: element.number)

    @property
    def waiting(self) -> list[Element]:
        """Oldest first."""
        return self.those(WAITING)

    def over(self, element: Element) -> bool:
        """Its ttl has passed, though nobody may have looked yet."""
        return 0 < element.ends <= self.now

    def late(self, at: int) -> None:
        """Something is due then."""
        if self.due == 0 or at < self.due:
            self.due = at

    def gone(self, element: Element, flow: str) -> None:
        """It leaves the queue, by one column of the books."""
        del self.elements[element.number]
        self.flows[flow] += 1
        if flow != "delivered":
            self.free(element)

    def free(self, element: Element) -> None:
        """The instance whose consumer has it, or that it is on its way to, may have another."""
        if element.state in (LEASED, AWAY) and element.owner not in ("", BROADCAST):
            self.freed.setdefault(element.owner, []).append(element.number)
            element.owner = ""

    def waits_again(self, element: Element) -> None:
        """At its key's place."""
        element.state, element.again, element.owner, element.until, element.lost = WAITING, True, "", 0, ""
        self.offered += 1

    def heads(self, most: int, limit: int | None = None) -> tuple[list[Element], int]:
        """The next ones to go, and how many were looked at: those that are over end now."""
        if most <= 0:
            return [], 0
        back = [element for element in self.waiting if element.again][:most]
        more = len(back) < most or back[-1].number > self.cursor
        fresh = [element for element in self.waiting if not element.again][: most if more else 0]
        found: list[Element] = []
        seen = size = 0
        for element in sorted(back + fresh, key=lambda element: element.number):
            if len(found) == most or any(len(one) == most and one[-1].number < element.number for one in (back, fresh)):
                break  # there are enough, or what follows in one of them may be older
            seen += 1
            if self.over(element):
                self.gone(element, "expired")
                continue
            size += len(element.value)
            if limit is not None and size > limit and found:
                break
            found.append(element)
        return found, seen

    def halted(self, scope: str) -> int | None:
        """ms at which this stop ends, 0 for never; None when it flows."""
        till = self.stops.get(scope)
        return None if till is None or 0 < till <= self.now else till

    # -- what is published

    def to_all(self, kind: str, what: Said) -> int:
        """To every instance that listens; answers how many."""
        for inst in self.subscribed:
            self.to_one(inst, kind, what)
        return len(self.subscribed)

    def to_one(self, inst: str, kind: str, what: Said) -> int:
        """To one instance; answers 0 when it does not listen."""
        if inst in self.subscribed:
            self.sent.setdefault(inst, []).append((kind, self.epoch, what))
        return int(inst in self.subscribed)

    @staticmethod
    def told(first: int, elements: list[Element]) -> tuple[int, list[tuple[int, int, bytes]]]:
        """Elements as a message has them."""
        return first, [(element.number, element.handed, element.value) for element in elements]

    # -- listening

    def tell(self) -> None:
        """Consumers whose leases are over may have as many more."""
        for inst, numbers in self.freed.items():
            self.to_one(inst, "A", numbers)
        self.freed = {}

    def listen(self, inst: str, numbers: tuple[int, int, int], confirmed: int, deaf: int = 0) -> None:
        """`numbers`: consumers that take, how many elements may be on their way, consumers."""
        if numbers[2]:
            if inst not in self.consumers or inst not in self.since:
                self.ring = [*(other for other in self.ring if other != inst), inst]
                self.since.setdefault(inst, (self.position, self.position))
            self.consumers[inst] = numbers
            if numbers[0]:  # who came last is ready for what follows, however far the others are
                self.best = max(self.best, self.since[inst][1])
            self.live = True
            self.note(inst, confirmed, deaf)
        else:
            self.note(inst, confirmed, deaf)
            self.settle()
            self.leave(inst)
            self.since.pop(inst, None)
            if not self.ring:
                self.live, self.offered = False, len(self.waiting)

    def leave(self, inst: str) -> None:
        """Out of the ring."""
        self.consumers.pop(inst, None)
        self.ring = [other for other in self.ring if other != inst]

    def arrived(self, numbers: list[int]) -> None:
        """Some socket has them."""
        for number in numbers:
            if number in self.elements and self.elements[number].state == AWAY:
                self.gone(self.elements[number], "delivered")

    def giveback(self, elements: list[Element]) -> None:
        """They did not arrive."""
        for element in elements:
            element.position = 0
            self.waits_again(element)

    def note(self, inst: str, position: int, deaf: int = 0) -> None:
        """An instance has confirmed up to there, but for what is not sure up to `deaf`."""
        if inst in self.since and self.since[inst][1] < max(position, deaf) <= self.position:
            joined, confirmed = self.since[inst]
            self.since[inst] = (deaf if deaf > confirmed else joined, max(position, deaf))
            self.best = max(self.best, position)

    def settle(self) -> None:
        """Sure is what somebody confirmed who heard all; without such a one it waits again."""
        while self.sure < self.position:
            heard_all = [confirmed for joined, confirmed in self.since.values() if joined <= self.sure]
            unsure = self.those(AWAY, BROADCAST)
            if max(heard_all, default=0) > self.sure:
                self.sure = max(heard_all)
                self.arrived([element.number for element in unsure if element.position <= self.sure])
            elif heard_all:
                return
            else:
                oldest = min([self.position, *(joined for joined, _ in self.since.values())])
                self.giveback([element for element in unsure if element.position <= oldest])
                for position in range(self.sure + 1, oldest + 1):
                    self.history.pop(position, None)
                self.sure = oldest
            self.best = max(self.best, self.sure)

    # -- handing over

    def pump(self) -> None:
        """Hand over what waits, as far as there is room; then GETs that wait are served."""
        self.tell()
        if self.live and not self.stopped:
            if not self.roundrobin:
                self._broadcast()
            else:
                for _ in range(8):
                    if not self._deal():
                        break
        self.wake(self.offered)

    def wake(self, most: int) -> None:
        """As many GETs as elements began to wait, in order of arrival."""
        self.waits = self.waits and bool(self.line)
        if not self.waits or most <= 0 or self.halted("pull") is not None:
            return
        most = min(most, len(self.waiting))
        while most > 0 and self.line:
            first, self.line = self.line[:most], self.line[most:]
            most -= len(first)
            for inst in dict.fromkeys(first):
                many = first.count(inst)
                if self.to_one(inst, "W", many):
                    self.woken[inst] = self.woken.get(inst, 0) + many
                else:  # it does not listen: it will ask again
                    self.line = [other for other in self.line if other != inst]
                    most += many
        self.waits = bool(self.line)

    def _set_out(self, element: Element, owner: str) -> None:
        if not element.again:
            self.cursor = max(self.cursor, element.number)
        element.state, element.again, element.owner, element.lost = AWAY, False, owner, ""
        element.handed += 1

    def _broadcast(self) -> None:
        chunk, _ = self.heads(min(CHUNK, WINDOW - (self.position - self.best)))
        if not chunk:
            return
        if not self.subscribed:
            self.live = False
            return
        first = self.position + 1
        for element in chunk:
            self.position += 1
            self._set_out(element, BROADCAST)
            element.position = self.position
            self.history[self.position] = (element.number, element.value, self.now, element.ends)
        self.to_all("B", self.told(first, chunk))

    def _deal(self) -> bool:
        """One chunk, each turn of an instance as long as it has ready consumers. True: deal again."""
        ready, free = {}, {}
        for inst in self.ring:
            ready[inst], may, _ = self.consumers[inst]
            there = [element for element in self.those(AWAY, inst) if not element.lost]
            free[inst] = max(0, may - len(there)) if ready[inst] else 0
        elements, _ = self.heads(min(CHUNK, sum(free.values())))
        shares: dict[str, list[Element]] = {inst: [] for inst in self.ring}
        places, idle = list(self.ring), 0
        while elements and idle <= len(places):
            head = places[0]
            self.left = min(self.left, ready[head])
            if self.left and free[head]:
                shares[head].append(elements.pop(0))
                self.left, free[head], idle = self.left - 1, free[head] - 1, 0
            else:
                self.left, idle = 0, idle + 1
            if not self.left:
                places = places[1:] + places[:1]
                self.left = ready[places[0]]
        again, before, self.ring = False, self.ring, places
        for inst in before:
            for element in shares[inst]:
                self._set_out(element, inst)
            if shares[inst] and not self.to_one(inst, "R", self.told(0, shares[inst])):
                self.leave(inst)  # it does not listen now: out of the ring, until it joins again
                self.left, again = 0, True
                for element in shares[inst]:
                    element.state, element.again, element.owner = WAITING, True, ""
                    element.handed -= 1
        self.live = bool(self.ring)
        return again and self.live
