"""The strict, lean HTTP connection: bytes to requests, in order, and answers back in the same order.

Owns parsing, limits, time-outs and pipelining (RFC 9112); knows no route and no
queue. cyclone's connection is subclassed, for its ordinary handlers answer
through it. Read http/stream.py next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from cyclone import httpserver
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from restmq.http.headers import NOTHING
from restmq.http.parser import MAX_LINE, Body, check_beginning, read_head
from restmq.http.request import LITTLE, Most, Receiver, Request
from restmq.http.server import Server
from restmq.http.stream import MAX_AHEAD
from restmq.model import errors
from restmq.model.networks import address
from restmq.model.urlencoded import BROKEN
from restmq.runtime.cork import can_half_close, cork, finish, let_go, send, unsent, untaken
from restmq.runtime.ticker import NEVER

MIN_RATE = 1024  # bytes of a body a second, on average, once its time-out is over
GETS = 16  # pipelined GETs in flight: each may bring a large element
STUCK = 10  # seconds for a client to read something, once answers take all the room
ROOM_WAIT = 10  # seconds that a body waits for room
HURRIED = 5  # seconds after which a body that others wait for must have come at HASTE
HASTE = 65536  # bytes a second
DEPTH = 128  # pipelined requests in flight
LINGER = 2  # seconds for a client to stop sending what was refused

log = Logger()


class Routes(Protocol):
    """The application, as far as a connection knows it: `judge` and `refuse` at a head, `cold` at its turn."""

    server: Server

    def __call__(self, request: Request) -> None: ...
    def wrong(self, request: Request, text: str) -> None: ...
    def judge(self, request: Request) -> Most: ...
    def refuse(self, request: Request, error: Exception) -> None: ...
    def cold(self, request: Request) -> None: ...


@implementer(IHalfCloseableProtocol, IPushProducer)
class Connection(httpserver.HTTPConnection):  # type: ignore[misc]  # cyclone has no types
    """One client. Reads heads, then bodies; answers leave in the order of requests.

    A request whose handler is `hot` may be under way beside others; any other
    holds the line: what follows it is read once it is answered. What the client
    does not take is bounded too: past 64 KiB of answers nothing more is read, nor
    past max_body of bodies that are under way and answers that wait for others.
    """

    _finish_callback: Any  # cyclone's: who wants to know that an ordinary handler's request has ended

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
        self.proven = b""  # the user name and password that were right here last
        self.allowed: dict[str, int] = {}  # section -> generation of the ACL that let this address in
        self.line: deque[Request] = deque()  # requests not answered yet, and answers that wait for others
        self._held = 0  # bytes of bodies and of answers in it
        self._gets = 0  # GETs in it that are not answered
        self._kept = 0  # bytes of answers in it
        self._counted = self._still = 0  # of its bytes as application.answers has them; seconds without a change
        self.stream: Receiver | None = None
        self.ended = False  # the client is gone
        self.half = False  # it has closed its side: it asks no more, and still reads
        self.closing = False  # no further request is read
        self._unread = False  # the client may still be sending what nobody reads
        self._losing = self._lingering = False  # all is said
        self._client: tuple[bytes, str] = (b"", self.peer_ip)
        self._buffer = b""
        self._scanned = 0  # how far the buffer has no end of a head
        self._partial = False  # whether the buffer is the beginning of a head that is to come
        self._body: Body | None = None
        self._refusal = b""  # the last words, when the answers before them have left
        self._resuming = self._choked = self._paused = False
        self._stuck = -1
        self._patient = 0  # until when a peer may still read what the kernel holds
        self.deadline = self.wheel.now + self.server.limits.head
        self.server.connections.add(self)
        self.transport.registerProducer(self, True)

    def client(self, values: dict[bytes, bytes]) -> str:
        """The client's address, from the proxy's header only when the proxy is trusted."""
        proxies = self.server.proxies
        if proxies is None:
            return self.peer_ip
        given = values.get(proxies.header, b"")
        if given != self._client[0]:
            self._client = (given, proxies.client(self.peer_ip, given))
            self.allowed.clear()
            self.proven = b""
        return self._client[1]

    def taken_over(self, stream: Receiver) -> None:
        """A stream answers from now on, and has no deadline."""
        self.line.clear()
        self.stream = stream
        self.deadline = NEVER

    def read_ahead(self) -> bytes:
        """What the client sent before the stream was there, for its owner."""
        early, self._buffer, self._paused = self._buffer, b"", False
        return early

    # -- ends

    def connectionLost(self, reason: Failure) -> None:
        self.server.connections.discard(self)
        why = reason.getErrorMessage()
        reason.cleanFailure()  # over TLS it has frames that hold it, and with it this connection
        self._gone(why)

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
        self.deadline = self.wheel.now + self.server.limits.idle
        for handler in asked:
            _safely(handler.halved)
        self._no_more()

    def _no_more(self) -> None:
        """The client has closed its side: close with the last answer. What came of a request without an end is 400."""
        if self.ended or self.closing or (self._buffer and self._full()):
            return
        if self._buffer or (self._body is not None and self._body.most is not None):
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
            _safely(stream.lost)
        line, self.line = self.line, deque()
        for request in line:
            handler, request.handler = request.handler, None  # they hold each other
            if handler is not None and request.answer is None:
                _safely(handler.left)  # it has its body until it is done
            else:
                self.freed(request)
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
        elif self._body is not None and self._body.most is None:
            self._lose()  # it has its answer
        elif self._partial or self._body is not None:
            self.refuse(errors.TooSlow("the request did not arrive in time"))
        elif self.half:
            self.transport.abortConnection()  # nothing was written for so long: perhaps nobody is there
        elif not self.line and self.stream is None:
            self._lose()

    def refuse(self, error: errors.Error) -> None:
        """An error that ends the connection, after the answers before it."""
        self.closing, self._buffer, self._partial = True, b"", False
        self._drop_body()
        body = error.render()
        head = self.server.head(error.status, b"application/problem+json")
        self._refusal = b"%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        if self.server.access is not None:
            self.server.access(Request(self, "-", b"-", False, NOTHING), error.status, len(body))
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
                self.deadline = min(self.deadline, self.wheel.now + int(grace))

    def closes(self, request: Request) -> bool:
        """Whether the connection ends with this request's answer, so that its head says so."""
        if self.closing or self.server.draining:
            return not self._refusal and self.line[-1] is request
        return bool(self.no_keep_alive)

    def lose(self) -> None:
        """Close when all is sent, and if it cannot be sent, some time later.

        TLS waits for the client's goodbye then, which one that keeps its connections for later does not say.
        """
        self.closing = self._losing = True
        self.deadline = self.wheel.now + (self.server.limits.idle if can_half_close(self.transport) else LINGER)
        cork.flush(self.transport)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    _lose = lose

    def cut(self, linger: bool = True, patience: float = 0) -> None:
        """Close now: what the kernel has not taken is thrown away, what it has can still be read.

        Reading goes on for a moment, or up to `patience` seconds while the peer has not taken all: whatever comes
        behind the close, as a pong that a slow client owes, would reset the connection.
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
        """Close our half, and read on for a moment: a reset would take the answer away from a client that sends."""
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
            self.deadline = self.wheel.now + self.server.limits.idle
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
        check_beginning(head, self._scanned)
        self._scanned = len(head)
        if not self._partial:
            self._partial = True
            self.deadline = self.wheel.now + self.server.limits.head

    def _head(self, data: bytes, at: int, end: int) -> int:
        """Take up the head in data[at:end], and its body if it is here; the position after it."""
        method, target, newer, given = read_head(data, at, end)
        length = given.length
        request = Request(self, method, target, newer, given)
        if b"%" in target and BROKEN.search(target):
            self.app.wrong(request, "the target has a % without two hexadecimal digits behind it: write it as %25")
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
        """A head whose body is still to come, or is large: whoever may not send it is answered now.

        `here` is whether some of the body came already: then nobody waits for 100 Continue.
        """
        self._partial = False
        body = self._body = Body(request, self.wheel.now)
        self.deadline = body.began + self.server.limits.body
        if here:
            body.expects = False
        try:
            body.most = self.app.judge(request)
        except Exception as error:
            self._deny(body, error)
            return
        if request.fields.length > LITTLE:
            self._ask_for_room(body, request.fields.length)
        if not self.line:
            self._continue(body)

    def _ask_for_room(self, body: Body, size: int) -> None:
        """A large body: it is read on when all bodies of this instance leave room for it."""
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
        """It has room now: go on with what was read of it, then with what is to come."""
        if self._body is not body or self.ended:
            return
        self.transport.resumeProducing()
        if self.half and not self._buffer:
            self._no_more()
        elif self._buffer:
            self.dataReceived(b"")

    def _drop_body(self) -> None:
        """There is no body any more that is still coming: its room is others'."""
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

    def hurried(self) -> None:
        """Others wait for room: a body that comes slowly must give its own back."""
        body = self._body
        if body is not None and body.room:
            age = self.wheel.now - body.began
            if age >= HURRIED and body.size < age * HASTE:
                self._deny(body, self._crowded("the body came slowly while others waited; nothing was stored"))

    def _crowded(self, text: str) -> errors.NoRoom:
        """The error of a body that has no room, or has it no longer. It is counted for /metrics."""
        self.server.bodies.refused += 1
        return errors.NoRoom(text)

    def _deny(self, body: Body, error: Exception) -> None:
        """Answer a request whose body is not all here. What comes of the body is thrown away, if it has a near end.

        It has none if the client waits for 100 Continue: perhaps it sends the body, perhaps the next request (RFC
        9110 section 10.1.1).
        """
        request, body.most = body.request, None
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
            self._gets += 1  # answer() counts it off
        self.app.refuse(request, error)

    def _continue(self, body: Body) -> None:
        if body.expects and body.ticket is None:
            body.expects = False
            send(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _more(self, data: bytes, at: int) -> int:
        """Go on with a body; the position after it, or -1 when more must come (the rest is kept)."""
        body, limits = self._body, self.server.limits
        assert body is not None
        while True:
            if body.ticket is not None:
                self._buffer = data[at:]
                return -1
            if body.want == "size":
                most = limits.size if body.most is None else min(limits.size, body.most.bytes if body.room else LITTLE)
                at = body.small_chunks(data, at, most)
            if isinstance(body.want, int):
                part = data[at : at + body.want]
                at += len(part)
                body.size += len(part)
                if body.most is not None:
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
        if body.most is None:
            if not self.line:
                self.deadline = self.wheel.now + limits.idle
            return at
        body.request.body = bytes(body.data)
        body.data.clear()
        self.server.bodies.held -= body.room  # _take() counts what it has
        body.room = 0
        self._take(body.request)
        return at

    def _announced(self, body: Body, size: int) -> None:
        """A chunk of so many bytes is next: may the body have them, and is there room?"""
        if body.most is not None and body.size + size > body.most.bytes:
            self._deny(body, body.most.passed())
        elif body.most is not None and not body.room and body.size + size > LITTLE:
            self._ask_for_room(body, body.most.bytes)

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
        """A body is to be unpacked, to `most` bytes. Raises NoRoom when there is no room for that."""
        bodies = self.server.bodies
        if bodies.held - request.size + most > bodies.most and bodies.held > request.size:
            raise self._crowded("too many bodies are under way for one that is to be unpacked; nothing was done")

    def replaced(self, request: Request, body: bytes) -> None:
        """A request has another body now, which was unpacked: it counts while the request is under way."""
        self._held += len(body) - request.size
        self.server.bodies.held += len(body) - request.size
        request.body, request.size = body, len(body)

    def freed(self, request: Request) -> None:
        """Nobody needs its body any more."""
        size, request.size = request.size, 0
        if size:
            self._held -= size
            self.server.bodies.leave(size)

    # -- answering

    def answer(self, request: Request, data: bytes) -> None:
        """The whole answer of one request; it leaves when those before it have left."""
        line = self.line
        if self.ended or request.answer is not None:
            return
        request.answer, request.handler = data, None
        if request.method == "GET":
            self._gets -= 1
        size = request.size
        if size:  # freed(), in place
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
            if self._buffer or self._paused:  # its body may be what there was too much of
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
        """Tell the application how much the client has not read."""
        now = 0 if self.ended else self._kept
        if self._choked and not self.ended and self.stream is None:
            now += unsent(self.transport)
        more, self._counted = now - self._counted, now
        if more:
            self.server.answers.count(more)

    def watched(self) -> None:
        """Once a second while the client does not read: it is cut off when it reads nothing and takes others' room."""
        before = self._counted
        self._count()
        self._still = self._still + 1 if self._counted >= before else 0
        if self._still >= STUCK and self._counted and self.server.answers.over:
            self.server.answers.cut += 1
            self.transport.abortConnection()

    def _answered(self) -> None:
        """What could leave has left: close, go on reading, or start the cold request whose turn it is."""
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
        request = self.line.popleft()
        if request.method == "GET":
            self._gets -= 1
        request.answer = b""
        self.freed(request)
        self.closing = self.closing or self.no_keep_alive
        self._answered()

    # Twisted asks these when more is written than the client takes, and when it has taken it.

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
    """Tell somebody that the client is gone; who fails at that must not keep it from the next."""
    try:
        call()
    except Exception:
        log.failure("the end of a connection was not taken well")
