"""Names, keys and elements: the nouns on the wire, and the one name rule.

Owns what a queue name and a key may look like; knows nothing of HTTP or
Redis. Every entrance calls `queue_name` or `parse_key`. Read slot.py next.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from restmq.errors import BadKey, BadName

MAX_NAME = 255
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f-\x9f/,{}"<>\\]')
_NUMBER = re.compile(rb"[1-9][0-9]{0,15}\Z")


class Element(NamedTuple):
    """One element as a consumer sees it. `count` is how often `get` showed it."""

    queue: bytes
    number: int
    value: bytes
    count: int = 0  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    @property
    def key(self) -> bytes:
        """The element's key, NAME:N."""
        return b"%s:%d" % (self.queue, self.number)


def queue_name(raw: bytes) -> bytes:
    """Check a queue name, already percent-decoded, and give it back.

    1 to 255 bytes of UTF-8; no control character, no space, none of
    / , { } " < > \\ ; not . or .. . Raises BadName with the reason.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("the queue name is not UTF-8") from None
    if not raw:
        raise BadName("the queue name is empty")
    if len(raw) > MAX_NAME:
        raise BadName(f"the queue name has {len(raw)} bytes, {MAX_NAME} are the most")
    found = _FORBIDDEN.search(text)
    if found:
        raise BadName(
            f"the queue name has {found[0]!a} in it; control characters, spaces and "
            'any of / , { } " < > \\ are not allowed'
        )
    if text in (".", ".."):
        raise BadName(f"the queue name cannot be {text}, clients fold it away")
    return raw


def number(raw: bytes) -> int:
    """The number of an element: decimal, from 1, no leading zero. Raises BadKey."""
    if not _NUMBER.match(raw):
        raise BadKey(f"{raw.decode('utf-8', 'replace')!a} is no element number: it counts from 1")
    return int(raw)


def parse_key(key: bytes, queue: bytes) -> int:
    """The number in NAME:N, for the queue it must belong to. Raises BadKey."""
    name, colon, digits = key.rpartition(b":")
    if not colon:
        raise BadKey(f"{key.decode('utf-8', 'replace')!a} is no key: keys are NAME:N, as add answered them")
    if name != queue:
        raise BadKey(
            f"the key {key.decode('utf-8', 'replace')!a} belongs to another queue "
            f"than {queue.decode('utf-8', 'replace')!a}"
        )
    return number(digits)
