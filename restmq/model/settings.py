"""A queue's settings: their names, the values that they take, and how people and the functions in Redis write them.

Owns the only table of settings, SETTINGS. A new setting needs only a line there to be read, shown and refused, over
the wire and in restmq.conf, and to reach the functions. api/admin.py takes settings over the wire, config.py from
restmq.conf: read them next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from restmq.model import document, options, units
from restmq.model.errors import BadOption
from restmq.model.suggest import hint
from restmq.model.tokens import FEW

SEND = 'send settings as one JSON object, such as {"max_length": 1000}'
POLICIES = ("broadcast", "roundrobin")
MOST = 10**12  # most elements or bytes of a queue
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


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
    """fixed:TIME or exp:TIME:TIME, with the times in ms. `none` is stored as a word that the functions do not know."""
    if text in ("", "none"):
        return "none"
    kind, *times = text.split(":")
    if len(times) != {"fixed": 1, "exp": 2}.get(kind):
        raise ValueError("it takes none, fixed:TIME or exp:FIRST:MOST, such as fixed:30s or exp:1s:10m")
    ms = [_time(word) for word in times]
    if not 0 < ms[0] <= ms[-1]:
        raise ValueError("its times must be above 0, and FIRST not above MOST")
    return ":".join([kind, *map(str, ms)])


def _shown(stored: str) -> int | str:
    return int(stored) if stored.isdecimal() else stored


def _time_shown(stored: str) -> str:
    return timewritten(int(stored))


def _backoff_shown(stored: str) -> str:
    kind, *times = stored.split(":")
    return ":".join([kind or "none", *map(_time_shown, times)])


class Setting(NamedTuple):
    """One setting of a queue.

    - `default` holds if neither restmq.conf nor the queue has another value. Times are in ms; 0 and "" mean none.
    - `parse` makes the stored value from the text that people write, and raises ValueError.
    - `show` makes the text that people write from the stored value.
    """

    default: int | str
    parse: Callable[[str], int | str]
    show: Callable[[str], int | str] = _shown


#: Every setting of a queue, in the order in which they are shown.
SETTINGS: dict[str, Setting] = {
    "policy": Setting("broadcast", _one_of(*POLICIES)),
    "history": Setting(1000, units.number_within(0, 1_000_000)),
    "history_bytes": Setting(1 << 20, units.size_within(0, 1 << 30)),
    "max_deliveries": Setting(0, units.number_within(0, 1_000_000)),
    "backoff": Setting("", _backoff, _backoff_shown),
    "dead_ttl": Setting(0, _time, _time_shown),
    "max_length": Setting(0, units.number_within(0, MOST)),
    "max_bytes": Setting(0, units.size_within(0, MOST)),
    "overflow": Setting("refuse", _one_of("refuse", "drop_oldest")),
    "idle_ttl": Setting(0, _time, _time_shown),
}
#: The values that hold if neither restmq.conf nor the queue has others.
DEFAULTS: dict[str, int | str] = {name: setting.default for name, setting in SETTINGS.items()}


def checked(given: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """The settings for Core.set(), all checked. A setting with None or "" goes back to its default.

    Raises BadOption, which names the setting. For an unknown setting, the error names the nearest known one.
    """
    found: dict[str, str] = {}
    for name, text in given:
        if name not in SETTINGS:
            raise BadOption(f"there is no setting {name[:80]!a}; {hint(name, SETTINGS)}")
        if name in found:
            raise BadOption(f"the setting {name} was given twice")
        try:
            found[name] = str(SETTINGS[name].parse(text)) if text else ""
        except ValueError as error:
            raise BadOption(f"{name}: {error}; this is {(text or '')[:40]!a}") from None
    return found


def of_json(text: bytes) -> list[tuple[str, str | None]]:
    """The settings in a JSON object, each as people write it in a form. Raises BadRequest, BadOption."""
    found: list[tuple[str, str | None]] = []
    for name, value in document.read(text, SEND, most=FEW).items():
        if isinstance(value, (bool, list)) or (plain := document.plain(value)) is None:
            raise BadOption(f"{name[:40]!a}: it takes a string, a number, or null for its default")
        found.append((name, None if value is None else plain))
    return found


def shown(own: Mapping[str, str], defaults: Mapping[str, object]) -> dict[str, int | str]:
    """Every setting with the value that holds, as people write it: the queue's own value, or the default."""
    values: dict[str, object] = {**defaults, **own}
    return {name: setting.show(str(values[name])) for name, setting in SETTINGS.items()}


def timewritten(ms: int) -> str:
    """A time in the largest unit that holds it exactly. Reading the text gives the same time again."""
    if not ms or (ms % 1000 and ms >= 10**9):  # a time may have at most nine digits
        return f"{ms / 1000:.3f}s" if ms else "0s"
    return next(f"{ms // size}{unit}" for unit, size in _UNITS if ms % size == 0)
