"""Answers that are still in memory: what clients have not read, and what Redis is asked for and may bring.

Owns the bound on both together. An element that is taken for a client which does
not read would stay here and be nobody's, so it is not taken. Read store/connection.py next.
"""

from __future__ import annotations

from collections import deque

from restmq.model.errors import NoRoom
from restmq.runtime.future import Slot

EACH = 1 << 20  # bytes of values that one question brings


class Answers:
    """At most `most` bytes, but for one question at a time. `unread` are there, `asked` questions are under way.

    `waited` and `refused` count questions that came when there was no room, `cut` the clients that were cut off.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.unread = self.asked = 0
        self.waited = self.refused = self.cut = 0
        self.line: deque[tuple[Slot[None], bool]] = deque()

    @property
    def over(self) -> bool:
        """Whether clients have left so much unread that nothing more is handed out."""
        return self.unread >= self.most

    def _free(self) -> bool:
        return not self.over and (not self.asked or self.unread + (self.asked + 1) * EACH <= self.most)

    def at_once(self) -> bool:
        """Enter if that is possible without waiting."""
        if self.line or not self._free():
            return False
        self.asked += 1
        return True

    def enter(self, patient: bool = False) -> Slot[None]:
        """Wait until Redis may be asked; leave() when it has answered. Raises NoRoom, unless one is patient."""
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
        """A question was answered, or will not be."""
        self.asked -= 1
        self._next()

    def count(self, more: int) -> None:
        """So many bytes more are unread, or less."""
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
    """Why nothing is handed out."""
    return NoRoom("clients that do not read take all the room that this instance has for answers; nothing was taken")
