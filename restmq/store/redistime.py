"""Redis' clock as this instance knows it: what time it is there, and whether somebody set it.

Owns an estimate for the age of added elements. An instance learns it when it greets a link, and at each beat. The
functions decide what ends at a time. They ask Redis itself (TIME).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from restmq.runtime.ticker import boot_clock

STEP = 1000.0  # ms by which Redis' clock may drift from this machine's between two looks
SHOWN_FOR = 600.0  # seconds for which /readyz shows a step
MOST = 3  # steps that it shows


class RedisTime:
    """The distance between Redis' clock and a clock of this machine that nobody sets."""

    def __init__(self, now: Callable[[], float] = boot_clock) -> None:
        self.now = now
        self._offset: float | None = None  # ms of Unix time in Redis when `now` is 0
        self._steps: list[tuple[float, str]] = []  # until when each is shown, and its sentence

    def ms(self) -> int:
        """Unix time in ms."""
        return int((self._offset or 0.0) + 1000 * self.now())

    def learn(self, ms: float, asked: float) -> None:
        """Learn Redis' time in ms. It was asked for at `asked`, and read between then and now."""
        answered, before = self.now(), self._offset
        low, high = ms - 1000 * answered, ms - 1000 * asked
        if before is None:
            self._offset = (low + high) / 2
            return
        self._offset = min(max(before, low), high)  # the nearest to what it was: by this much the clock moved at least
        moved = self._offset - before
        if abs(moved) > STEP:
            self._steps = [*self._steps[1 - MOST :], (answered + SHOWN_FOR, _sentence(moved / 1000))]

    def steps(self) -> list[str]:
        """A sentence for each step of the last ten minutes."""
        self._steps = [step for step in self._steps if step[0] > self.now()]
        return [sentence for _, sentence in self._steps]


def _sentence(seconds: float) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    where, what = ("ahead", "earlier") if seconds > 0 else ("back", "later")
    return (
        f"Redis' clock was set {where} by {abs(seconds):.1f} s, seen at {when}: "
        f"leases, delays, ttls and stops of before end so much {what}"
    )
