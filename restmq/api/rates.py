"""The rates of a queue: adds and hand-outs a second, between two looks at it.

Owns what an instance remembers of the last look; knows neither HTTP nor Redis. Read api/stats.py next.
"""

from __future__ import annotations

import time
from typing import Any


class Rates:
    """Adds and hand-outs a second, between two looks of this instance at a queue, a second apart or more."""

    MOST = 10_000  # queues remembered; beyond them the one that was looked at longest ago is forgotten

    def __init__(self) -> None:
        self.now = time.monotonic
        self._seen: dict[object, tuple[float, int, int, tuple[float | None, float | None]]] = {}

    def of(self, stats: dict[str, Any]) -> dict[str, float | None]:
        """The rates of a queue whose numbers are these; None until there were two looks."""
        name, added = stats["name"], stats["added"]
        out = stats["taken"] + stats["delivered"] + stats["acked"]
        now = self.now()
        rates: tuple[float | None, float | None] = (None, None)
        before = self._seen.get(name)
        if before is not None and added >= before[1] and out >= before[2]:  # else it was forgotten meanwhile
            spent, rates = now - before[0], before[3]
            if spent < 1:
                return dict(zip(("add_rate", "out_rate"), rates))
            rates = round((added - before[1]) / spent, 3), round((out - before[2]) / spent, 3)
        self._seen.pop(name, None)
        self._seen[name] = now, added, out, rates
        if len(self._seen) > self.MOST:
            del self._seen[next(iter(self._seen))]
        return dict(zip(("add_rate", "out_rate"), rates))
