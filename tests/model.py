"""What one queue must do, in plain Python: the answers, what is published to whom, and the books.

Owns no key and no script: test_store.py compares it with Redis. A number that
only bounds work (256 a chunk, 1,000 unconfirmed, 64 ahead) is part of what a
queue must do, and so is written here again.
"""

from __future__ import annotations

from typing import Any

CHUNK, WINDOW, AHEAD = 256, 1000, 64
BROADCAST = "*"
FLOWS = ("taken", "delivered", "deleted", "expired", "purged")
Message = tuple  # kind, first position, [(number, how often handed out, value)]


class Element:
    """One element. `owner` is nobody while it waits, * or an instance while it is on its way."""

    def __init__(self, number: int, value: bytes, ends: bool) -> None:
        self.number, self.value, self.ends = number, value, ends
        self.over = False  # its ttl has passed, though nobody may have looked yet
        self.again = False  # it was on its way and came back
        self.handed = self.shown = self.position = 0
        self.owner = ""


class Model:
    """One queue, and the instances that listen to it."""

    def __init__(self) -> None:
        self.elements: dict[int, Element] = {}
        self.flows = dict.fromkeys(FLOWS, 0)
        self.added = self.position = self.sure = self.best = self.left = 0
        self.born = self.roundrobin = self.stopped = self.live = False
        self.epoch = ""
        self.ring: list[str] = []
        self.consumers: dict[str, tuple[int, int, int]] = {}  # ready, stuck, count
        self.since: dict[str, tuple[int, int]] = {}  # position when it joined, position confirmed
        self.history: dict[int, tuple[int, bytes]] = {}
        self.floor = 0  # positions up to here may be missing in the history
        self.subscribed: set[str] = set()
        self.sent: dict[str, list[Message]] = {}

    # -- what there is

    @property
    def waiting(self) -> list[Element]:
        """Oldest first."""
        return [element for _, element in sorted(self.elements.items()) if not element.owner]

    def away(self, owner: str) -> list[Element]:
        """On its way there."""
        return [element for _, element in sorted(self.elements.items()) if element.owner == owner]

    def books(self) -> dict[str, int]:
        """The columns that Core.ledger tells."""
        waiting = len(self.waiting)
        columns = dict.fromkeys(("delayed", "dead", "acked", "dropped"), 0)
        columns.update(self.flows, added=self.added, waiting=waiting, leased=len(self.elements) - waiting)
        columns["bytes"] = sum(len(element.value) for element in self.elements.values())
        return columns

    def _gone(self, element: Element, flow: str) -> None:
        del self.elements[element.number]
        self.flows[flow] += 1

    def _alive(self, elements: list[Element], most: int) -> list[Element]:
        """The first of them whose ttl is not over; those met before are ended."""
        found: list[Element] = []
        for element in elements:
            if len(found) == most:
                break
            if element.over:
                self._gone(element, "expired")
            else:
                found.append(element)
        return found

    # -- verbs: each answers what the script must answer

    def add(self, values: list[bytes], ends: bool, epoch: str) -> list[int]:
        newborn, self.born = not self.born, True
        self.epoch = self.epoch or epoch
        first = self.added + 1
        for value in values:
            self.added += 1
            self.elements[self.added] = Element(self.added, value, ends)
        self.pump()
        return [first, int(newborn)]

    def take(self, most: int) -> list[tuple[int, int, bytes]]:
        found = self._alive(self.waiting, most)
        for element in found:
            self._gone(element, "taken")
        return [(element.number, element.shown, element.value) for element in found]

    def get(self) -> list[Any]:
        for element in self._alive(self.waiting, 1):
            element.shown += 1
            return [element.number, element.shown, element.value]
        return [int(self.born)]

    def newest(self, most: int) -> list[tuple[int, int, bytes]]:
        alive = [element for element in reversed(self.waiting) if not element.over]
        return [(element.number, element.shown, element.value) for element in alive[:most]]

    def delete(self, number: int) -> int:
        element = self.elements.get(number)
        if element is None:
            return 0
        self._gone(element, "expired" if element.over else "deleted")
        if element.over:
            return 0
        self.pump()
        return 1

    def sweep(self) -> None:
        for element in list(self.elements.values()):
            if element.over:
                self._gone(element, "expired")

    def purge(self) -> int:
        held = len(self.elements)
        self.flows["purged"] += held
        self.elements.clear()
        self.history.clear()
        self.floor = self.sure = self.best = self.position
        return int(held > 0)

    def forget(self, epoch: str) -> int:
        """Only the instances that listen are kept, and their positions."""
        had = int(self.born or bool(self.elements))
        kept = (self.live, self.position, self.left, self.ring, self.consumers, self.since)
        subscribed, sent = self.subscribed, self.sent
        self.__init__()  # type: ignore[misc]
        self.subscribed, self.sent = subscribed, sent
        if kept[0]:
            self.live, self.position, self.left, self.ring, self.consumers, self.since = kept
            self.floor = self.sure = self.best = self.position
            self.epoch = epoch
        return had

    def set(self, roundrobin: bool, stopped: bool) -> None:
        self.roundrobin, self.stopped = roundrobin, stopped
        self.pump()

    # -- listening

    def listen(self, inst: str, numbers: tuple[int, int, int], confirmed: int, epoch: str) -> list[Any]:
        """`numbers`: consumers that take, elements in the buffers of the others, consumers."""
        self.epoch = self.epoch or epoch
        if numbers[2]:
            if inst not in self.consumers or inst not in self.since:
                self.ring = [*(other for other in self.ring if other != inst), inst]
                self.since.setdefault(inst, (self.position, self.position))
            self.consumers[inst] = numbers
            self.live = True
            self._confirm(inst, confirmed)
        else:
            self._confirm(inst, confirmed)
            self._settle()
            self._leave(inst)
            self.since.pop(inst, None)
        answer = [self.epoch, self.position, self.added, "roundrobin" if self.roundrobin else "broadcast"]
        self._settle()
        self.pump()
        return answer

    def confirm(self, inst: str, position: int, numbers: list[int]) -> int:
        for number in numbers:
            if number in self.elements and self.elements[number].owner:
                self._gone(self.elements[number], "delivered")
        self._confirm(inst, position)
        self._settle()
        self.pump()
        return self.sure

    def back(self, inst: str, numbers: list[int]) -> int:
        mine = [element for element in self.away(inst) if element.number in numbers]
        self._giveback(mine)
        self.pump()
        return len(mine)

    def reap(self, inst: str) -> None:
        self._leave(inst)
        self.since.pop(inst, None)
        self._giveback(self.away(inst))
        self._settle()
        self.pump()

    def _leave(self, inst: str) -> None:
        self.consumers.pop(inst, None)
        self.ring = [other for other in self.ring if other != inst]
        self.live = self.live and bool(self.ring)

    def _giveback(self, elements: list[Element]) -> None:
        for element in elements:
            element.owner, element.again, element.position = "", True, 0

    def _confirm(self, inst: str, position: int) -> None:
        if inst in self.since and self.since[inst][1] < position <= self.position:
            self.since[inst] = (self.since[inst][0], position)
            self.best = max(self.best, position)

    def _settle(self) -> None:
        """Sure is what somebody confirmed who heard all; without such a one it waits again."""
        while self.sure < self.position:
            heard_all = [confirmed for joined, confirmed in self.since.values() if joined <= self.sure]
            unsure = self.away(BROADCAST)
            if max(heard_all, default=0) > self.sure:
                self.sure = max(heard_all)
                for element in unsure:
                    if element.position <= self.sure:
                        self._gone(element, "delivered")
            elif heard_all:
                return
            else:
                oldest = min([self.position, *(joined for joined, _ in self.since.values())])
                self._giveback([element for element in unsure if element.position <= oldest])
                for position in range(self.sure + 1, oldest + 1):
                    self.history.pop(position, None)
                self.sure = oldest
            self.best = max(self.best, self.sure)

    # -- handing over

    def pump(self) -> None:
        """Hand over what waits, as far as there is room."""
        if self.live and not self.stopped:
            if not self.roundrobin:
                self._broadcast()
            else:
                for _ in range(8):
                    if not self._deal():
                        break

    def _heads(self, most: int) -> list[Element]:
        """The next ones to go, having looked at `most` of those that came back and as many fresh ones."""
        if most <= 0:
            return []
        back = [element for element in self.waiting if element.again][:most]
        fresh = [element for element in self.waiting if not element.again][: most if len(back) < most else 0]
        return self._alive(back + fresh, most)

    def _send(self, inst: str, kind: str, first: int, elements: list[Element]) -> None:
        told = [(element.number, element.handed, element.value) for element in elements]
        self.sent.setdefault(inst, []).append((kind, first, told))

    def _broadcast(self) -> None:
        chunk = self._heads(min(CHUNK, WINDOW - (self.position - self.best)))
        if not chunk:
            return
        if not self.subscribed:
            self.live = False
            return
        first = self.position + 1
        for element in chunk:
            self.position += 1
            element.owner, element.position = BROADCAST, self.position
            element.handed += 1
            self.history[self.position] = (element.number, element.value)
        for inst in self.subscribed:
            self._send(inst, "B", first, chunk)

    def _deal(self) -> bool:
        """One chunk, each turn of an instance as long as it has ready consumers. True: deal again."""
        ready, free = {}, {}
        for inst in self.ring:
            ready[inst], stuck, _ = self.consumers[inst]
            room = ready[inst] * AHEAD - len(self.away(inst)) + stuck
            free[inst] = max(0, room) if ready[inst] else 0
        elements = self._heads(min(CHUNK, sum(free.values())))
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
                element.again = True
                if inst in self.subscribed:
                    element.owner = inst
                    element.handed += 1
            if shares[inst] and inst in self.subscribed:
                self._send(inst, "R", 0, shares[inst])
            elif shares[inst]:  # it does not listen now: out of the ring, until it joins again
                self._leave(inst)
                self.left, again = 0, True
        self.live = bool(self.ring)
        return again and self.live
