"""Names, keys and elements: the nouns on the wire, and the one rule for names.

Owns the form of a queue name and of a key. Knows nothing of HTTP or Redis. Every entrance calls `queue_name` or
`parse_key`. Read runtime/future.py next.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from restmq.model.errors import BadKey, BadName

MAX_NAME = 255
PIECE = 64 << 10  # bytes that are decoded at a time
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f-\x9f/,{}"<>\\]')
_LEASE = re.compile(rb'"?([1-9][0-9]{0,15})\.([1-9][0-9]{0,15})@([0-9a-zA-Z.]{1,64})"?\Z')
_NUMBER = re.compile(rb"[1-9][0-9]{0,15}\Z")


class Lease(NamedTuple):
    """A lease as clients see it, N.D@EPOCH: the element's number, its count of deliveries, the queue's epoch."""

    number: int
    deliveries: int
    epoch: bytes

    def __bytes__(self) -> bytes:
        return b"%d.%d@%b" % self


class Element(NamedTuple):
    """One element as a consumer sees it. `count` says how often `get` showed it. `epoch` is set with a lease."""

    queue: bytes
    number: int
    value: bytes
    count: int = 0  # type: ignore[assignment]  # it hides tuple.count, which RestMQ does not use
    deliveries: int = 0
    epoch: bytes = b""

    @property
    def key(self) -> bytes:
        """The element's key, NAME:N."""
        return b"%s:%d" % (self.queue, self.number)

    @property
    def lease(self) -> Lease:
        """The lease under which the element was handed out."""
        return Lease(self.number, self.deliveries, self.epoch)


def quoted(given: bytes) -> str:
    """A client's bytes for an error text: in quotes, as ASCII, the first 100 bytes at most."""
    return ascii(given[:100].decode("utf-8", "replace")) + ("…" if len(given) > 100 else "")


def queue_name(raw: bytes) -> bytes:
    """Check a queue name that is percent-decoded, and return it.

    A name has 1 to 255 bytes of UTF-8. No control character, no space and none of / , { } " < > \\ is in it, and it
    is not . or .. . Raises BadName with the reason.
    """
    if not raw:
        raise BadName("the queue name is empty")
    if len(raw) > MAX_NAME:
        raise BadName(f"the queue name has {len(raw)} bytes; at most {MAX_NAME} are allowed")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("the queue name is not UTF-8") from None
    found = _FORBIDDEN.search(text)
    if found:
        raise BadName(
            f"the queue name has {found[0]!a} in it; control characters, spaces and "
            'any of / , { } " < > \\ are not allowed'
        )
    if text in (".", ".."):
        raise BadName(f"the queue name cannot be {text}, because clients remove it from a path")
    return raw


def not_utf8(text: bytes) -> int:
    """The place of the first byte that UTF-8 does not allow there, or -1 if there is none. Takes little memory."""
    if len(text) <= PIECE:
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            return error.start
        return -1
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(text), PIECE):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(text[at : at + PIECE], at + PIECE >= len(text))
        except UnicodeDecodeError as error:
            return at - pending + error.start
    return -1


def number(raw: bytes) -> int:
    """The number of an element: decimal, from 1, without a leading zero. Raises BadKey."""
    if not _NUMBER.match(raw):
        raise BadKey(f"{quoted(raw)} is not an element number: elements are counted from 1")
    return int(raw)


def parse_lease(text: bytes) -> Lease:
    """A lease read from N.D@EPOCH, with or without an ETag's quotes. Raises BadKey."""
    found = _LEASE.match(text)
    if not found:
        raise BadKey(f"{quoted(text)} is not a lease: send N.D@EPOCH, as it came with the element")
    return Lease(int(found[1]), int(found[2]), found[3])


def parse_key(key: bytes, queue: bytes) -> int:
    """The number in NAME:N, if the key belongs to the queue. Raises BadKey."""
    name, colon, digits = key.rpartition(b":")
    if not colon:
        raise BadKey(f"{quoted(key)} is not a key: keys are NAME:N, as add answered them")
    if name != queue:
        raise BadKey(f"the key {quoted(key)} belongs to another queue than {quoted(queue)}")
    return number(digits)
