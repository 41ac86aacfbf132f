"""The parser: from bytes to heads, and to the chunks of a body (RFC 9112).

Owns the syntax and its limits. Knows no connection, no time and no route. Read http/connection.py next.
"""

from __future__ import annotations

import re

from restmq.http.headers import FIELD, LINE, TOKEN, Fields, fields
from restmq.http.request import BodyLimit, Request
from restmq.model import errors
from restmq.runtime.room import Ticket

MAX_LINE = 8192  # most bytes of a request line, and of a line between chunks
MAX_HEAD = 16384  # most bytes of a head, and of a trailer
FEW_CHUNKS, SMALL_CHUNK = 4096, 8  # a body may have so many chunks, and one more for each 8 bytes of it

_TARGET = rb"[!\"$-~\x80-\xff]+"  # visible characters, without the # of a fragment
_HEAD = re.compile(
    rb"(?!CONNECT )(" + TOKEN + rb"{1,32}) (" + _TARGET + rb") HTTP/1\.([0-9])\r\n((?:" + FIELD + rb"\r\n)*)\r\n"
)
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"+) ([!-~\x80-\xff]+) HTTP/([0-9])\.[0-9]\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?\Z")
_SMALL_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,3})\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_ABSOLUTE = re.compile(rb"https?://([^/?@]+)(?![^/?])", re.IGNORECASE)


class Body:
    """A body that is still coming. `want` is the number of bytes that come next, or the kind of line.

    - `size` bytes have come.
    - `limit` is how large the address lets the body be. Without it, the request was answered at its head, and the
      bytes are
    thrown away.
    - `room` bytes are kept free for the body, or will be when `ticket` is called.
    """

    __slots__ = (
        "began", "chunked", "chunks", "data", "expects", "limit", "request", "room", "size", "ticket", "trailer", "want"
    )  # fmt: skip

    def __init__(self, request: Request, began: int) -> None:
        self.request, self.began = request, began
        self.data = bytearray()
        self.size = self.trailer = self.chunks = 0
        self.chunked = request.fields.chunked
        self.want: int | str = request.fields.length or "size"
        self.expects = request.fields.expects
        self.limit: BodyLimit | None = None
        self.room = 0
        self.ticket: Ticket | None = None

    def small_chunks(self, data: bytes, at: int, most: int) -> int:
        """Take the small chunks that are here as a whole and follow each other. Returns the position after them.

        If they were taken one by one as large chunks are, a MiB of the smallest would hold the reactor for 0.3 s. A
        chunk with which the body has more than `most` bytes is left.
        """
        parts, size = [], self.size
        while found := _SMALL_CHUNK.match(data, at):
            begin = found.end()
            end = begin + int(found[1], 16)
            size += end - begin
            if end == begin or size > most or data[end : end + 2] != b"\r\n":
                break
            parts.append(data[begin:end])
            at = end + 2
        if parts:
            taken = b"".join(parts)
            self.size += len(taken)
            self._count_chunks(len(parts))
            if self.limit is not None:
                self.data += taken
        return at

    def _count_chunks(self, many: int) -> None:
        self.chunks += many
        if self.chunks > FEW_CHUNKS + self.size // SMALL_CHUNK:
            raise errors.BadRequest(
                f"the body comes in chunks of less than {SMALL_CHUNK} bytes, and in more than {FEW_CHUNKS} of them: "
                "send fewer and larger chunks"
            )

    def between(self, line: bytes, most: int) -> bool:
        """Read a line before, between or after chunks (RFC 9112 section 7.1). Returns whether it is the last one.

        Raises TooLarge for a chunk with which the body has more than `most` bytes, BadRequest for a malformed line.
        """
        if self.want == "size":
            found = _CHUNK.match(line)
            if not found:
                raise errors.BadRequest("a chunk's size is not a number")
            size = int(found[1], 16)
            if self.size + size > most:
                raise errors.TooLarge(f"the body exceeds {most} bytes")
            self._count_chunks(1)
            self.want = size if size else "trailer"
        elif self.want == "end":
            if line:
                raise errors.BadRequest("a chunk is longer than its size says")
            self.want = "size"
        elif line:
            self.trailer += len(line)
            if self.trailer > MAX_HEAD:
                raise errors.HeadTooLarge("the trailer is too large")
            if not LINE.match(line):
                raise errors.BadRequest("a trailer line is malformed")
        else:
            return True
        return False


def check_beginning(head: bytes, scanned: int) -> None:
    """Check that the beginning of a head may become a good head. Its first `scanned` bytes were checked before.

    Raises TargetTooLong, HeadTooLarge or BadRequest.
    """
    if len(head) > MAX_LINE and head.find(b"\r\n", 0, MAX_LINE + 2) < 0:
        raise errors.TargetTooLong(f"the request line exceeds {MAX_LINE} bytes")
    if len(head) > MAX_HEAD:
        raise errors.HeadTooLarge(f"the head exceeds {MAX_HEAD} bytes")
    if _BARE_LF.search(head, max(0, scanned - 1)):
        raise errors.BadRequest("a line ends without CR: lines must end in CRLF (RFC 9112 section 2.2)")


def read_head(data: bytes, at: int, end: int) -> tuple[str, bytes, bool, Fields]:
    """Read the head in data[at:end]: method, target, whether it is HTTP/1.1 or newer, and the header lines.

    Raises TargetTooLong, HeadTooLarge or BadRequest.
    """
    if end - at > MAX_LINE and data.find(b"\r\n", at, at + MAX_LINE + 2) < 0:
        raise errors.TargetTooLong(f"the request line exceeds {MAX_LINE} bytes")
    if end - at > MAX_HEAD:
        raise errors.HeadTooLarge(f"the head exceeds {MAX_HEAD} bytes")
    found = _HEAD.match(data, at, end)
    if found is None:
        raise _malformed(data, at, end)
    method, target, minor, block = found.groups()
    newer = minor != b"0"  # a newer version than 1.1 is read as 1.1 (RFC 9110 section 2.5)
    given = fields(block, newer)
    if target[:1] != b"/":
        target, given = _origin_form(method, target, given, newer)
    return method.decode("ascii"), target, newer, given


def _malformed(data: bytes, at: int, end: int) -> errors.Error:
    """The error for a malformed head in data[at:end] (RFC 9112 sections 2.3, 3 and 5)."""
    line = _REQUEST_LINE.match(data, at, end)
    if line is None:
        return errors.BadRequest("the request line is malformed: send METHOD TARGET HTTP/1.1, with one space between")
    method, target, major = line.groups()
    if major != b"1":
        return errors.VersionNotSupported("this server speaks HTTP/1.1 and HTTP/1.0")
    if len(method) > 32:
        return errors.NotImplementedHere("the method is too long: no known method is")
    if method == b"CONNECT":
        return errors.BadRequest("CONNECT is for proxies, and this server is not a proxy")
    if b"#" in target:
        return errors.BadRequest("a target has no fragment: remove the part from # on, or write %23")
    return errors.BadRequest("a header line is malformed: send NAME: VALUE on one line, no space before the colon")


def _origin_form(method: bytes, target: bytes, given: Fields, newer: bool) -> tuple[bytes, Fields]:
    """The path of a target that does not begin with one: the form for proxies, or * (RFC 9112 sections 3.2.2, 3.2.4).

    The host in the form for proxies counts, whatever Host says: it becomes the Host of the returned header lines.
    Raises BadRequest for any other form.
    """
    found = _ABSOLUTE.match(target)
    if not found:
        if target == b"*" and method == b"OPTIONS":
            return target, given
        raise errors.BadRequest("the target must begin with a slash; only OPTIONS may have *, and a proxy http://HOST/")
    if found[1] != given.values.get(b"host"):
        lines = [line for line in given.block.split(b"\r\n") if line and line[:5].lower() != b"host:"]
        given = fields(b"\r\n".join((b"Host: " + found[1], *lines, b"")), newer)
    rest = target[found.end() :]
    if not rest and method == b"OPTIONS":
        return b"*", given
    return (rest if rest[:1] == b"/" else b"/" + rest), given
