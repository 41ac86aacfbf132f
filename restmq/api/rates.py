"""The rates of a queue: adds and hand-outs a second, between two looks at it.

Owns what an instance remembers of the last look. Knows neither HTTP nor Redis. Read api/stats.py next.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Rates:
    """Adds and hand-outs a second, between two looks of this instance at a queue that are at least a second apart."""

    MOST = 10_000  # most queues that are remembered; beyond them, the queue with the oldest look is forgotten

    def __init__(self) -> None:
        self.now = time.monotonic
        self._seen: dict[object, tuple[float, int, int, tuple[float | None, float | None]]] = {}

    def of(self, stats: Mapping[str, Any]) -> dict[str, float | None]:  # Any: a name is str, a number int
        """The rates of a queue with these numbers of /stats. They are None until there were two looks."""
        name, added = stats["name"], stats["added"]
        out = stats["taken"] + stats["delivered"] + stats["acked"]
        now = self.now()
        rates: tuple[float | None, float | None] = (None, None)
        before = self._seen.get(name)
        # A queue whose numbers are smaller than before was forgotten meanwhile.
        if before is not None and added >= before[1] and out >= before[2]:
            spent, rates = now - before[0], before[3]
            if spent < 1:
                return dict(zip(("add_rate", "out_rate"), rates))
            rates = round((added - before[1]) / spent, 3), round((out - before[2]) / spent, 3)
        self._seen.pop(name, None)
        self._seen[name] = now, added, out, rates
        if len(self._seen) > self.MOST:
            del self._seen[next(iter(self._seen))]
        return dict(zip(("add_rate", "out_rate"), rates))
