"""Unread answers: the bytes that clients have not read yet, and those that Redis may still bring.

Owns one bound on both together. An element that is taken for a client that does not read would stay here and reach
nobody. So RestMQ takes it only when there is room. lua/lib/answers.lua is another thing: the answers to
Idempotency-Keys.
"""

from __future__ import annotations

from collections import deque

from restmq.model.errors import NoRoom
from restmq.runtime.future import Slot

EACH = 1 << 20  # bytes of values that one call brings


class Answers:
    """At most `most` bytes; one call may go beyond it when it is alone.

    `unread` are bytes that clients have not read, `asked` calls that Redis has not answered. `waited` and `refused`
    count the calls that came when there was no room, `cut` the clients that were cut off.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.unread = self.asked = 0
        self.waited = self.refused = self.cut = 0
        self.line: deque[tuple[Slot[None], bool]] = deque()

    @property
    def over(self) -> bool:
        """Whether clients have left so much unread that no element is handed out."""
        return self.unread >= self.most

    def _free(self) -> bool:
        return not self.over and (not self.asked or self.unread + (self.asked + 1) * EACH <= self.most)

    def at_once(self) -> bool:
        """Enter if there is room now."""
        if self.line or not self._free():
            return False
        self.asked += 1
        return True

    def enter(self, patient: bool = False) -> Slot[None]:
        """Wait until Redis may be asked; call leave() after its answer. Raises NoRoom, unless the caller is patient."""
        slot: Slot[None] = Slot()
        if self.at_once():
            slot.resolve(None)
        else:
            self.line.append((slot, patient))
            self._next()
            if self.line and self.line[-1][0] is slot:
                self.waited += 1
        return slot

    def leave(self) -> None:
        """A call was answered, or will not be."""
        self.asked -= 1
        self._next()

    def count(self, more: int) -> None:
        """Count so many bytes more as unread, or fewer."""
        self.unread += more
        if more < 0:
            self._next()

    def _next(self) -> None:
        if self.over:
            waiting, self.line = self.line, deque()
            for slot, patient in waiting:
                if patient:
                    self.line.append((slot, patient))
                else:
                    self.refused += 1
                    slot.fail(no_room())
        while self.line and self._free():
            self.asked += 1
            self.line.popleft()[0].resolve(None)


def no_room() -> NoRoom:
    """The error that says why nothing is handed out."""
    return NoRoom("clients that do not read take all the room that this instance has for answers; nothing was taken")
