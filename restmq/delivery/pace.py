"""The pace of one live consumer: which of its queues may write to it now, and in which turn.

Owns the turns; knows no socket, no queue and no Redis. A consumer that reads history on several queues gets one page at
a time, and only while its socket takes more.
"""

from __future__ import annotations

from collections import deque

from restmq.runtime.future import Slot


class Pace:
    """Lets those that write to a consumer go on one after the other, while it is not full.

    A caller that awaited turn() calls done(). After end() nobody waits any more: each caller finds out by itself that
    the consumer has left.
    """

    __slots__ = ("_busy", "_ended", "_full", "_letting", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Slot[None]] = deque()
        self._busy = self._full = self._ended = self._letting = False

    def turn(self) -> Slot[None]:
        """A slot that is resolved when the caller may write one page."""
        slot: Slot[None] = Slot()
        self._waiting.append(slot)
        self._next()
        return slot

    def done(self) -> None:
        """The page is written, or there was none."""
        self._busy = False
        self._next()

    def full(self, full: bool) -> None:
        """The consumer's socket takes no more, or takes more again."""
        self._full = full
        self._next()

    def end(self) -> None:
        """The consumer has left: all that wait go on."""
        self._ended = True
        self._next()

    def _next(self) -> None:
        if self._letting:  # a caller that is done at once lets the next one go on here: a hundred would be a deep stack
            return
        self._letting = True
        try:
            while self._waiting and (self._ended or not (self._busy or self._full)):
                self._busy = True
                self._waiting.popleft().resolve(None)
        finally:
            self._letting = False
