"""Room for what many connections hold at the same time: a bound in bytes for all of them together.

Owns the count and the line of those who wait; knows neither HTTP nor sockets. Who
comes first is first, so that a large body is not kept waiting by small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Ticket:
    """Who waits for room, and is called when there is some."""

    __slots__ = ("size", "then")

    def __init__(self, size: int, then: Callable[[], None]) -> None:
        self.size, self.then = size, then


class Room:
    """At most `most` bytes; `held` are taken. What is larger than all of it enters when nothing else is there.

    `waited` and `refused` count those who came when there was no room. Who refuses counts it.
    `used` tells that somebody may have needed much memory since it was last set to False.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.waited = self.refused = 0
        self.used = False
        self.line: deque[Ticket] = deque()

    def fits(self, size: int) -> bool:
        """Whether so much may enter now, before all who wait."""
        return self.held + size <= self.most or not self.held

    def enter(self, size: int, then: Callable[[], None]) -> Ticket | None:
        """Take so much. None: it is taken; else then() is called when it is, unless leave_line() was called before."""
        self.used = True
        if not self.line and self.fits(size):
            self.held += size
            return None
        ticket = Ticket(size, then)
        self.line.append(ticket)
        self.waited += 1
        return ticket

    def leave_line(self, ticket: Ticket) -> None:
        """It waits no more."""
        if ticket in self.line:
            self.line.remove(ticket)
            self.leave(0)

    def leave(self, size: int) -> None:
        """Give so much back; those who wait enter in their order."""
        self.held -= size
        while self.line and self.fits(self.line[0].size):
            ticket = self.line.popleft()
            self.held += ticket.size
            ticket.then()
