"""What options mean: times as people write them, in milliseconds for the core.

Owns the parsers that handlers give to `options()`; knows no route.
"""

from __future__ import annotations

import re

from restmq.errors import BadOption

_TIME = re.compile(r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(ms|s|m|h|d)?\Z", re.ASCII)
_UNITS = {"ms": 1, "s": 1000, None: 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DAY = 86_400_000
YEAR = 366 * DAY


def milliseconds(name: str, text: str) -> int:
    """A time as `1.5`, `500ms`, `30s`, `5m`, `2h` or `1d`; at least 1 ms when it is above 0. Raises BadOption."""
    found = _TIME.match(text)
    if not found:
        raise BadOption(f"{name} is no time: {text[:40]!a}; write seconds, or 500ms 30s 5m 2h 1d")
    exact = float(found[1]) * _UNITS[found[2]]
    return max(1, round(exact)) if exact > 0 else 0


def ttl(text: str) -> int:
    """A ttl in ms: above 0, at most 366 days. Raises BadOption."""
    value = milliseconds("ttl", text)
    if not 0 < value <= YEAR:
        raise BadOption("ttl must be above 0 and at most 366 days")
    return value


def lease(text: str) -> int:
    """A lease in ms: above 0, at most 24 hours. Raises BadOption."""
    value = milliseconds("lease", text)
    if not 0 < value <= DAY:
        raise BadOption("lease must be above 0 and at most 24 hours")
    return value


def prefetch(text: str) -> int:
    """How many may be leased at a time: 1 to 1000. Raises BadOption."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= 1000:
        raise BadOption("prefetch is a number from 1 to 1000")
    return int(text)


def yes(name: str, text: str) -> bool:
    """A switch: 1 or 0. Raises BadOption."""
    if text not in ("0", "1"):
        raise BadOption(f"{name} is 1 or 0, not {text[:40]!a}")
    return text == "1"
