"""Live consumers on /ws/NAMES: the WebSocket protocol (RFC 6455) over a Stream.

Owns the handshake, the frames, and the JSON commands a client sends; wsproto
parses what comes in, what goes out is framed here, once for all consumers of
a queue (a server's frames are not masked, section 5.1). Knows nothing of what
a command does: api/commands.py does. live/consumer.py has what all consumers share.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections import deque
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Any, ClassVar

from twisted.logger import Logger
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from restmq.api import commands
from restmq.api.client import Client
from restmq.api.services import BrokerHandler
from restmq.delivery.batch import Batch
from restmq.delivery.waiters import Wait
from restmq.http.negotiation import listed
from restmq.http.request import LITTLE
from restmq.http.stream import Stream
from restmq.live.consumer import Live, Wish, queue_names, wish
from restmq.model.element import Lease, parse_lease
from restmq.model.errors import BadKey, BadRequest, Error, UpgradeRequired
from restmq.runtime.future import drive

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A  # the first byte of a whole frame, section 5.2
NO_CODE = 1005  # a Close frame came without a code, section 7.4.1
GOING_AWAY, UNSUPPORTED, POLICY, TOO_BIG, BROKEN = 1001, 1003, 1008, 1009, 1011
MOST_WAITING = 1000  # takes of one connection
MOST_REMEMBERED = 1000  # leases of one connection, those that are over included
MOST_COMMANDS = 128  # not yet answered, or as much as one may have; then reading stops, and goes on below half
MOST_FRAMES = 500  # that are looked at in one turn of the reactor
PATIENCE = 2.0  # seconds for the client to answer a Close frame

log = Logger()


def to_frame(kind: int, payload: bytes) -> bytes:
    """One whole frame as a server sends it (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (kind, size, payload)
    if size < 1 << 16:
        return b"%c\x7e%b%b" % (kind, struct.pack("!H", size), payload)
    return b"%c\x7f%b%b" % (kind, struct.pack("!Q", size), payload)


def close_frame(code: int, why: str = "") -> bytes:
    """A Close frame; the reason is cut to what a control frame holds (section 5.5)."""
    if code == NO_CODE:
        return to_frame(CLOSE, b"")
    reason = why.encode("utf-8")[:123].decode("utf-8", "ignore").encode("utf-8")
    return to_frame(CLOSE, struct.pack("!H", code) + reason)


def accept(key: bytes) -> bytes:
    """The answer to Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def check_handshake(version: str, fields: dict[bytes, bytes]) -> bytes:
    """Check a client's opening handshake (section 4.2.1); answers its Sec-WebSocket-Key.

    Raises UpgradeRequired when it is none or of another version than 13, and
    BadRequest when it is broken.
    """
    if not (listed(fields.get(b"upgrade", b""), b"websocket") and listed(fields.get(b"connection", b""), b"upgrade")):
        raise UpgradeRequired(
            "this address speaks WebSocket: send Connection: Upgrade and Upgrade: websocket "
            "(Nginx passes them on only with proxy_http_version 1.1 and proxy_set_header for both)"
        )
    if version != "HTTP/1.1":
        raise BadRequest("a WebSocket handshake is an HTTP/1.1 request")
    if fields.get(b"sec-websocket-version", b"").strip() != b"13":
        raise UpgradeRequired("Sec-WebSocket-Version must be 13")
    key = fields.get(b"sec-websocket-key", b"").strip()
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64")
    return key


class Asking(Client):
    """Who sent one command over a WebSocket; `later` once its answer may come after those of other commands."""

    def __init__(self, socket: WebSocket) -> None:
        super().__init__()
        self._socket = socket
        self.must_match = socket.lease > 0
        self.later = False
        self.wait: Wait | None = None

    @property
    def gone(self) -> bool:
        """Whether the connection is at its end."""
        return self._socket.ended

    def waits(self, wait: Wait) -> None:
        """A take waits from now on. Raises BadRequest when too many do."""
        if len(self._socket.waiting) >= MOST_WAITING:
            wait.leave()
            raise BadRequest(f"{MOST_WAITING} takes wait on this connection; no more are allowed")
        self.later, self.wait = True, wait
        self._socket.waiting.add(wait)

    def owns(self, queue: str, lease: str) -> bool:
        """Whether the connection has this lease, or had it a little while ago: then the answer is that it is lost."""
        try:
            name, word = queue.encode("utf-8"), parse_lease(lease.encode("utf-8"))
        except (UnicodeEncodeError, BadKey):
            return False
        return (name, word) in self._socket.leased or self._socket.services.delivery.leases(self._socket, name, word)


class WebSocket(Live):
    """A consumer of /ws/NAMES: elements go out as text messages, commands are answered in order."""

    section = "websocket:consumer"

    def __init__(self, handler: BrokerHandler, queues: Sequence[bytes], clock: Any = None, wish: Wish = Wish()) -> None:  # noqa: B008
        super().__init__(handler, queues, clock, wish)
        self._limit = self.services.config.max_form  # bytes of one message
        self._parser = Connection(ConnectionType.SERVER)
        self._message = BytesIO()
        self._size = 0
        self._commands: deque[bytes] = deque()
        self._waiting_size = 0  # bytes of these
        self._working = False
        self.waiting: set[Wait] = set()  # takes that are answered later
        self.leased: dict[tuple[bytes, Lease], None] = {}  # the newest that it got
        self._held = False  # reading stopped: too much is to be answered
        self._resting = False  # reading goes on in the reactor's next turn
        self._pong: bytes | None = None  # owed to a client that does not read
        self._alive = True  # something came since the last heartbeat
        self._silent = 0  # heartbeats since then, of those at which it had nothing new to read
        self._pinged = 0  # `written` after the last ping
        self._closing: Any = None  # a Close frame went out; the timer that ends waiting for the client's

    # Elements

    def framed(self, document: str, event: str = "") -> bytes:
        """A text message."""
        return to_frame(TEXT, document.encode("ascii"))

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write frames, and remember whose lease it is."""
        super().deliver(data, queue, batch)
        if self.lease:
            self.leased.update(dict.fromkeys((queue, element.lease) for element in batch.elements))
            while len(self.leased) > MOST_REMEMBERED:
                del self.leased[next(iter(self.leased))]

    # What comes in

    def heard(self, data: bytes) -> None:
        """Parse what came."""
        self._alive = True
        self._parser.receive_data(data)
        if not (self._held or self._resting):
            self._read()

    def _read(self) -> None:
        """What was parsed. Frames can be six bytes long: after so many of them others have their turn."""
        for count, event in enumerate(self._parser.events(), 1):
            if self._closing is None or isinstance(event, CloseConnection):
                self._event(event)
            if self._held:
                return
            if count == MOST_FRAMES:
                assert self._stream is not None
                self._resting = True
                self._stream.pause()
                self._clock.callLater(0, self._read_on)
                return

    def _read_on(self) -> None:
        self._resting = False
        if self._stream is not None and not (self._stream.closed or self._held):
            self._stream.resume()
            self._read()

    def _event(self, event: Event) -> None:
        stream = self._stream
        assert stream is not None
        if isinstance(event, TextMessage):
            self._part(event)
        elif isinstance(event, BytesMessage):
            self.finish(UNSUPPORTED, "commands are JSON in text messages")
        elif isinstance(event, Ping):
            if self.full:  # only the newest needs an answer (section 5.5.3): a flood of pings cannot pile up
                self._pong = bytes(event.payload)
            else:
                self.write(to_frame(PONG, bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            self._closed(stream, event)

    def _part(self, event: TextMessage) -> None:
        data = event.data.encode("utf-8")  # as one text, a character beyond ASCII would widen all of it
        self._size += len(data)
        if self._size > self._limit:
            self._message = BytesIO()
            self.finish(TOO_BIG, f"a message can have {self._limit} bytes")
            return
        self._message.write(data)
        if event.message_finished:
            self._commands.append(self._message.getvalue())
            self._waiting_size += len(self._commands[-1])
            self.server.bodies.used |= self._size > LITTLE
            self._message, self._size = BytesIO(), 0
            self._hold()
            self._work()

    def _closed(self, stream: Stream, event: CloseConnection) -> None:
        """The client ends it, or sent what is no WebSocket frame: then wsproto's state is still open."""
        if self._closing is not None:
            stream.close()
            return
        theirs = self._parser.state is ConnectionState.REMOTE_CLOSING
        waiting = self.unsent
        self.leave("the client closed it" if theirs else f"it sent what is no WebSocket: {event.reason}")
        if waiting:
            stream.cut()
        else:
            stream.close(close_frame(event.code, "" if theirs else str(event.reason)))

    # Commands

    def _work(self) -> None:
        """Answer the commands, one after the other, as fast as the client reads the answers."""
        if not self._working and self._commands and not self.full and not self.ended:
            self._working = True
            asking, text = Asking(self), self._commands.popleft()
            self._waiting_size -= len(text)
            command = self.command(text, asking)
            drive(command, partial(self._answer, asking), partial(self._failed, asking))
            if asking.later and self._working:
                self._next()

    async def command(self, text: bytes, asking: Asking) -> bytes:
        """Run one command; what a client did wrong is an answer too."""
        return await commands.run(self.services, text, self._allow, whole=True, client=asking)

    def _allow(self, section: str) -> None:
        try:
            self.server.acl.check(section, self.request)
        except Error as refused:
            self.server.refusals.note(self.request, refused)
            raise

    def _answer(self, asking: Asking, answer: bytes) -> None:
        if asking.wait is not None:
            self.waiting.discard(asking.wait)
        if not self.ended:
            self.write(to_frame(TEXT, answer.rstrip(b"\r\n")))
            if self.overfull:  # it does not read: what it waits for goes to others
                self._unwait()
        if not asking.later:
            self._next()

    def _unwait(self) -> None:
        waiting, self.waiting = self.waiting, set()
        for wait in waiting:
            wait.leave()

    def _next(self) -> None:
        """The next command's turn."""
        self._working = False
        if not self.ended:
            self._hold()
            if self._commands:
                self._clock.callLater(0, self._work)

    def _failed(self, asking: Asking, error: BaseException) -> None:
        if asking.wait is not None:
            self.waiting.discard(asking.wait)
        self._working = False
        log.error("a command on a WebSocket failed: {error!r}", error=error)
        self.finish(BROKEN, "the command failed")

    def _hold(self) -> None:
        """Stop reading when too many commands wait, go on when half of them are answered."""
        assert self._stream is not None
        many, size = len(self._commands), self._waiting_size
        if not self._held and (many >= MOST_COMMANDS or size > self._limit):
            self._held = True
            self._stream.pause()
        elif self._held and many < MOST_COMMANDS // 2 and size <= self._limit:
            self._held = False
            self._stream.resume()
            self._read()

    def _drained(self) -> None:
        super()._drained()
        if self._pong is not None and not self.ended:
            pong, self._pong = self._pong, None
            self.write(to_frame(PONG, pong))
        self._work()

    # The end

    def beat(self) -> None:
        """Ping; a client that answers none for `stall` is gone.

        A slow one may still have to read what lies before the ping. So a heartbeat does not count when more than pings
        was written since the last one, or it took some of what was written before.
        """
        heard = self._alive or self._held or self.moving or self.written > self._pinged
        self._silent = 0 if heard else self._silent + 1
        self._alive = False
        if self._silent >= max(2, self._stalls):
            self.finish(GOING_AWAY, f"no answer to pings for {self._silent * self._period:g} s")
        else:
            self.write(to_frame(PING, b""))
            self._pinged = self.written

    def farewell(self, stream: Stream, why: str) -> None:
        """The server goes away."""
        self._farewell(GOING_AWAY, why)

    def refuse(self, why: str) -> None:
        """The access rules forbid it now."""
        self.finish(POLICY, why)

    def finish(self, code: int, why: str) -> None:
        """Start the closing handshake (section 7.1.2); what did not go out goes to others."""
        assert self._stream is not None
        if self.ended:
            return
        waiting = self.unsent
        self.leave(why)
        if waiting:
            self._stream.cut()
        else:
            self._farewell(code, why)

    def _farewell(self, code: int, why: str) -> None:
        assert self._stream is not None
        self._commands.clear()
        self._closing = self._clock.callLater(PATIENCE, self._give_up)
        self._stream.write(close_frame(code, why))
        if self._held:
            self._held = False
            self._stream.resume()
            self._read()

    def _give_up(self) -> None:
        """The client did not answer the Close frame, or did not even take it."""
        assert self._stream is not None
        if self._stream.unsent or self._stream.untaken:  # it may still read, and answer what it reads
            self._stream.cut()
        else:
            self._stream.close()

    def leave(self, why: str = "the client left") -> None:
        """Take no more; what it waits for goes to others."""
        super().leave(why)
        self._unwait()

    def lost(self) -> None:
        """The connection is gone."""
        super().lost()
        self._commands.clear()
        closing, self._closing = self._closing, None  # a timer that rang would hold this, and be held by it
        if closing is not None and closing.active():
            closing.cancel()


class WebSocketHandler(BrokerHandler):
    """GET /ws/NAMES."""

    streams = True
    gives: ClassVar = {"GET": ()}
    sections: ClassVar[dict[str, str]] = {"GET": WebSocket.section}

    async def get(self, raw: bytes) -> None:
        """Join, then answer the handshake: a refusal is still a plain HTTP answer."""
        key = check_handshake(self.request.version, self.request.fields.values)
        queues = queue_names(raw)
        consumer = WebSocket(self, queues, wish=wish(self, queues))
        headers = (
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", accept(key)),
        )
        await consumer.begin(self, lambda: self.upgrade(headers))
