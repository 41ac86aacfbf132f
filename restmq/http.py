"""The strict, lean HTTP connection: bytes to requests, in order, and answers back in the same order.

Owns parsing, limits, time-outs, pipelining and streams (RFC 9112); knows no
route and no queue. cyclone's connection and request are subclassed: what its
ordinary handlers ask for is built when they ask. Read handler.py next.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from cyclone import httpserver, httputil
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from restmq import errors
from restmq.acl import Networks
from restmq.cork import can_half_close, cork, send, unsent

MAX_LINE = 8192
MAX_HEAD = 16384
MAX_HEADERS = 100
MAX_FIELDS = 100
MAX_AHEAD = 65536  # bytes read ahead of a request that is not answered yet, or past a stream that listens to none
MIN_RATE = 1024  # bytes of a body a second, on average, once its time-out is over
DEPTH = 128  # pipelined requests in flight
LINGER = 2  # seconds for a client to stop sending what was refused
NEVER = 1 << 60
_USER_TIMEOUT = 18  # TCP_USER_TIMEOUT of Linux, which PyPy's socket module does not name

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD = _TOKEN + rb"+:[\t -~\x80-\xff]*"
_HEAD = re.compile(
    rb"(" + _TOKEN + rb"{1,32}) ([!-~\x80-\xff]+) HTTP/1\.([01])\r\n((?:" + _FIELD + rb"\r\n)*)\r\n"
)
_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]*\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_SPECIAL = (b"sec-purpose", b"if-match", b"idempotency-key")  # beside RestMQ-…: what makes a request mean more
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?\Z")
_TRAILER = re.compile(_FIELD + rb"\Z")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)", re.IGNORECASE)
_QUOTED = rb'"((?:[^"\\\r\n]|\\[^\r\n])*)"'
_BOUNDARY = re.compile(rb";[ \t]*boundary=(?:" + _QUOTED + rb"|(" + _TOKEN + rb"+))[ \t]*(?:;|\Z)", re.IGNORECASE)
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb"+)=(?:" + _QUOTED + rb"|(" + _TOKEN + rb"+))")

log = Logger()


class Fields:
    """One header block, checked; the same bytes give the same object, so it is never changed.

    `values` maps lower-case names to values; what a name has twice is joined with
    a comma (RFC 9110 section 5.2). Raises errors for what makes a request's end
    or its host doubtful.
    """

    __slots__ = ("block", "chunked", "close", "expects", "form", "keep", "length", "special", "values")

    def __init__(self, block: bytes, newer: bool) -> None:
        self.block = block
        values: dict[bytes, bytes] = {}
        self.values = values
        if block.count(b"\n") > MAX_HEADERS:
            raise errors.HeadTooLarge(f"more than {MAX_HEADERS} header lines")
        for line in block.split(b"\r\n"):
            if not line:
                continue
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            if name in values:
                if name in (b"host", b"content-type"):
                    raise errors.BadRequest(f"{name.decode()} must stand exactly once")
                if name == b"content-length":
                    if values[name] != value:
                        raise errors.BadRequest("two Content-Length that differ")
                    continue
                value = values[name] + b", " + value
            values[name] = value
        if newer and b"host" not in values:
            raise errors.BadRequest("Host must stand exactly once")
        if not _HOST.match(values.get(b"host", b"")):
            raise errors.BadRequest("Host is no host")
        coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
        self.chunked = coding is not None
        self.length = 0
        if coding is not None:
            if length is not None or not newer:
                raise errors.BadRequest("Transfer-Encoding with Content-Length, or in HTTP/1.0")
            if coding.lower() != b"chunked":
                raise errors.NotImplementedHere("the only Transfer-Encoding known here is chunked")
        if length is not None:
            if not _LENGTH.match(length):
                raise errors.BadRequest("Content-Length is not a plain number")
            self.length = int(length)
        wishes = [wish.strip() for wish in values.get(b"connection", b"").lower().split(b",")]
        self.close = b"close" in wishes or (not newer and b"keep-alive" not in wishes)
        self.keep = not newer and not self.close
        self.expects = newer and b"100-continue" in values.get(b"expect", b"").lower()
        kind = values.get(b"content-type", b"").partition(b";")[0].strip().lower()
        self.form = {b"application/x-www-form-urlencoded": 1, b"multipart/form-data": 2}.get(kind, 0)
        self.special = any(name.startswith(b"restmq-") or name in _SPECIAL for name in values)


_NOTHING = Fields(b"", False)
_memo: dict[tuple[bytes, bool], Fields] = {}


def fields(block: bytes, newer: bool) -> Fields:
    """The block's Fields: remembered while it is small, for clients send the same block again and again."""
    known = _memo.get((block, newer))
    if known is None:
        known = Fields(block, newer)
        if len(block) <= 1024 and not known.special:  # an Idempotency-Key or a lease comes once
            if len(_memo) >= 512:
                _memo.clear()
            _memo[(block, newer)] = known
    return known


def _plain(part: bytes) -> bytes:
    return unquote_to_bytes(part.replace(b"+", b" "))


def pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a query or form (application/x-www-form-urlencoded), doubles and blank ones too.

    Raises BadRequest for more than 100 fields.
    """
    if not text:
        return []
    found = text.split(b"&", MAX_FIELDS + 1)
    if len(found) > MAX_FIELDS:
        raise errors.BadRequest(f"more than {MAX_FIELDS} fields")
    halves = (part.partition(b"=") for part in found if part)
    return [(_plain(name), _plain(value)) for name, _, value in halves]


def multipart(kind: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of multipart/form-data (RFC 7578), files by their field's name; values byte for byte.

    Raises BadRequest for more than 100 parts, and for what another parser might read another way.
    """
    found = _BOUNDARY.search(kind)
    boundary = (found[1] or found[2]) if found else b""
    if not 1 <= len(boundary) <= 70:
        raise errors.BadRequest("multipart/form-data without a boundary of 1 to 70 characters")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_FIELDS + 2)
    if len(parts) > MAX_FIELDS + 2:
        raise errors.BadRequest(f"more than {MAX_FIELDS} fields")
    end = parts[-1].lstrip(b" \t")
    if len(parts) < 2 or end[:2] != b"--" or end[2:].lstrip(b" \t")[:2] not in (b"", b"\r\n"):
        raise errors.BadRequest("multipart/form-data whose last boundary is missing")
    return [_part(part) for part in parts[1:-1]]


def _part(part: bytes) -> tuple[bytes, bytes]:
    """One part's name and value."""
    head, gap, value = part.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if not gap or lines[0].strip(b" \t"):
        raise errors.BadRequest("a part of multipart/form-data is malformed")
    name = None
    for line in lines[1:]:
        if not _TRAILER.match(line):
            raise errors.BadRequest("a header line of multipart/form-data is malformed")
        word, _, text = line.partition(b":")
        word, text = word.lower(), text.strip(b" \t")
        if word == b"content-disposition":
            if name is not None:
                raise errors.BadRequest("a part of multipart/form-data has two Content-Disposition")
            name = _name(text)
        elif word == b"content-transfer-encoding" and text.lower() not in (b"7bit", b"8bit", b"binary"):
            raise errors.BadRequest("multipart/form-data is not decoded: send it as it is (RFC 7578 section 4.7)")
    if name is None:
        raise errors.BadRequest("a part of multipart/form-data has no name")
    return name, value


def _name(disposition: bytes) -> bytes | None:
    """The name in a Content-Disposition, None when there is none. Raises BadRequest for two, or nonsense."""
    kind, at = disposition.partition(b";")[0], len(disposition.partition(b";")[0])
    if kind.strip(b" \t").lower() != b"form-data":
        raise errors.BadRequest("a part of multipart/form-data is no form-data")
    names = []
    while at < len(disposition):
        found = _PARAMETER.match(disposition, at)
        if not found:
            raise errors.BadRequest("a Content-Disposition of multipart/form-data is malformed")
        if found[1].lower() == b"name":
            names.append(found[3] if found[2] is None else re.sub(rb"\\(.)", rb"\1", found[2]))
        at = found.end()
    if len(names) > 1:
        raise errors.BadRequest("a part of multipart/form-data has two names")
    return names[0] if names else None


class Request(httpserver.HTTPRequest):  # type: ignore[misc]
    """cyclone's request; what a lean handler does not ask for is built on first use.

    `target`, `raw_path` and `raw_query` are as they came, `query` and `form` decoded
    lists of pairs of bytes. `fields.values` has the header lines.
    """

    files: dict[str, Any] = {}
    _finish_time = None
    hold = False  # whether the connection waits until this one is answered
    answer: bytes | None = None
    handler: Any = None
    shared: tuple[tuple[bytes, bytes], ...] = ()  # header lines that let a page of another origin read the answer

    def __init__(
        self, connection: Connection, method: str, target: bytes, newer: bool, given: Fields, body: bytes
    ) -> None:
        self.connection, self.method, self.target = connection, method, target
        self.newer, self.fields, self.body = newer, given, body
        self.raw_path, _, self.raw_query = target.partition(b"?")
        self.peer_ip = connection.peer_ip
        self._start_time = connection.app.wheel.clock.seconds()

    @property
    def remote_ip(self) -> str:
        """The client's address; behind a trusted proxy, the one it names. "" over a unix socket."""
        return self.connection.client(self.fields.values)

    @cached_property
    def query(self) -> list[tuple[bytes, bytes]]:
        """The query's fields, percent-decoded. Raises BadRequest for more than 100."""
        return pairs(self.raw_query)

    @cached_property
    def form(self) -> list[tuple[bytes, bytes]]:
        """The body's fields; none when it is no form. Raises BadRequest."""
        if self.fields.form == 1:
            return pairs(self.body)
        if self.fields.form == 2:
            return multipart(self.fields.values[b"content-type"], self.body)
        return []

    def request_time(self) -> float:
        """Seconds since the request was read."""
        spent: float = self.connection.app.wheel.clock.seconds() - self._start_time
        return spent

    # What cyclone's ordinary handlers ask for.

    @property
    def version(self) -> str:
        return "HTTP/1.1" if self.newer else "HTTP/1.0"

    @property
    def uri(self) -> str:
        return self.target.decode("utf-8", "surrogateescape")

    @property
    def path(self) -> str:
        return self.raw_path.decode("utf-8", "surrogateescape")

    @property
    def protocol(self) -> str:
        return "https" if ISSLTransport.providedBy(self.connection.transport) else "http"

    @property
    def host(self) -> str:
        return self.fields.values.get(b"host", b"127.0.0.1").decode("latin-1")

    def supports_http_1_1(self) -> bool:
        return self.newer

    @cached_property
    def headers(self) -> Any:
        if len(httputil.HTTPHeaders._normalized_headers) > 10_000:
            httputil.HTTPHeaders._normalized_headers.clear()  # cyclone keeps every name it ever saw
        built = httputil.HTTPHeaders()
        for line in self.fields.block.split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                built.add(name.decode("ascii"), value.strip(b" \t").decode("latin-1"))
        return built

    @cached_property
    def arguments(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        query = self.raw_query.decode("utf-8", "replace")
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS):
            found.setdefault(name, []).append(value)
        for raw, data in self.form:
            found.setdefault(raw.decode("utf-8", "replace"), []).append(data.decode("utf-8", "replace"))
        return found


class _Body:
    """A body that is still coming. `want` is how many bytes of it are next, or which line."""

    __slots__ = ("began", "data", "expects", "given", "head", "trailer", "want")

    def __init__(self, head: tuple[bytes, bytes, bool], given: Fields, began: int) -> None:
        self.head, self.given, self.began = head, given, began
        self.data = bytearray()
        self.trailer = 0
        self.want: int | str = given.length or "size"
        self.expects = given.expects


@implementer(IHalfCloseableProtocol, IPushProducer)
class Connection(httpserver.HTTPConnection):  # type: ignore[misc]
    """One client. Reads heads, then bodies; answers leave in the order of requests.

    A request whose handler is `hot` may be under way beside others; any other
    holds the line: what follows it is read once it is answered. What the client
    does not take is bounded too: past 64 KiB of answers nothing more is read.
    """

    _finish_callback: Any  # cyclone's: who wants to know that an ordinary handler's request has ended

    def connectionMade(self) -> None:
        super().connectionMade()
        self.app = self.factory
        try:
            self.transport.setTcpNoDelay(True)
        except (AttributeError, OSError):
            log.debug("no TCP_NODELAY on this transport")
        self.peer_ip: str = getattr(self.transport.getPeer(), "host", "")
        if self.peer_ip.startswith("::ffff:"):
            self.peer_ip = _address(self.peer_ip)
        self.allowed: dict[str, int] = {}  # section -> generation of the ACL that let this address in
        self.line: deque[Request] = deque()  # requests not answered yet, and answers that wait for others
        self.stream: Stream | None = None
        self.ended = False  # the client is gone
        self.half = False  # it has closed its side: it asks no more, and still reads
        self.closing = False  # no further request is read
        self._losing = self._lingering = False  # all is said
        self._client: tuple[bytes, str] = (b"", self.peer_ip)
        self._buffer = b""
        self._scanned = 0  # how far the buffer has no end of a head
        self._partial = False  # whether the buffer is the beginning of a head that is to come
        self._body: _Body | None = None
        self._refusal = b""  # the last words, when the answers before them have left
        self._resuming = self._choked = self._paused = False
        self._stuck = -1
        self.deadline = self.app.wheel.now + self.app.limits.head
        self.app.connections.add(self)
        self.transport.registerProducer(self, True)

    def client(self, values: dict[bytes, bytes]) -> str:
        """The client's address, from the proxy's header only when the proxy is trusted."""
        proxies = self.app.proxies
        if proxies is None:
            return self.peer_ip
        given = values.get(proxies.header, b"")
        if given != self._client[0]:
            self._client = (given, proxies.client(self.peer_ip, given))
            self.allowed.clear()
        return self._client[1]

    # -- ends

    def connectionLost(self, reason: Failure) -> None:
        self.app.connections.discard(self)
        self._gone(reason.getErrorMessage())

    def readConnectionLost(self) -> None:
        """The client closed its side: a stream ends, what was asked is answered, and then it is closed.

        Whether it still reads shows only when it is written to: a close of both sides
        begins like this. So nobody waits for an element on its account any longer, and
        what is under way has `idle` seconds.
        """
        self.half = True
        asked = [request.handler for request in self.line if request.answer is None and request.handler is not None]
        if self._losing or self.stream is not None or any(handler.streams for handler in asked):
            self._gone("the client closed the connection")
            self._lose()
            return
        self.deadline = self.app.wheel.now + self.app.limits.idle
        for handler in asked:
            _safely(handler.halved)
        self._no_more()

    def _no_more(self) -> None:
        """The client has closed its side: close with the last answer. What came of a request without an end is 400."""
        if self.ended or self.closing or (self._buffer and self._full()):
            return
        if self._buffer or self._body is not None:
            self.refuse(errors.BadRequest("the client closed its side before the request was whole"))
            return
        self.closing = True
        if not self.line:
            self.lose()

    def writeConnectionLost(self) -> None:
        """Our half is closed, which only _linger() asks for."""

    def _gone(self, why: str) -> None:
        if self.ended:
            return
        self.ended = True
        stream, self.stream = self.stream, None
        if stream is not None:
            _safely(stream.lost)
        line, self.line = self.line, deque()
        for request in line:
            if request.handler is not None and request.answer is None:
                _safely(request.handler.left)
        callback, self._finish_callback = self._finish_callback, None
        if callback:
            callback.callback(why)

    def late(self) -> None:
        """The deadline is over: a half request is told so, an idle or stuck connection is closed."""
        self.deadline = NEVER
        waiting = unsent(self.transport)
        if self._losing or (waiting and not self.line and self.stream is None):
            if waiting and waiting != self._stuck:  # slow, but it moves
                self._stuck = waiting
                self.deadline = self.app.wheel.now + self.app.limits.idle
            elif self._lingering and not waiting:
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()
        elif self._partial or self._body is not None:
            self.refuse(errors.TooSlow("the request did not arrive in time"))
        elif self.half:
            self.transport.abortConnection()  # nothing was written for so long: perhaps nobody is there
        elif not self.line and self.stream is None:
            self._lose()

    def refuse(self, error: errors.Error) -> None:
        """An error that ends the connection, after the answers before it."""
        self.closing, self._buffer, self._body, self._partial = True, b"", None, False
        body = error.render()
        head = self.app.head(error.status, b"application/problem+json")
        self._refusal = b"%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        if self.app.access is not None:
            self.app.access(Request(self, "-", b"-", False, _NOTHING, b""), error.status, len(body))
        if not self.line:
            self._answered()

    def drain(self, grace: float) -> None:
        """Close when what is under way is answered, or the next request is; without any, after `grace` seconds."""
        if self.stream is not None:
            return
        if self.line:
            self.closing = True
        elif self._body is None and not self._partial:
            if not grace:
                self._lose()
            else:
                self.deadline = min(self.deadline, self.app.wheel.now + int(grace))

    def closes(self, request: Request) -> bool:
        """Whether the connection ends with this request's answer, so that its head says so."""
        if self.closing or self.app.draining:
            return not self._refusal and self.line[-1] is request
        return bool(self.no_keep_alive)

    def lose(self) -> None:
        """Close when all is sent, and if it cannot be sent, some time later."""
        self.closing = self._losing = True
        self.deadline = self.app.wheel.now + self.app.limits.idle
        cork.flush(self.transport)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    _lose = lose

    def _linger(self) -> None:
        """Close our half, and read on for a moment: a reset would take the answer away from a client that sends."""
        if self.half or not can_half_close(self.transport):
            self.lose()
            return
        self._losing = self._lingering = True
        self.deadline = self.app.wheel.now + LINGER
        cork.flush(self.transport)
        self.transport.unregisterProducer()
        self._read_on()
        self.transport.loseWriteConnection()

    # -- reading

    def dataReceived(self, data: bytes) -> None:
        if self.stream is not None:
            self.stream.received(data)
            return
        if self.closing or self.ended:
            return
        try:
            if self._body is None and self._full():
                self._buffer += data
                if len(self._buffer) > MAX_AHEAD:
                    self._paused = True
                    self.transport.pauseProducing()
                return
            if self._buffer:
                data, self._buffer = self._buffer + data, b""
            self._parse(data)
        except errors.Error as error:
            self.refuse(error)

    def _full(self) -> bool:
        """Whether no request may be taken up now."""
        if self._choked:
            return True
        line = self.line
        return bool(line) and (line[-1].hold or len(line) >= DEPTH)

    def _read_on(self) -> None:
        if self._paused and not self.half:
            self._paused = False
            self.transport.resumeProducing()

    def _resume(self) -> None:
        """An answer left: requests that were read ahead go on."""
        if self._resuming or self.ended or self.closing or self._full():
            return
        self._read_on()
        if not self._buffer:
            return
        self._resuming = True
        try:
            data, self._buffer, self._scanned = self._buffer, b"", 0
            self._parse(data)
        except errors.Error as error:
            self.refuse(error)
        finally:
            self._resuming = False
        if self.half:
            self.deadline = self.app.wheel.now + self.app.limits.idle
            self._no_more()

    def _parse(self, data: bytes) -> None:
        at = 0
        while not (self.closing or self.ended):
            if self.stream is not None:
                if at < len(data):
                    self.stream.received(data[at:])
                return
            if self._body is not None:
                at = self._more(data, at)
                if at < 0:
                    return
                continue
            if self._full():
                self._buffer = data[at:]
                return
            while data.startswith(b"\r\n", at):  # RFC 9112 section 2.2
                at += 2
            end = data.find(b"\r\n\r\n", max(at, self._scanned - 3))
            if end < 0:
                self._buffer = data[at:]
                if self._buffer:
                    self._unfinished(self._buffer)
                return
            self._scanned = 0
            at = self._head(data, at, end + 4)

    def _unfinished(self, head: bytes) -> None:
        """The beginning of a head: is it still a good one, and how long may the rest take?"""
        if len(head) > MAX_LINE and head.find(b"\r\n", 0, MAX_LINE + 2) < 0:
            raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
        if len(head) > MAX_HEAD:
            raise errors.HeadTooLarge(f"the head is over {MAX_HEAD} bytes")
        if _BARE_LF.search(head, max(0, self._scanned - 1)):
            raise errors.BadRequest("lines end in CRLF (RFC 9112 section 2.2)")
        self._scanned = len(head)
        if not self._partial:
            self._partial = True
            self.deadline = self.app.wheel.now + self.app.limits.head

    def _head(self, data: bytes, at: int, end: int) -> int:
        """Take up the head in data[at:end], and its body if it is here; the position after it."""
        if end - at > MAX_LINE and data.find(b"\r\n", at, at + MAX_LINE + 2) < 0:
            raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
        if end - at > MAX_HEAD:
            raise errors.HeadTooLarge(f"the head is over {MAX_HEAD} bytes")
        found = _HEAD.match(data, at, end)
        if found is None:
            raise errors.BadRequest("the request's head is malformed (RFC 9112)")
        method, target, minor, block = found.groups()
        newer = minor == b"1"
        given = fields(block, newer)
        length = given.length
        if not (length or given.chunked):
            self._take(method, target, newer, given, b"")
            return end
        if length > self.app.limits.size:
            raise errors.TooLarge(f"the body is over {self.app.limits.size} bytes")
        if length and len(data) - end >= length:
            self._take(method, target, newer, given, data[end : end + length])
            return end + length
        self._partial = False
        body = self._body = _Body((method, target, newer), given, self.app.wheel.now)
        self.deadline = body.began + self.app.limits.body
        if len(data) > end:
            body.expects = False
        elif not self.line:
            self._continue(body)
        return end

    def _continue(self, body: _Body) -> None:
        if body.expects:
            body.expects = False
            send(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _more(self, data: bytes, at: int) -> int:
        """Go on with a body; the position after it, or -1 when more must come (the rest is kept)."""
        body, limits = self._body, self.app.limits
        assert body is not None
        while True:
            if isinstance(body.want, int):
                part = data[at : at + body.want]
                at += len(part)
                body.data += part
                body.want -= len(part)
                self.deadline = body.began + limits.body + len(body.data) // MIN_RATE
                if body.want:
                    return -1
                if not body.given.chunked:
                    break
                body.want = "end"
            end = data.find(b"\r\n", at)
            if (len(data) if end < 0 else end) - at > MAX_LINE:
                raise errors.BadRequest("a line of the chunked body is too long")
            if end < 0:
                self._buffer = data[at:]
                return -1
            line, at = data[at:end], end + 2
            if body.want == "size":
                found = _CHUNK.match(line)
                if not found:
                    raise errors.BadRequest("a chunk's size is no number")
                size = int(found[1], 16)
                if len(body.data) + size > limits.size:
                    raise errors.TooLarge(f"the body is over {limits.size} bytes")
                body.want = size if size else "trailer"
            elif body.want == "end":
                if line:
                    raise errors.BadRequest("a chunk is longer than it said")
                body.want = "size"
            elif line:
                body.trailer += len(line)
                if body.trailer > MAX_HEAD:
                    raise errors.HeadTooLarge("the trailer is too large")
                if not _TRAILER.match(line):
                    raise errors.BadRequest("a trailer line is malformed")
            else:
                break
        self._body = None
        self._take(*body.head, body.given, bytes(body.data))
        return at

    def _take(self, method: bytes, target: bytes, newer: bool, given: Fields, body: bytes) -> None:
        """A whole request is here."""
        if target[:1] != b"/":
            found = _ABSOLUTE.match(target)
            if found:  # RFC 9112 section 3.2.2: the form for proxies; its host must not differ from Host
                if found[1].lower() != given.values.get(b"host", found[1]).lower():
                    raise errors.BadRequest("the URI names another host than Host")
                rest = target[found.end() :]
                target = rest if rest[:1] == b"/" else b"/" + rest
        request = Request(self, method.decode("ascii"), target, newer, given, body)
        self.deadline, self._partial = NEVER, False
        if given.close or self.app.draining:
            self.closing = True
        self.line.append(request)
        self.app(request)

    # -- answering

    def answer(self, request: Request, data: bytes) -> None:
        """The whole answer of one request; it leaves when those before it have left."""
        line = self.line
        if self.ended or request.answer is not None:
            return
        request.answer, request.handler = data, None
        if line[0] is not request:
            return
        while line and (ready := line[0].answer) is not None:
            line.popleft()
            send(self.transport, ready)
        self._answered()

    def _answered(self) -> None:
        """What could leave has left: close, go on reading, or start the cold request whose turn it is."""
        line = self.line
        if not line:
            if self._refusal:
                send(self.transport, self._refusal)
                self._linger()
                return
            if self.closing:
                self.lose()
                return
            if self._body is not None:
                self._continue(self._body)
            elif not self._partial:
                self.deadline = self.app.wheel.now + self.app.limits.idle
        elif line[0].hold:
            self.app.cold(line[0])
            return
        if self._buffer or self._paused:
            self._resume()

    # cyclone's own way of answering, for its ordinary handlers: they hold the line, so they are first.

    def write(self, chunk: bytes) -> None:
        if not self.ended:
            send(self.transport, chunk)

    def finish(self) -> None:
        callback, self._finish_callback = self._finish_callback, None
        if callback:
            callback.callback(None)
        if self.ended:
            return
        self.line.popleft().answer = b""
        self.closing = self.closing or self.no_keep_alive
        self._answered()

    # Twisted asks these when more is written than the client takes, and when it has taken it.

    def pauseProducing(self) -> None:
        self._choked = True

    def resumeProducing(self) -> None:
        self._choked = False
        self._resume()

    def stopProducing(self) -> None:
        """The connection is closing; connectionLost follows."""


def _safely(call: Callable[[], object]) -> None:
    """Tell somebody that the client is gone; who fails at that must not keep it from the next."""
    try:
        call()
    except Exception:
        log.failure("the end of a connection was not taken well")


def nothing(*_: object) -> None:
    """What a stream's owner has not asked to know."""


@implementer(IPushProducer)
class Stream:
    """A connection taken over for one long answer: chunked, to its close, or raw after an upgrade.

    `written` counts the bytes given to the transport, framing and all, and `unsent`
    those of them that the kernel has not taken. `full` is true while Twisted's
    buffer holds more than 64 KiB: on_full() was called, on_drained() will be.
    on_lost() is called once, however it ends. on_data() gets what the client
    sends after an upgrade; before one nobody asked for it, and it is thrown away.
    """

    def __init__(self, request: Request, head: bytes, chunked: bool, raw: bool) -> None:
        self.connection, self.transport = request.connection, request.connection.transport
        self._chunked, self._raw = chunked, raw
        self.written = 0
        self.full = self.closed = False
        self.on_data: Callable[[bytes], None] = nothing
        self.on_full: Callable[[], None] = nothing
        self.on_drained: Callable[[], None] = nothing
        self.on_lost: Callable[[], None] = nothing
        self._ignored = 0
        connection = self.connection
        connection.line.clear()
        connection.stream = self
        connection.deadline = NEVER
        send(self.transport, head)
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)
        self._watch()

    def _watch(self) -> None:
        """A peer that vanished without a word is noticed when nothing was acknowledged for `stall` (tcp(7))."""
        if self.connection.peer_ip:
            milliseconds = int(self.connection.app.config.stall * 1000)
            self.transport.getHandle().setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds)

    @property
    def unsent(self) -> int:
        """Bytes written that the kernel has not yet taken."""
        return unsent(self.transport)

    def write(self, data: bytes) -> None:
        """Write bytes; all of a turn's reading of Redis leaves together."""
        if self.closed or not data:
            return
        if self._chunked:
            data = _chunk(data)
        self.written += len(data)
        send(self.transport, data)

    def received(self, data: bytes) -> None:
        """Bytes of the client: an upgraded stream's owner gets them, others ignore them."""
        if self._raw:
            self.on_data(data)
            return
        self._ignored += len(data)
        if self._ignored > MAX_AHEAD:
            self.transport.pauseProducing()

    def pause(self) -> None:
        """Read no more for now."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on, or begin to: what came before the stream was there is given to on_data first."""
        connection = self.connection
        early, connection._buffer, connection._paused = connection._buffer, b"", False
        self.transport.resumeProducing()
        if early:
            self.received(early)

    def close(self, last: bytes = b"") -> None:
        """End it after what waits."""
        if self.closed:
            return
        self.write(last)
        self.closed = True
        if self._chunked:
            send(self.transport, b"0\r\n\r\n")
        self.connection.lose()

    def abort(self) -> None:
        """End it now; what waits is thrown away."""
        self.closed = True
        cork.drop(self.transport)
        self.transport.abortConnection()

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        on_lost, self.on_lost = self.on_lost, nothing
        on_lost()

    # Twisted asks these when its buffer is full, and when it is empty again.

    def pauseProducing(self) -> None:
        if not self.full:
            self.full = True
            self.on_full()

    def resumeProducing(self) -> None:
        if self.full:
            self.full = False
            self.on_drained()

    def stopProducing(self) -> None:
        """The connection is closing; connectionLost follows."""


_chunked: tuple[bytes, bytes] = (b"", b"")


def _chunk(data: bytes) -> bytes:
    """The data as one chunk; a thousand streams that write the same object share its frame."""
    global _chunked
    if _chunked[0] is not data:
        _chunked = (data, b"%x\r\n%b\r\n" % (len(data), data))
    return _chunked[1]


class Proxies:
    """Which proxies are trusted to name their client, and in which header (`header`, lower case)."""

    def __init__(self, header: str, networks: tuple[str, ...]) -> None:
        self.header = header.lower().encode("ascii")
        self._networks = Networks(networks or ("127.0.0.0/8", "::1/128"))

    def client(self, peer: str, given: bytes) -> str:
        """The client's address: the peer's, or the one that a trusted proxy named in the header's value.

        Of X-Forwarded-For it is the right-most that is no trusted proxy: whatever
        stands before that one the client may have invented. "" is a unix socket's
        peer: whoever may open it is the proxy.
        """
        hops = [hop.strip() for hop in given.decode("latin-1").split(",")]
        if peer and peer not in self._networks:
            return peer
        client = peer
        for hop in reversed(hops):
            address = _address(hop)
            if not address:
                break
            client = address
            if self.header == b"x-real-ip" or address not in self._networks:
                break
        return client


def _address(text: str) -> str:
    """An IP address as Python writes it, without the brackets of IPv6; "" when it is none.

    An IPv4 client of a socket that listens on both is ::ffff:10.0.0.7 there (RFC 4291
    section 2.5.5.2): it is 10.0.0.7 everywhere else, and so it is here.
    """
    try:
        found = ipaddress.ip_address(text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text)
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)
