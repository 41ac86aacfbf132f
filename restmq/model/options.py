"""The meaning of options: times as people write them, in milliseconds for the store.

Owns the parsers that handlers give to `options()`, and the same for JSON fields. Knows no route.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from datetime import datetime, timezone

from restmq.model import units
from restmq.model.document import written
from restmq.model.errors import BadOption

_SECONDS = re.compile(r"\d{1,15}(?:\.\d{0,99})?\Z", re.ASCII)
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d{1,99})?(?:[Zz]|([+-])(\d\d):(\d\d))\Z", re.ASCII
)
DAY = 86_400_000
YEAR = 366 * DAY
MINUTE = 60_000
MOST = 1000  # most elements in one answer, and leases in one request
_NUMBER = re.compile(r"0*([1-9][0-9]{0,2}|1000)\Z", re.ASCII)
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"\Z', re.ASCII)  # RFC 9651 section 3.3.3
EMPTY = "is empty, perhaps because a variable was not set; give it a value or leave it out"
_SWITCH = {"1": True, "0": False, "true": True, "false": False}
_KEY = re.compile(r"[!-~]{1,255}\Z", re.ASCII)


def milliseconds(name: str, text: str) -> int:
    """A time as `1.5`, `500ms`, `30s`, `5m`, `2h` or `1d`, in ms. A time above 0 is at least 1 ms. Raises BadOption."""
    try:
        exact = units.milliseconds(text)
    except ValueError:
        raise BadOption(f"{name} is not a time: {text[:40]!a}; write seconds, or 500ms 30s 5m 2h 1d") from None
    return max(1, round(exact)) if exact > 0 else 0


def ttl(text: str) -> int:
    """A ttl in ms, above 0 and at most 366 days. Raises BadOption."""
    value = milliseconds("ttl", text)
    if not 0 < value <= YEAR:
        raise BadOption("ttl must be above 0 and at most 366 days")
    return value


def delay(text: str) -> int:
    """A delay in ms, at most 366 days. 0 means no delay. Raises BadOption."""
    value = milliseconds("delay", text)
    if value > YEAR:
        raise BadOption("delay is at most 366 days")
    return value


def at(text: str) -> int:
    """A Unix time in ms, read from Unix seconds or a time of RFC 3339 (2027-01-31T12:00:00Z). Raises BadOption."""
    if _SECONDS.match(text):
        return round(float(text) * 1000)
    found = _RFC_3339.match(text)
    if not found:
        raise BadOption(
            f"at is not a time: {text[:40]!a}; write Unix seconds, or 2027-01-31T12:00:00Z, or +01:00 in place of Z "
            "(in a query or a form %2B01:00)"
        )
    *numbers, fraction, sign, hours, minutes = found.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    away = 60 * (60 * int(hours or 0) + int(minutes or 0)) * (-1 if sign == "-" else 1)
    try:
        if int(hours or 0) > 23 or int(minutes or 0) > 59 or second > 60:
            raise ValueError
        # Python does not know the year 0000 (RFC 3339 appendix C: a leap year). The year 0004 is as long past.
        exact = datetime(year or 4, month, day, hour, minute, 0, 0, timezone.utc).timestamp() + second - away
    except ValueError:
        raise BadOption(f"at is not a time: {text[:40]!a} does not exist") from None
    return max(0, round((exact + float(fraction or 0)) * 1000))


def lease(text: str) -> int:
    """How long an element is leased, in ms, above 0 and at most 24 hours. Raises BadOption."""
    value = release(text)
    if not value:
        raise BadOption("lease must be above 0 and at most 24 hours")
    return value


def release(text: str) -> int:
    """How long a lease holds from now, in ms, at most 24 hours. 0 gives the lease back. Raises BadOption."""
    value = milliseconds("lease", text)
    if value > DAY:
        raise BadOption("lease is at most 24 hours")
    return value


def wait(text: str) -> int:
    """How long to wait for an element, in ms, at most 60 seconds. 0 means not to wait. Raises BadOption."""
    value = milliseconds("wait", text)
    if value > MINUTE:
        raise BadOption("wait is at most 60 seconds; ask again when they are over")
    return value


def at_most(text: str) -> int:
    """The largest number of elements to answer, 1 to 1000. Raises BadOption."""
    return _count("max", text)


def _count(name: str, text: str) -> int:
    if not _NUMBER.match(text):
        raise BadOption(f"{name} is a number from 1 to {MOST}")
    return int(text)


def idempotency_key(name: str, text: str) -> bytes:
    """An Idempotency-Key: 1 to 255 visible ASCII characters. Keys are compared as they stand. Raises BadOption."""
    if not _KEY.match(text):
        raise BadOption(f"{name} is one word of 1 to 255 visible ASCII characters, without spaces")
    return text.encode("ascii")


def unquoted(name: str, text: str) -> str:
    """The meaning of a header's string (RFC 9651 section 3.3.3): "k" means k, and a word means itself.

    Raises BadOption.
    """
    if text[:1] != '"':
        return text
    found = _STRING.match(text)
    if not found:
        raise BadOption(
            f'{name} begins with a quote, but is not a string: write "k", in which only \\" and \\\\ are escaped'
        )
    return re.sub(r"\\(.)", r"\1", found[1])


def of_json(name: str, value: object, parse: Callable[[str], int]) -> int:
    """A time in a JSON document: a number of seconds, or a text such as "5m". `at` is a moment. Raises BadOption."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        text = "2027-01-31T12:00:00Z" if parse is at else "5m"
        raise BadOption(f'the field {name!r} must be a number of seconds or a text such as "{text}"')
    if value == "":
        raise BadOption(f"the field {name!r} {EMPTY}")
    return parse(written(value))


def prefetch(text: str) -> int:
    """How many elements may be leased at a time, 1 to 1000. Raises BadOption."""
    return _count("prefetch", text)


def switch(name: str, text: str) -> bool:
    """A switch: 1 or 0, or in JSON true or false. Raises BadOption."""
    if text not in _SWITCH:
        raise BadOption(f"{name} is 1 or 0, not {text[:40]!a}")
    return _SWITCH[text]


def check_delay_or_at(given: Container[str]) -> None:
    """Raise BadOption if both `delay` and `at` were given."""
    if "delay" in given and "at" in given:
        raise BadOption("send either delay, how long, or at, until when; not both")
