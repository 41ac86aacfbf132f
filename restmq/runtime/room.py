"""Room for what many connections hold at the same time: one bound in bytes for all of them.

Owns the count and the line of those that wait; knows neither HTTP nor sockets. The first in line enters first, so that
small bodies do not keep a large one waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Ticket:
    """A place in line, whose then() is called when there is room."""

    __slots__ = ("size", "then")

    def __init__(self, size: int, then: Callable[[], None]) -> None:
        self.size, self.then = size, then


class Room:
    """A bound of `most` bytes, of which `held` are taken. A larger body enters when nothing else is there.

    `waited` and `refused` count the bodies that came when there was no room; the caller that refuses counts. `used`
    says that much memory may have been used since somebody last set it to False.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.waited = self.refused = 0
        self.used = False
        self.line: deque[Ticket] = deque()

    def fits(self, size: int) -> bool:
        """Whether so many bytes may enter now, ignoring the line."""
        return self.held + size <= self.most or not self.held

    def enter(self, size: int, then: Callable[[], None]) -> Ticket | None:
        """Take so many bytes. None: they are taken. Else then() is called once they are, unless leave_line() is."""
        self.used = True
        if not self.line and self.fits(size):
            self.held += size
            return None
        ticket = Ticket(size, then)
        self.line.append(ticket)
        self.waited += 1
        return ticket

    def leave_line(self, ticket: Ticket) -> None:
        """Give up a place in line."""
        if ticket in self.line:
            self.line.remove(ticket)
            self.leave(0)

    def leave(self, size: int) -> None:
        """Give so many bytes back. Those in line enter in their order."""
        self.held -= size
        while self.line and self.fits(self.line[0].size):
            ticket = self.line.popleft()
            self.held += ticket.size
            ticket.then()
