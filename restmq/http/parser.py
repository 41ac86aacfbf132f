"""The parser: bytes to heads, and the chunks of a body (RFC 9112).

Owns their syntax and its limits; knows no connection, no time and no route. Read http/connection.py next.
"""

from __future__ import annotations

import re

from restmq.http.headers import FIELD, LINE, TOKEN, Fields, fields
from restmq.http.request import Most, Request
from restmq.model import errors
from restmq.runtime.room import Ticket

MAX_LINE = 8192  # bytes of a request line, and of a line between chunks
MAX_HEAD = 16384  # bytes of a head, and of a trailer
FEW_CHUNKS, SMALL_CHUNK = 4096, 8  # a body may have so many chunks, and one more for each 8 bytes of it

_TARGET = rb"[!\"$-~\x80-\xff]+"  # visible, without the # of a fragment
_HEAD = re.compile(
    rb"(?!CONNECT )(" + TOKEN + rb"{1,32}) (" + _TARGET + rb") HTTP/1\.([0-9])\r\n((?:" + FIELD + rb"\r\n)*)\r\n"
)
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"+) ([!-~\x80-\xff]+) HTTP/([0-9])\.[0-9]\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?\Z")
_SMALL_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,3})\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_ABSOLUTE = re.compile(rb"https?://([^/?@]+)(?![^/?])", re.IGNORECASE)


class Body:
    """A body that is still coming. `want` is how many bytes of it are next, or which line.

    `size` bytes came; `most` is what the address lets it have. Without `most` its request
    was answered at its head, and what comes is thrown away. `room` bytes are kept free for it,
    or will be when `ticket` is called.
    """

    __slots__ = (
        "began", "chunked", "chunks", "data", "expects", "most", "request", "room", "size", "ticket", "trailer", "want"
    )  # fmt: skip

    def __init__(self, request: Request, began: int) -> None:
        self.request, self.began = request, began
        self.data = bytearray()
        self.size = self.trailer = self.chunks = 0
        self.chunked = request.fields.chunked
        self.want: int | str = request.fields.length or "size"
        self.expects = request.fields.expects
        self.most: Most | None = None
        self.room = 0
        self.ticket: Ticket | None = None

    def small_chunks(self, data: bytes, at: int, most: int) -> int:
        """Take small chunks that are here as a whole, as many as follow each other; the position after them.

        One by one, as large ones are taken, a MiB of the smallest would hold the reactor for 0.3 s. Those with which
        the body has more than `most` bytes are left.
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
            if self.most is not None:
                self.data += taken
        return at

    def _count_chunks(self, many: int) -> None:
        self.chunks += many
        if self.chunks > FEW_CHUNKS + self.size // SMALL_CHUNK:
            raise errors.BadRequest(
                f"the body comes in chunks of less than {SMALL_CHUNK} bytes, and in more than {FEW_CHUNKS} of them: "
                "gather some before you send them"
            )

    def between(self, line: bytes, most: int) -> bool:
        """A line before, between or behind chunks (RFC 9112 section 7.1); whether it is the last.

        Raises TooLarge for a chunk with which the body has more than `most` bytes, BadRequest for what is no such
        line.
        """
        if self.want == "size":
            found = _CHUNK.match(line)
            if not found:
                raise errors.BadRequest("a chunk's size is no number")
            size = int(found[1], 16)
            if self.size + size > most:
                raise errors.TooLarge(f"the body is over {most} bytes")
            self._count_chunks(1)
            self.want = size if size else "trailer"
        elif self.want == "end":
            if line:
                raise errors.BadRequest("a chunk is longer than it said")
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
    """Whether the beginning of a head may become a good one; the first `scanned` bytes of it were looked at before.

    Raises TargetTooLong, HeadTooLarge or BadRequest.
    """
    if len(head) > MAX_LINE and head.find(b"\r\n", 0, MAX_LINE + 2) < 0:
        raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
    if len(head) > MAX_HEAD:
        raise errors.HeadTooLarge(f"the head is over {MAX_HEAD} bytes")
    if _BARE_LF.search(head, max(0, scanned - 1)):
        raise errors.BadRequest("lines end in CRLF (RFC 9112 section 2.2)")


def read_head(data: bytes, at: int, end: int) -> tuple[str, bytes, bool, Fields]:
    """The head in data[at:end]: its method, its target, whether it is of HTTP/1.1 or newer, and its header lines.

    Raises TargetTooLong, HeadTooLarge or BadRequest.
    """
    if end - at > MAX_LINE and data.find(b"\r\n", at, at + MAX_LINE + 2) < 0:
        raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
    if end - at > MAX_HEAD:
        raise errors.HeadTooLarge(f"the head is over {MAX_HEAD} bytes")
    found = _HEAD.match(data, at, end)
    if found is None:
        raise _malformed(data, at, end)
    method, target, minor, block = found.groups()
    newer = minor != b"0"  # RFC 9110 section 2.5: what is newer than 1.1 is read as 1.1
    given = fields(block, newer)
    if target[:1] != b"/":
        target, given = _origin_form(method, target, given, newer)
    return method.decode("ascii"), target, newer, given


def _malformed(data: bytes, at: int, end: int) -> errors.Error:
    """Why the head in data[at:end] is none (RFC 9112 sections 2.3, 3 and 5)."""
    line = _REQUEST_LINE.match(data, at, end)
    if line is None:
        return errors.BadRequest("the request line is malformed: it is METHOD TARGET HTTP/1.1, one space between")
    method, target, major = line.groups()
    if major != b"1":
        return errors.VersionNotSupported("this server speaks HTTP/1.1 and HTTP/1.0")
    if len(method) > 32:
        return errors.NotImplementedHere("no method is so long")
    if method == b"CONNECT":
        return errors.BadRequest("CONNECT is for proxies, and this is none")
    if b"#" in target:
        return errors.BadRequest("a target has no fragment: leave away what begins with #, or write %23")
    return errors.BadRequest("a header line is malformed: it is NAME: VALUE, no space before the colon, no fold")


def _origin_form(method: bytes, target: bytes, given: Fields, newer: bool) -> tuple[bytes, Fields]:
    """The path of a target that does not begin with one: the form for proxies, or * (RFC 9112 sections 3.2.2, 3.2.4).

    The host of the form for proxies counts, whatever Host says: the header lines come back with it as their Host.
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
