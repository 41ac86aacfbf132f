"""A queue's settings: their names, what each may be, how people write it and how the functions in Redis read it.

Owns every setting's range and form; asks nobody and changes nothing. What they
are when nobody says otherwise stands in RULES, then in restmq.conf.
api/admin.py takes them over the wire, config.py out of restmq.conf. Read those next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from restmq.model import document, options, units
from restmq.model.errors import BadOption
from restmq.model.suggest import hint
from restmq.model.tokens import FEW

#: A queue's policy and rules, and what they are when nobody says otherwise (restmq.conf, then its own). Times in ms.
RULES: dict[str, object] = {
    "policy": "broadcast",
    "history": 1000,
    "history_bytes": 1 << 20,
    "max_deliveries": 0,
    "backoff": "",
    "dead_ttl": 0,
    "max_length": 0,
    "max_bytes": 0,
    "overflow": "refuse",
    "idle_ttl": 0,
}
SEND = 'settings are one JSON object, such as {"max_length": 1000}'
POLICIES = ("broadcast", "roundrobin")
MOST = 10**12  # elements or bytes of a queue
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def _number(high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > high:
            raise ValueError(f"it takes a number from 0 to {high}")
        return int(text)

    return parse


def _size(high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = units.size(text)
        if value > high:
            raise ValueError(f"it takes 0 to {high} bytes")
        return value

    return parse


def _time(text: str) -> int:
    try:
        value = options.milliseconds("it", text)
    except BadOption:
        raise ValueError(f"it takes {units.A_TIME}") from None
    if value > options.YEAR:
        raise ValueError("it takes 0 to 366 days")
    return value


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError("it takes " + " or ".join(known))
        return text

    return parse


def _backoff(text: str) -> str:
    """fixed:TIME or exp:TIME:TIME, with the times in ms; none is stored as a word that the functions do not know."""
    if text in ("", "none"):
        return "none"
    kind, *times = text.split(":")
    if len(times) != {"fixed": 1, "exp": 2}.get(kind):
        raise ValueError("it takes none, fixed:TIME or exp:FIRST:MOST, such as fixed:30s or exp:1s:10m")
    ms = [_time(word) for word in times]
    if not 0 < ms[0] <= ms[-1]:
        raise ValueError("its times are above 0, and FIRST is not above MOST")
    return ":".join([kind, *map(str, ms)])


_PARSERS: dict[str, Callable[[str], int | str]] = {
    "policy": _one_of(*POLICIES),
    "history": _number(1_000_000),
    "history_bytes": _size(1 << 30),
    "max_deliveries": _number(1_000_000),
    "backoff": _backoff,
    "dead_ttl": _time,
    "max_length": _number(MOST),
    "max_bytes": _size(MOST),
    "overflow": _one_of("refuse", "drop_oldest"),
    "idle_ttl": _time,
}
#: Every setting of a queue, in the order in which they are shown.
NAMES = tuple(_PARSERS)
TIMES = ("dead_ttl", "idle_ttl")


def parse(name: str, text: str) -> int | str:
    """A setting as it is stored, out of what people write: times in ms, sizes in bytes. Raises ValueError: why not."""
    return _PARSERS[name](text)


def checked(given: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Settings for Core.set(), all checked. None or "" is one that goes back to its default.

    Raises BadOption, which names the setting; for one that is not known, the nearest.
    """
    told: dict[str, str] = {}
    for name, text in given:
        if name not in _PARSERS:
            raise BadOption(f"there is no setting {name[:80]!a}; {hint(name, NAMES)}")
        if name in told:
            raise BadOption(f"the setting {name} was given twice")
        try:
            told[name] = str(parse(name, text)) if text else ""
        except ValueError as error:
            raise BadOption(f"{name}: {error}; this is {(text or '')[:40]!a}") from None
    return told


def of_json(text: bytes) -> list[tuple[str, str | None]]:
    """The settings in a JSON object, each as people write it in a form. Raises BadRequest, BadOption."""
    found: list[tuple[str, str | None]] = []
    for name, value in document.read(text, SEND, most=FEW).items():
        if isinstance(value, (bool, list)) or (told := document.plain(value)) is None:
            raise BadOption(f"{name[:40]!a}: it takes a string, a number, or null for its default")
        found.append((name, None if value is None else told))
    return found


def shown(told: Mapping[str, str], defaults: Mapping[str, object]) -> dict[str, int | str]:
    """Every setting with the value that holds, as people write it: what the queue was told, else the default."""
    values: dict[str, Any] = {**RULES, **defaults, **told}
    return {name: written(name, str(values[name])) for name in NAMES}


def written(name: str, stored: str) -> int | str:
    """A setting as people write it, out of what is stored."""
    if name in TIMES:
        return timewritten(int(stored))
    if name == "backoff":
        kind, *times = stored.split(":")
        return ":".join([kind or "none", *(timewritten(int(ms)) for ms in times)])
    return int(stored) if stored.isdecimal() else stored


def timewritten(ms: int) -> str:
    """A time in the largest unit that holds it exactly; reading it gives the same again."""
    if not ms or (ms % 1000 and ms >= 10**9):  # nine digits are the most that a time may have
        return f"{ms / 1000:.3f}s" if ms else "0s"
    return next(f"{ms // size}{unit}" for unit, size in _UNITS if ms % size == 0)
