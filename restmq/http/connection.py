"""The strict, lean HTTP connection: from bytes to requests, in order, and answers back in the same order.

Owns parsing, limits, time-outs and pipelining (RFC 9112). Knows no route and no queue. It is a subclass of cyclone's
connection, because cyclone's ordinary handlers answer through it. Read http/stream.py next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from cyclone import httpserver
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from restmq.http.headers import NOTHING
from restmq.http.parser import MAX_LINE, Body, check_beginning, read_head
from restmq.http.request import LITTLE, BodyLimit, Receiver, Request
from restmq.http.server import Server
from restmq.http.stream import MAX_AHEAD
from restmq.model import errors
from restmq.model.networks import address
from restmq.model.urlencoded import BROKEN
from restmq.runtime.cork import can_half_close, cork, finish, let_go, send, unsent, untaken
from restmq.runtime.ticker import NEVER

MIN_RATE = 1024  # bytes of a body a second, on average, once its time-out is over
GETS = 16  # most pipelined GETs under way: each may bring a large element
STUCK = 10  # seconds in which a client must read something, once answers take all the room
ROOM_WAIT = 10  # seconds that a body waits for room
CONTESTED = 5  # seconds after which a body that others wait for must have come at CONTESTED_RATE
CONTESTED_RATE = 65536  # bytes a second
DEPTH = 128  # most pipelined requests under way
LINGER = 2  # seconds for a client to stop sending a refused body

log = Logger()


class Routes(Protocol):
    """The application, as far as a connection knows it.

    `judge` and `refuse` act at a head, `run_next` when its turn comes.
    """

    server: Server

    def __call__(self, request: Request) -> None: ...
    def mark_malformed(self, request: Request, text: str) -> None: ...
    def judge(self, request: Request) -> BodyLimit: ...
    def refuse(self, request: Request, error: Exception) -> None: ...
    def run_next(self, request: Request) -> None: ...


@implementer(IHalfCloseableProtocol, IPushProducer)
class Connection(httpserver.HTTPConnection):  # type: ignore[misc]  # cyclone has no types
    """One client. It reads heads, then bodies; answers leave in the order of requests.

    A request with a `hot` handler may be under way beside others. Any other request holds the line: the next one is
    read when it is answered. Bytes that the client does not take are bounded too. Nothing more is read while more than
    64 KiB of answers wait, or while bodies under way and answers that wait for others exceed max_body.
    """

    _finish_callback: Deferred[str | None] | None  # cyclone's: fires when an ordinary handler's request has ended

    def connectionMade(self) -> None:
        super().connectionMade()
        self.app: Routes = self.factory
        self.server = self.app.server
        self.wheel = self.server.wheel
        try:
            self.transport.setTcpNoDelay(True)
        except (AttributeError, OSError):
            log.debug("no TCP_NODELAY on this transport")
        self.peer_ip: str = getattr(self.transport.getPeer(), "host", "")
        if self.peer_ip.startswith("::ffff:"):
            self.peer_ip = address(self.peer_ip)
        self.proven = b""  # the last user name and password that were right here
        self.allowed: dict[str, int] = {}  # section -> generation of the access rules that let this address in
        self.line: deque[Request] = deque()  # requests not answered yet, and answers that wait for others
        self._held = 0  # bytes of bodies and of answers in the line
        self._gets = 0  # GETs in the line that are not answered
        self._kept = 0  # bytes of answers in the line
        self._counted = 0  # bytes of this connection that server.answers has counted
        self._still = 0  # seconds in which the client read nothing
        self.stream: Receiver | None = None
        self.ended = False  # the client is gone
        self.half = False  # the client has closed its side: it asks no more, and may still read
        self.closing = False  # no further request is read
        self._unread = False  # the client may still be sending a body that is not read
        self._losing = self._lingering = False  # all answers are written
        self._client: tuple[bytes, str] = (b"", self.peer_ip)
        self._buffer = b""
        self._scanned = 0  # bytes of the buffer in which no head ends
        self._partial = False  # whether the buffer is the beginning of a head
        self._body: Body | None = None
        self._refusal = b""  # the last answer, written when those before it have left
        self._resuming = self._choked = self._paused = False
        self._stuck = -1
        self._patient = 0  # when the peer's time to read what the kernel holds ends
        self.deadline = self.wheel.now + self.server.limits.head
        self.server.connections.add(self)
        self.transport.registerProducer(self, True)

    def client(self, values: dict[bytes, bytes]) -> str:
        """The client's address. The proxy's header counts only if the proxy is trusted."""
        proxies = self.server.proxies
        if proxies is None:
            return self.peer_ip
        given = values.get(proxies.header, b"")
        if given != self._client[0]:
            self._client = (given, proxies.client(self.peer_ip, given))
            self.allowed.clear()
            self.proven = b""
        return self._client[1]

    def give_to_stream(self, stream: Receiver) -> None:
        """Let a stream answer from now on. It has no deadline."""
        self.line.clear()
        self.stream = stream
        self.deadline = NEVER

    def read_ahead(self) -> bytes:
        """The bytes that the client sent before the stream was there, for the stream's owner."""
        early, self._buffer, self._paused = self._buffer, b"", False
        return early

    # -- ends

    def connectionLost(self, reason: Failure) -> None:
        self.server.connections.discard(self)
        why = reason.getErrorMessage()
        reason.cleanFailure()  # over TLS its frames refer to it, and so to this connection
        self._gone(why)

    def readConnectionLost(self) -> None:
        """The client closed its side. A stream ends. Requests are still answered, and then the connection is closed.

        RestMQ cannot know whether the client still reads until it writes to it, because a close of both sides begins
        like this. So no GET of this client waits for an element any longer, and requests that are under way have
        `idle` seconds.
        """
        self.half = True
        asked = [request.handler for request in self.line if request.answer is None and request.handler is not None]
        if self._losing or self.stream is not None or any(handler.streams for handler in asked):
            self._gone("the client closed the connection")
            self._lose()
            return
        self.deadline = self.wheel.now + self.server.limits.idle
        for handler in asked:
            _safely(handler.on_client_half_closed)
        self._no_more()

    def _no_more(self) -> None:
        """Close with the last answer, because the client has closed its side.

        The beginning of a request is answered with 400.
        """
        if self.ended or self.closing or (self._buffer and self._full()):
            return
        if self._buffer or (self._body is not None and self._body.limit is not None):
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
        self.server.choked.discard(self)
        self._count()
        self._drop_body()
        stream, self.stream = self.stream, None
        if stream is not None:
            _safely(stream.on_connection_lost)
        line, self.line = self.line, deque()
        for request in line:
            handler, request.handler = request.handler, None  # handler and request refer to each other
            if handler is not None and request.answer is None:
                _safely(handler.on_client_left)  # the body is counted until the handler has ended
            else:
                self.free_body(request)
        callback, self._finish_callback = self._finish_callback, None
        if callback:
            callback.callback(why)

    def on_deadline(self) -> None:
        """The deadline is over: answer half a request with 408, or close an idle or stuck connection."""
        self.deadline = NEVER
        waiting = unsent(self.transport)
        if self._losing or (waiting and not self.line and self.stream is None):
            if waiting and waiting != self._stuck:  # the client reads slowly
                self._stuck = waiting
                self.deadline = self.wheel.now + self.server.limits.idle
            elif not waiting and self._patient > self.wheel.now and untaken(self.transport):
                self.deadline = self.wheel.now + LINGER
            elif not waiting:
                let_go(self.transport)
            else:
                self.cut()
        elif self._body is not None and self._body.ticket is not None:
            self.deadline = self.wheel.now + self.server.limits.body
            self._deny(self._body, self._crowded("other bodies took all the room for 10 s; nothing was stored"))
        elif self._body is not None and self._body.limit is None:
            self._lose()  # the request has its answer
        elif self._partial or self._body is not None:
            self.refuse(errors.TooSlow("the request did not arrive in time"))
        elif self.half:
            self.transport.abortConnection()  # nothing was written for so long that the client may be gone
        elif not self.line and self.stream is None:
            self._lose()

    def refuse(self, error: errors.Error) -> None:
        """Answer with an error that ends the connection, after the answers before it."""
        self.closing, self._buffer, self._partial = True, b"", False
        self._drop_body()
        body = error.render()
        head = self.server.head(error.status, b"application/problem+json")
        self._refusal = b"%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        if self.server.on_answer is not None:
            self.server.on_answer(Request(self, "-", b"-", False, NOTHING), error.status, len(body))
        if not self.line:
            self._answered()

    def drain(self, grace: float) -> None:
        """Close when the requests that are under way are answered, or the next one is.

        Without any, close after `grace` seconds.
        """
        if self.stream is not None:
            return
        if self.line:
            self.closing = True
        elif self._body is None and not self._partial:
            if not grace:
                self._lose()
            else:
                self.deadline = min(self.deadline, self.wheel.now + int(grace))

    def closes(self, request: Request) -> bool:
        """Whether the connection ends with this request's answer, so that the head must say so."""
        if self.closing or self.server.draining:
            return not self._refusal and self.line[-1] is request
        return bool(self.no_keep_alive)

    def lose(self) -> None:
        """Close when all is sent. If it cannot be sent, close some time later.

        TLS then waits for the client's goodbye, which a client that keeps its connections for later does not send.
        """
        self.closing = self._losing = True
        self.deadline = self.wheel.now + (self.server.limits.idle if can_half_close(self.transport) else LINGER)
        cork.flush(self.transport)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    _lose = lose

    def cut(self, linger: bool = True, patience: float = 0) -> None:
        """Close now. Bytes that the kernel has not taken are thrown away; the client can still read the others.

        Reading goes on for a moment, or for up to `patience` seconds while the peer has not taken all bytes. Otherwise
        bytes that come after the close, such as a slow client's pong, would reset the connection.
        """
        self.closing = self._losing = True
        self._patient = self.wheel.now + int(patience)
        self.deadline = self.wheel.now + LINGER
        finish(self.transport)
        if self.half or not linger:
            let_go(self.transport)
        else:
            self.transport.resumeProducing()

    def _linger(self) -> None:
        """Close our half and read on for a moment.

        A reset would take the answer from a client that still sends.
        """
        if self.half or not can_half_close(self.transport):
            self.lose()
            return
        self._losing = self._lingering = True
        self.deadline = self.wheel.now + LINGER
        cork.flush(self.transport)
        self.transport.unregisterProducer()
        self._read_on()
        self.transport.loseWriteConnection()

    # -- reading

    def dataReceived(self, data: bytes) -> None:
        if self.stream is not None:
            self.stream.on_received(data)
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
        if not line:
            return False
        last = line[-1]
        if last.hold or last.alone or len(line) >= DEPTH or self._gets >= GETS or self._held > self.server.limits.size:
            return True
        return bool(self.server.bodies.held > self.server.bodies.most)

    def _read_on(self) -> None:
        if self._paused and not self.half:
            self._paused = False
            self.transport.resumeProducing()

    def _resume(self) -> None:
        """An answer left: go on with the requests that were read ahead."""
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
            self.deadline = self.wheel.now + self.server.limits.idle
            self._no_more()

    def _parse(self, data: bytes) -> None:
        at = 0
        while not (self.closing or self.ended):
            if self.stream is not None:
                if at < len(data):
                    self.stream.on_received(data[at:])
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
        """Check the beginning of a head, and set the deadline for the rest of it."""
        check_beginning(head, self._scanned)
        self._scanned = len(head)
        if not self._partial:
            self._partial = True
            self.deadline = self.wheel.now + self.server.limits.head

    def _head(self, data: bytes, at: int, end: int) -> int:
        """Take up the head in data[at:end], and its body if it is here. Returns the position after it."""
        method, target, newer, given = read_head(data, at, end)
        length = given.length
        request = Request(self, method, target, newer, given)
        if b"%" in target and BROKEN.search(target):
            self.app.mark_malformed(request, "the target has a % without two hexadecimal digits after it: write %25")
        if not (length or given.chunked):
            self._take(request)
            return end
        if length and length <= LITTLE and len(data) - end >= length:
            request.body = data[end : end + length]
            self._take(request)
            return end + length
        self._judge(request, len(data) > end)
        return end

    def _judge(self, request: Request, here: bool) -> None:
        """Judge a head whose body is large or still to come. A client that may not send the body is answered now.

        `here` says that a part of the body came already. Then the client does not wait for 100 Continue.
        """
        self._partial = False
        body = self._body = Body(request, self.wheel.now)
        self.deadline = body.began + self.server.limits.body
        if here:
            body.expects = False
        try:
            body.limit = self.app.judge(request)
        except Exception as error:
            self._deny(body, error)
            return
        if request.fields.length > LITTLE:
            self._ask_for_room(body, request.fields.length)
        if not self.line:
            self._continue(body)

    def _ask_for_room(self, body: Body, size: int) -> None:
        """Ask for room for a large body. It is read on when all bodies of this instance leave room for it."""
        body.room, body.ticket = size, self.server.bodies.enter(size, partial(self._has_room, body))
        if body.ticket is not None:
            body.room = 0
            self.deadline = self.wheel.now + ROOM_WAIT
            self.transport.pauseProducing()

    def _has_room(self, body: Body) -> None:
        assert body.ticket is not None
        body.room, body.ticket = body.ticket.size, None
        body.began = self.wheel.now
        self.deadline = body.began + self.server.limits.body
        if not self.line:
            self._continue(body)
        self.wheel.clock.callLater(0, self._read_body, body)

    def _read_body(self, body: Body) -> None:
        """Go on with a body that has room now: first with the bytes that were read, then with those to come."""
        if self._body is not body or self.ended:
            return
        self.transport.resumeProducing()
        if self.half and not self._buffer:
            self._no_more()
        elif self._buffer:
            self.dataReceived(b"")

    def _drop_body(self) -> None:
        """Give up the body that is still coming. Its room is free for others."""
        body, self._body = self._body, None
        if body is not None:
            self._leave_room(body)

    def _leave_room(self, body: Body) -> None:
        room, body.room = body.room, 0
        ticket, body.ticket = body.ticket, None
        if ticket is not None:
            self.server.bodies.leave_line(ticket)
            if not self.ended:
                self.transport.resumeProducing()
        elif room:
            self.server.bodies.leave(room)

    def check_body_rate(self) -> None:
        """Refuse a body that has room and comes slowly, because others wait for room."""
        body = self._body
        if body is not None and body.room:
            age = self.wheel.now - body.began
            if age >= CONTESTED and body.size < age * CONTESTED_RATE:
                self._deny(body, self._crowded("the body came slowly while others waited; nothing was stored"))

    def _crowded(self, text: str) -> errors.NoRoom:
        """The error for a body that gets no room, or loses it. It is counted for /metrics."""
        self.server.bodies.refused += 1
        return errors.NoRoom(text)

    def _deny(self, body: Body, error: Exception) -> None:
        """Answer a request whose body is not all here. The rest of the body is thrown away, if its end is near.

        The end is unknown if the client waits for 100 Continue, because it may send the body or the next request (RFC
        9110 section 10.1.1).
        """
        request, body.limit = body.request, None
        body.data.clear()
        self._leave_room(body)
        if (
            body.expects
            or request.fields.close
            or self.server.draining
            or request.fields.length > self.server.limits.size
        ):
            self.closing = self._unread = True
            self._body = None
        self.line.append(request)
        if request.method == "GET":
            self._gets += 1  # answer() subtracts it
        self.app.refuse(request, error)

    def _continue(self, body: Body) -> None:
        if body.expects and body.ticket is None:
            body.expects = False
            send(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _more(self, data: bytes, at: int) -> int:
        """Go on with a body. Returns the position after it, or -1 if more must come; then the rest is kept."""
        body, limits = self._body, self.server.limits
        assert body is not None
        while True:
            if body.ticket is not None:
                self._buffer = data[at:]
                return -1
            if body.want == "size":
                most = (
                    limits.size if body.limit is None else min(limits.size, body.limit.bytes if body.room else LITTLE)
                )
                at = body.small_chunks(data, at, most)
            if isinstance(body.want, int):
                part = data[at : at + body.want]
                at += len(part)
                body.size += len(part)
                if body.limit is not None:
                    body.data += part
                body.want -= len(part)
                self.deadline = min(body.began + body.size // MIN_RATE, self.wheel.now) + limits.body
                if body.want:
                    return -1
                if not body.chunked:
                    break
                body.want = "end"
            end = data.find(b"\r\n", at)
            if (len(data) if end < 0 else end) - at > MAX_LINE:
                raise errors.BadRequest("a line of the chunked body is too long")
            if end < 0:
                self._buffer = data[at:]
                return -1
            line, at = data[at:end], end + 2
            if body.between(line, limits.size):
                break
            if isinstance(body.want, int):
                self._announced(body, body.want)
            if self.closing:
                return -1
        self._body = None
        if body.limit is None:
            if not self.line:
                self.deadline = self.wheel.now + limits.idle
            return at
        body.request.body = bytes(body.data)
        body.data.clear()
        self.server.bodies.held -= body.room  # _take() counts its bytes again
        body.room = 0
        self._take(body.request)
        return at

    def _announced(self, body: Body, size: int) -> None:
        """Check that the body may have the next chunk of `size` bytes, and ask for room."""
        if body.limit is not None and body.size + size > body.limit.bytes:
            self._deny(body, body.limit.exceeded())
        elif body.limit is not None and not body.room and body.size + size > LITTLE:
            self._ask_for_room(body, body.limit.bytes)

    def _take(self, request: Request) -> None:
        """A whole request is here."""
        self.deadline, self._partial = NEVER, False
        if request.fields.close or self.server.draining:
            self.closing = True
        self.line.append(request)
        if request.method == "GET":
            self._gets += 1
        if request.body:
            request.size = request.fields.length or len(request.body)
            self._held += request.size
            self.server.bodies.held += request.size
        self.app(request)

    def may_grow(self, request: Request, most: int) -> None:
        """Check that there is room to unpack a body to `most` bytes. Raises NoRoom if there is not."""
        bodies = self.server.bodies
        if bodies.held - request.size + most > bodies.most and bodies.held > request.size:
            raise self._crowded("too many bodies are under way for one that is to be unpacked; nothing was done")

    def replace_body(self, request: Request, body: bytes) -> None:
        """Give a request its unpacked body, which is counted while the request is under way."""
        self._held += len(body) - request.size
        self.server.bodies.held += len(body) - request.size
        request.body, request.size = body, len(body)

    def free_body(self, request: Request) -> None:
        """Stop counting a request's body, because nothing needs it any more."""
        size, request.size = request.size, 0
        if size:
            self._held -= size
            self.server.bodies.leave(size)

    # -- answering

    def answer(self, request: Request, data: bytes) -> None:
        """Take the whole answer of one request. It leaves when the answers before it have left."""
        line = self.line
        if self.ended or request.answer is not None:
            return
        request.answer, request.handler = data, None
        if request.method == "GET":
            self._gets -= 1
        size = request.size
        if size:  # free_body(), written out because it costs a call
            request.size = 0
            self._held -= size
            bodies = self.server.bodies
            bodies.held -= size
            if bodies.line:
                bodies.leave(0)
        if line[0] is not request:
            self._held += len(data)
            self._kept += len(data)
            if self._kept > MAX_AHEAD:
                self._count()
            request.body = b""
            request.__dict__.pop("form", None)
            if self._buffer or self._paused:  # its body may have been the one that took too much room
                self._resume()
            return
        line.popleft()
        send(self.transport, data)
        while line and (ready := line[0].answer) is not None:
            line.popleft()
            self._held -= len(ready)
            self._kept -= len(ready)
            send(self.transport, ready)
        if self._choked or self._counted:
            self._count()
        self._answered()

    def _count(self) -> None:
        """Report to the server how much the client has not read."""
        now = 0 if self.ended else self._kept
        if self._choked and not self.ended and self.stream is None:
            now += unsent(self.transport)
        more, self._counted = now - self._counted, now
        if more:
            self.server.answers.count(more)

    def check_reading(self) -> None:
        """Cut the client off if it reads nothing and its answers take others' room.

        Called each second while it does not read.
        """
        before = self._counted
        self._count()
        self._still = self._still + 1 if self._counted >= before else 0
        if self._still >= STUCK and self._counted and self.server.answers.over:
            self.server.answers.cut += 1
            self.transport.abortConnection()

    def _answered(self) -> None:
        """The answers that could leave have left: close, read on, or run the request whose turn it is."""
        line = self.line
        if not line:
            if self._refusal:
                send(self.transport, self._refusal)
                self._linger()
                return
            if self.closing:
                if self._unread:
                    self._linger()
                else:
                    self.lose()
                return
            if self._body is not None:
                self._continue(self._body)
            elif not self._partial:
                self.deadline = self.wheel.now + self.server.limits.idle
        elif line[0].hold:
            self.app.run_next(line[0])
            return
        if self._buffer or self._paused:
            self._resume()

    # cyclone's own way of answering, for its ordinary handlers. They hold the line, so their request is the first.

    def write(self, chunk: bytes) -> None:
        if not self.ended:
            send(self.transport, chunk)

    def finish(self) -> None:
        callback, self._finish_callback = self._finish_callback, None
        if callback:
            callback.callback(None)
        if self.ended:
            return
        request = self.line.popleft()
        if request.method == "GET":
            self._gets -= 1
        request.answer = b""
        self.free_body(request)
        self.closing = self.closing or self.no_keep_alive
        self._answered()

    # Twisted calls these when more is written than the client takes, and when the client has taken it.

    def pauseProducing(self) -> None:
        self._choked = True
        self._still = 0
        self.server.choked.add(self)
        self._count()

    def resumeProducing(self) -> None:
        self._choked = False
        self.server.choked.discard(self)
        self._count()
        self._resume()

    def stopProducing(self) -> None:
        """The connection is closing; connectionLost follows."""


def _safely(call: Callable[[], object]) -> None:
    """Call a callback of a lost connection. If it fails, the next one is called all the same."""
    try:
        call()
    except Exception:
        log.failure("a callback failed at the end of a connection")
