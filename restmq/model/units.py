"""Times and sizes as people write them: in requests, in a queue's settings and in restmq.conf.

Owns their only form. Knows nothing of what they are for. Read model/options.py and model/settings.py next.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: The forms of a time and of a size, for an error text.
A_TIME = "a time: 2, 0.5, 500ms, 30s, 5m, 2h or 1d"
A_SIZE = "a size: 4096, 64k or 1MiB"
_TIME = re.compile(r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}) ?(ms|s|m|h|d)?\Z", re.ASCII)
_SIZE = re.compile(r"(\d{1,18}) ?([a-z]{0,3})\Z", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}\Z", re.ASCII)
_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # from the largest
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20}


def milliseconds(text: str) -> float:
    """A time in ms, not rounded. A time without a unit is in seconds. Raises ValueError."""
    found = _TIME.match(text)
    if not found:
        raise ValueError(f"it takes {A_TIME}")
    return float(found[1]) * _MS[found[2] or "s"]


def size(text: str) -> int:
    """A size in bytes. Raises ValueError."""
    found = _SIZE.match(text.lower())
    if not found or found[2] not in _BYTES:
        raise ValueError(f"it takes {A_SIZE}")
    return int(found[1]) * _BYTES[found[2]]


def number_within(low: int, high: int) -> Callable[[str], int]:
    """A parser for a whole number from `low` to `high`. The parser raises ValueError."""

    def parse(text: str) -> int:
        if not _NUMBER.match(text) or not low <= int(text) <= high:
            raise ValueError(f"it takes a number from {low} to {high}")
        return int(text)

    return parse


def size_within(low: int, high: int) -> Callable[[str], int]:
    """A parser for a size from `low` to `high` bytes. The parser raises ValueError."""

    def parse(text: str) -> int:
        value = size(text)
        if not low <= value <= high:
            raise ValueError(f"it takes {low} to {high} bytes")
        return value

    return parse
