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
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from cyclone import httpserver, httputil
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from restmq import errors
from restmq.cork import cork, send, unsent

MAX_LINE = 8192
MAX_HEAD = 16384
MAX_HEADERS = 100
MAX_FIELDS = 100
MAX_AHEAD = 65536  # bytes of pipelined requests read before the first is answered
DEPTH = 128  # pipelined requests in flight
NEVER = 1 << 60
_USER_TIMEOUT = 18  # TCP_USER_TIMEOUT of Linux, which PyPy's socket module does not name

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_HEAD = re.compile(
    rb"(" + _TOKEN + rb"{1,32}) ([!-~\x80-\xff]+) HTTP/1\.([01])\r\n"
    rb"((?:" + _TOKEN + rb"+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?\Z")
_ABSOLUTE = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


class Fields:
    """One header block, checked; the same bytes give the same object, so it is never changed."""

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
                if name == b"host":
                    raise errors.BadRequest("Host must stand exactly once")
                if name == b"content-length":
                    if values[name] != value:
                        raise errors.BadRequest("two Content-Length that differ")
                    continue
                value = values[name] + b", " + value
            values[name] = value
        if newer and b"host" not in values:
            raise errors.BadRequest("Host must stand exactly once")
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
        self.expects = b"100-continue" in values.get(b"expect", b"").lower()
        kind = values.get(b"content-type", b"").partition(b";")[0].strip().lower()
        self.form = {b"application/x-www-form-urlencoded": 1, b"multipart/form-data": 2}.get(kind, 0)
        self.special = any(name.startswith(b"restmq-") or name in (b"sec-purpose", b"if-match") for name in values)


_memo: dict[tuple[bytes, bool], Fields] = {}


def fields(block: bytes, newer: bool) -> Fields:
    """The block's Fields: remembered while it is small, for clients send the same block again and again."""
    known = _memo.get((block, newer))
    if known is None:
        known = Fields(block, newer)
        if len(block) <= 1024:
            if len(_memo) >= 512:
                _memo.clear()
            _memo[(block, newer)] = known
    return known


def pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a query or form (application/x-www-form-urlencoded), blank ones too."""
    if not text:
        return []
    found = text.split(b"&", MAX_FIELDS + 1)
    if len(found) > MAX_FIELDS:
        raise errors.BadRequest(f"more than {MAX_FIELDS} fields")
    plain = lambda part: unquote_to_bytes(part.replace(b"+", b" "))  # noqa: E731
    halves = (part.partition(b"=") for part in found if part)
    return [(plain(name), plain(value)) for name, _, value in halves]


def multipart(kind: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of multipart/form-data (RFC 7578), without files' names."""
    found = re.search(rb'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', kind)
    if not found:
        raise errors.BadRequest("multipart/form-data without a boundary")
    mark = b"--" + (found[1] or found[2])
    parts = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise errors.BadRequest("multipart/form-data whose last boundary is missing")
    if len(parts) > MAX_FIELDS + 2:
        raise errors.BadRequest(f"more than {MAX_FIELDS} fields")
    out = []
    for part in parts[1:-1]:
        head, gap, value = part.partition(b"\r\n\r\n")
        named = re.search(rb'(?i)^content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', head, re.MULTILINE)
        if not gap or not named:
            raise errors.BadRequest("a part of multipart/form-data has no name")
        out.append((named[1], value))
    return out


class Request(httpserver.HTTPRequest):  # type: ignore[misc]
    """cyclone's request; what a lean handler does not ask for is built on first use."""

    files: dict[str, Any] = {}
    protocol = "http"
    _finish_time = None

    def __init__(
        self, connection: Connection, method: str, target: bytes, newer: bool, given: Fields, body: bytes
    ) -> None:
        self.connection, self.method, self.target = connection, method, target
        self.newer, self.fields, self.body = newer, given, body
        self.raw_path, _, self.raw_query = target.partition(b"?")
        self.peer_ip = connection.peer_ip
        self.hold = False  # whether the connection waits until this one is answered
        self.answer: bytes | None = None
        self.after = b""
        self.handler: Any = None
        self._start_time = connection.app.wheel.clock.seconds()

    @cached_property
    def remote_ip(self) -> str:
        """The client's address; behind a trusted proxy, the one it names."""
        return self.connection.client(self.fields.values)

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
    def host(self) -> str:
        return self.fields.values.get(b"host", b"127.0.0.1").decode("latin-1")

    @property
    def query_string(self) -> str:
        return self.raw_query.decode("utf-8", "surrogateescape")

    @cached_property
    def query(self) -> list[tuple[bytes, bytes]]:
        """The query's fields, percent-decoded."""
        return pairs(self.raw_query)

    @cached_property
    def form(self) -> list[tuple[bytes, bytes]]:
        """The body's fields; none when it is no form."""
        if self.fields.form == 1:
            return pairs(self.body)
        if self.fields.form == 2:
            return multipart(self.fields.values[b"content-type"], self.body)
        return []

    def supports_http_1_1(self) -> bool:
        return self.newer

    @cached_property
    def headers(self) -> Any:
        built = httputil.HTTPHeaders()
        for line in self.fields.block.split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                built.add(name.decode("ascii"), value.strip(b" \t").decode("latin-1"))
        return built

    @cached_property
    def arguments(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.query_string, keep_blank_values=True, max_num_fields=MAX_FIELDS):
            found.setdefault(name, []).append(value)
        for raw, data in self.form:
            found.setdefault(raw.decode("utf-8", "replace"), []).append(data.decode("utf-8", "replace"))
        return found


class _Body:
    """A body that is still coming."""

    __slots__ = ("began", "given", "head", "parts", "size", "want")

    def __init__(self, head: tuple[bytes, bytes, bool], given: Fields, began: int) -> None:
        self.head, self.given, self.began = head, given, began
        self.parts: list[bytes] = []
        self.size = 0
        self.want: int | str = 0


@implementer(IHalfCloseableProtocol)
class Connection(httpserver.HTTPConnection):  # type: ignore[misc]
    """One client. Reads heads, then bodies; answers leave in the order of requests."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.app = self.factory
        try:
            self.transport.setTcpNoDelay(True)
        except (AttributeError, OSError):
            self.app.log.debug("no TCP_NODELAY on this transport")
        peer = self.transport.getPeer()
        self.peer_ip: str = getattr(peer, "host", "")
        self.allowed: dict[str, int] = {}  # section -> generation of the ACL that let this address in
        self.line: deque[Request] = deque()
        self.stream: Stream | None = None
        self._buffer = b""
        self._scanned = 0
        self._body: _Body | None = None
        self._resuming = self.ended = self.closing = False
        self.deadline = self.app.wheel.now + self.app.limits.head
        self.app.connections.add(self)

    def client(self, values: dict[bytes, bytes]) -> str:
        """The client's address, from the proxy's header only when the proxy is trusted."""
        return client_address(self.peer_ip, values, self.app.config)

    # -- ends

    def connectionLost(self, reason: Failure) -> None:
        self.app.connections.discard(self)
        self._gone(reason.getErrorMessage())
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        self._gone("the client closed the connection")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        self.transport.loseConnection()

    def _gone(self, why: str) -> None:
        if self.ended:
            return
        self.ended = True
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.lost()
        line, self.line = self.line, deque()
        for request in line:
            if request.handler is not None:
                request.handler.left()
        callback, self._finish_callback = self._finish_callback, None
        if callback:
            callback.callback(why)

    def late(self) -> None:
        """The deadline is over: a half request is told so, an idle connection is closed."""
        self.deadline = NEVER
        if self.line:
            return
        if self._buffer or self._body is not None:
            self.refuse(errors.TooSlow("the request did not arrive in time"))
        else:
            self.transport.loseConnection()

    def refuse(self, error: errors.Error) -> None:
        """An error that ends the connection, after the answers before it."""
        self.closing, self._buffer, self._body = True, b"", None
        body = error.render()
        head = self.app.head(error.status, b"application/problem+json")
        data = b"%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        if self.line:
            self.line[-1].after = data
            return
        send(self.transport, data)
        self._lose()

    def _lose(self) -> None:
        cork.flush(self.transport)
        self.transport.loseConnection()

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
                    self.transport.pauseProducing()
                return
            if self._buffer:
                data, self._buffer = self._buffer + data, b""
            self._parse(data)
        except errors.Error as error:
            self.refuse(error)

    def _full(self) -> bool:
        return bool(self.line) and (self.line[-1].hold or len(self.line) >= DEPTH)

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
                break
            while data.startswith(b"\r\n", at):
                at += 2
            end = data.find(b"\r\n\r\n", max(at, self._scanned - 3))
            if end < 0:
                break
            self._scanned = 0
            at = self._head(data, at, end + 4)
        self._buffer = data[at:] if at else data
        if not self._buffer or self._full() or self.closing:
            return
        if len(self._buffer) > MAX_LINE and b"\r\n" not in self._buffer:
            raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
        if len(self._buffer) > MAX_HEAD:
            raise errors.HeadTooLarge(f"the head is over {MAX_HEAD} bytes")
        if b"\n\n" in self._buffer[max(0, self._scanned - 1) :]:
            raise errors.BadRequest("lines end in CRLF")
        if not self._scanned:
            self.deadline = self.app.wheel.now + self.app.limits.head
        self._scanned = len(self._buffer)

    def _head(self, data: bytes, at: int, end: int) -> int:
        if end - at > MAX_HEAD:
            line = data.find(b"\r\n", at) - at
            if line > MAX_LINE:
                raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
            raise errors.HeadTooLarge(f"the head is over {MAX_HEAD} bytes")
        found = _HEAD.match(data, at, end)
        if found is None:
            raise errors.BadRequest("the request's head is malformed (RFC 9112)")
        method, target, minor, block = found.groups()
        if len(target) > MAX_LINE:
            raise errors.TargetTooLong(f"the request line is over {MAX_LINE} bytes")
        given = fields(block, minor == b"1")
        if not (given.length or given.chunked):
            self._take(method, target, minor == b"1", given, b"")
            return end
        if given.length > self.app.limits.size:
            raise errors.TooLarge(f"the body is over {self.app.limits.size} bytes")
        if given.expects and len(data) == end and not self.line:
            send(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")
        if given.length and len(data) - end >= given.length:
            self._take(method, target, minor == b"1", given, data[end : end + given.length])
            return end + given.length
        body = self._body = _Body((method, target, minor == b"1"), given, self.app.wheel.now)
        body.want = given.length if given.length else "size"
        self.deadline = self.app.wheel.now + self.app.limits.body
        return end

    def _more(self, data: bytes, at: int) -> int:
        """Goes on with a body; the position after it, or -1 when more must come (the rest is kept)."""
        body = self._body
        assert body is not None
        trailers = 0
        while True:
            if isinstance(body.want, int):
                part = data[at : at + body.want]
                at += len(part)
                body.parts.append(part)
                body.want -= len(part)
                body.size += len(part)
                self.deadline = body.began + self.app.limits.body + body.size // 1024
                if body.want:
                    return -1
                if not body.given.chunked:
                    break
                body.want = "end"
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_LINE:
                    raise errors.BadRequest("a chunk's head is too long")
                self._buffer = data[at:]
                return -1
            line, at = data[at:end], end + 2
            if body.want == "size":
                found = _CHUNK.match(line)
                if not found:
                    raise errors.BadRequest("a chunk's size is no number")
                size = int(found[1], 16)
                if body.size + size > self.app.limits.size:
                    raise errors.TooLarge(f"the body is over {self.app.limits.size} bytes")
                body.want = size if size else "trailer"
            elif body.want == "end":
                if line:
                    raise errors.BadRequest("a chunk is longer than it said")
                body.want = "size"
            elif line:
                trailers += len(line)
                if trailers > MAX_HEAD:
                    raise errors.HeadTooLarge("the trailer is too large")
            else:
                break
        self._body = None
        self._take(*body.head, body.given, b"".join(body.parts))
        return at

    def _take(self, method: bytes, target: bytes, newer: bool, given: Fields, body: bytes) -> None:
        if target[:1] != b"/":
            found = _ABSOLUTE.match(target)
            if found:  # RFC 9112 section 3.2.2: a proxy's form of the same
                target = target[found.end() :] or b"/"
        request = Request(self, method.decode("ascii"), target, newer, given, body)
        self.deadline = NEVER
        self.line.append(request)
        if given.close:
            self.closing = True
        self.app(request)

    def _resume(self) -> None:
        """An answer left: requests that were read ahead go on."""
        if self._resuming or self.ended or self._full() or not self._buffer:
            return
        self._resuming = True
        try:
            self.transport.resumeProducing()
            data, self._buffer, self._scanned = self._buffer, b"", 0
            self._parse(data)
        except errors.Error as error:
            self.refuse(error)
        finally:
            self._resuming = False

    # -- answering

    def answer(self, request: Request, data: bytes) -> None:
        """The whole answer of one request; it leaves when those before it have left."""
        line = self.line
        if self.ended:
            return
        request.answer = data
        while line and line[0].answer is not None:
            first = line.popleft()
            send(self.transport, first.answer + first.after)
            if first.fields.close or first.after or (self.app.draining and not line):
                line.clear()
                self.closing = True
                self._lose()
                return
        if not line:
            self.deadline = self.app.wheel.now + self.app.limits.idle
        if self._buffer:
            self._resume()
        if line and line[0].hold and not line[0].handler:
            self._start_held()

    def _start_held(self) -> None:
        """A cold request whose turn has come: those before it are answered."""
        self.app.cold(self.line[0])

    # cyclone's own way of answering, for its ordinary handlers: they hold the line, so they are first.

    def write(self, chunk: bytes) -> None:
        if not self.ended:
            send(self.transport, chunk)

    def finish(self) -> None:
        if self.ended:
            return
        request = self.line.popleft() if self.line else None
        callback, self._finish_callback = self._finish_callback, None
        if callback:
            callback.callback(None)
        if request is None or request.fields.close or request.after or self.app.draining:
            if request is not None and request.after:
                send(self.transport, request.after)
            self.closing = True
            self._lose()
            return
        self.deadline = self.app.wheel.now + self.app.limits.idle
        if self._buffer:
            self._resume()


def nothing(*_: object) -> None:
    """What a stream's owner has not asked to know."""


@implementer(IPushProducer)
class Stream:
    """A connection taken over for one long answer: chunked, to its close, or raw after an upgrade."""

    def __init__(self, request: Request, head: bytes, chunked: bool, raw: bool) -> None:
        self.connection, self.transport = request.connection, request.connection.transport
        self._chunked, self._raw = chunked, raw
        self.written = 0
        self.full = self.closed = False
        self.on_data: Callable[[bytes], None] = nothing
        self.on_full: Callable[[], None] = nothing
        self.on_drained: Callable[[], None] = nothing
        self.on_lost: Callable[[], None] = nothing
        self._last: tuple[bytes, bytes] = (b"", b"")
        send(self.transport, head)
        self.connection.line.clear()
        self.connection.stream = self
        self.connection.deadline = NEVER
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

    def pause(self) -> None:
        """Read no more for now."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on, or begin to: what came before the stream was there is given to on_data first."""
        early, self.connection._buffer = self.connection._buffer, b""
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
        cork.flush(self.transport)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        """End it now."""
        self.closed = True
        self.transport.abortConnection()

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        on_lost, self.on_lost = self.on_lost, nothing
        on_lost()

    # Twisted asks these when its buffer is full, and when it is empty again.

    def pauseProducing(self) -> None:
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


@lru_cache(4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None


@lru_cache(64)
def _networks(words: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(ipaddress.ip_network(word, strict=False) for word in words)


def client_address(peer: str, values: dict[bytes, bytes], settings: Any) -> str:
    """The client's address: the peer's, or the one that a trusted proxy names in the header set for it."""
    if not settings.xheaders:
        return peer
    proxies = _networks(tuple(settings.trusted_proxies) or ("127.0.0.0/8", "::1/128"))

    def trusted(text: str) -> bool:
        if not text:
            return True  # a unix socket: whoever may open it is the proxy
        address = _address(text)
        return address is not None and any(address in network for network in proxies)

    if not trusted(peer):
        return peer
    given = values.get(settings.xheader.lower().encode("ascii"), b"").decode("latin-1")
    hops = [hop.strip() for hop in given.split(",") if hop.strip()]
    if settings.xheader.lower() == "x-real-ip":
        hops = hops[-1:]
    for hop in reversed(hops):
        address = _address(hop)
        if address is None:
            return peer
        if not trusted(str(address)) or settings.xheader.lower() == "x-real-ip":
            return str(address)
    return peer
