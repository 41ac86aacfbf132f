"""The wheel: one tick a second for everything that has a deadline.

Owns the count of seconds and the Date of answers. Knows nothing of the calls that it makes. One tick for all costs less
than a timer for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

log = Logger()

NEVER = 1 << 60  # a second that never comes: no deadline


def boot_clock() -> float:
    """Seconds of a clock that also runs while the machine sleeps or the process is stopped (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Wheel:
    """Counts seconds in `now`, keeps `date` as HTTP writes it (RFC 9110 section 5.6.7), and calls its callbacks."""

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.now = 0
        self.date = formatdate(usegmt=True).encode("ascii")
        self._calls: list[Callable[[], None]] = []
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to tick."""
        self._loop.start(1.0, now=False)

    def stop(self) -> None:
        """Stop ticking."""
        if self._loop.running:
            self._loop.stop()

    def each(self, callback: Callable[[], None]) -> None:
        """Call this at every tick."""
        self._calls.append(callback)

    def drop(self, callback: Callable[[], None]) -> None:
        """Call this no more."""
        self._calls.remove(callback)

    def _tick(self) -> None:
        self.now += 1
        self.date = formatdate(usegmt=True).encode("ascii")
        for callback in list(self._calls):
            try:
                callback()
            except Exception:
                log.failure("a call of the wheel failed")
