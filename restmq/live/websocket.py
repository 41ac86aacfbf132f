"""Live consumers on /ws/NAMES: the WebSocket protocol (RFC 6455) over a Stream.

Owns reading frames, the JSON commands that a client sends, and the closing handshake. wsproto parses incoming frames.
live/frames.py makes outgoing ones, once for all consumers of a queue. Knows nothing of what a command does:
api/commands.py does. live/consumer.py has what all consumers share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import ClassVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from restmq.api import commands
from restmq.api.client import Client
from restmq.api.services import BrokerHandler
from restmq.delivery.batch import Batch
from restmq.delivery.waiters import Wait
from restmq.http.request import LITTLE
from restmq.http.stream import Stream
from restmq.live.consumer import Live
from restmq.live.frames import (
    BROKEN,
    GOING_AWAY,
    PING,
    POLICY,
    PONG,
    TEXT,
    TOO_BIG,
    UNSUPPORTED,
    accept,
    check_handshake,
    close_frame,
    to_frame,
)
from restmq.live.options import StreamOptions, queue_names, stream_options
from restmq.model.element import Lease, parse_lease
from restmq.model.errors import BadKey, BadRequest, Error
from restmq.runtime.future import drive

MOST_WAITING = 1000  # most takes of one connection that wait
MOST_REMEMBERED = 1000  # most leases of one connection that are remembered, with those that are over
MOST_COMMANDS = 128  # most unanswered commands, or bytes of one command; then reading stops, and goes on below half
MOST_FRAMES = 500  # most frames that are read in one turn of the reactor
PATIENCE = 2.0  # seconds for the client to answer a Close frame

log = Logger()


class Asking(Client):
    """The client of one command over a WebSocket.

    `later` is true once its answer may come after those of other commands.
    """

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
        """Let a take wait. Raises BadRequest if too many wait."""
        if len(self._socket.waiting) >= MOST_WAITING:
            wait.leave()
            raise BadRequest(f"{MOST_WAITING} takes wait on this connection; no more are allowed")
        self.later, self.wait = True, wait
        self._socket.waiting.add(wait)

    def owns(self, queue: str, lease: str) -> bool:
        """Whether the connection has this lease, or had it a short while ago.

        In the second case the answer is that it is lost.
        """
        try:
            name, parsed = queue.encode("utf-8"), parse_lease(lease.encode("utf-8"))
        except (UnicodeEncodeError, BadKey):
            return False
        leased = (name, parsed) in self._socket.leased
        return leased or self._socket.services.delivery.leases(self._socket, name, parsed)


class WebSocket(Live):
    """A consumer of /ws/NAMES. Elements are text messages, and commands are answered in order."""

    section = "websocket:consumer"

    def __init__(
        self,
        handler: BrokerHandler,
        queues: Sequence[bytes],
        clock: IReactorTime | None = None,
        options: StreamOptions = StreamOptions(),  # noqa: B008
    ) -> None:
        super().__init__(handler, queues, clock, options)
        self._limit = self.services.config.max_form  # bytes of one message
        self._parser = Connection(ConnectionType.SERVER)
        self._message = BytesIO()
        self._size = 0
        self._commands: deque[bytes] = deque()
        self._waiting_size = 0  # bytes of these commands
        self._working = False
        self.waiting: set[Wait] = set()  # takes that are answered later
        self.leased: dict[tuple[bytes, Lease], None] = {}  # the newest leases of this connection
        self._held = False  # reading stopped, because too many commands are unanswered
        self._resting = False  # reading goes on in the reactor's next turn
        self._pong: bytes | None = None  # the answer to a ping that waits until the client reads
        self._alive = True  # bytes came since the last heartbeat
        self._silent = 0  # heartbeats since then at which the client had nothing new to read
        self._pinged = 0  # `written` after the last ping
        self._closing: IDelayedCall | None = None  # a Close frame was sent; ends waiting for the client's

    # Elements

    def frame_object(self, document: str, event: str = "") -> bytes:
        """One JSON object as a text message."""
        return to_frame(TEXT, document.encode("ascii"))

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write frames, and remember the leases of this connection."""
        super().deliver(data, queue, batch)
        if self.lease:
            self.leased.update(dict.fromkeys((queue, element.lease) for element in batch.elements))
            while len(self.leased) > MOST_REMEMBERED:
                del self.leased[next(iter(self.leased))]

    # What comes in

    def on_data(self, data: bytes) -> None:
        """Parse bytes from the client."""
        self._alive = True
        self._parser.receive_data(data)
        if not (self._held or self._resting):
            self._read()

    def _read(self) -> None:
        """Handle the parsed frames. A frame can have six bytes, so after many of them other clients have their turn."""
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
            if self.full:  # only the newest needs an answer (section 5.5.3), so pings cannot pile up
                self._pong = bytes(event.payload)
            else:
                self.write(to_frame(PONG, bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            self._closed(stream, event)

    def _part(self, event: TextMessage) -> None:
        data = event.data.encode("utf-8")  # as str, one character beyond ASCII would widen the whole message
        self._size += len(data)
        if self._size > self._limit:
            self._message = BytesIO()
            self.finish(TOO_BIG, f"a message can have at most {self._limit} bytes")
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
        """The client closes, or sent bytes that are not a WebSocket frame: then wsproto's state is still open."""
        if self._closing is not None:
            stream.close()
            return
        theirs = self._parser.state is ConnectionState.REMOTE_CLOSING
        waiting = self.unsent
        self.leave("the client closed it" if theirs else f"it sent bytes that are not WebSocket: {event.reason}")
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
        """Run one command. A client's error becomes an answer too."""
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
            if self.overfull:  # the client does not read, so elements that it waits for go to others
                self._unwait()
        if not asking.later:
            self._next()

    def _unwait(self) -> None:
        waiting, self.waiting = self.waiting, set()
        for wait in waiting:
            wait.leave()

    def _next(self) -> None:
        """Begin the next command."""
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
        """Stop reading if too many commands wait. Go on when half of them are answered."""
        assert self._stream is not None
        many, size = len(self._commands), self._waiting_size
        if not self._held and (many >= MOST_COMMANDS or size > self._limit):
            self._held = True
            self._stream.pause()
        elif self._held and many < MOST_COMMANDS // 2 and size <= self._limit:
            self._held = False
            self._stream.resume()
            self._read()

    def _on_drained(self) -> None:
        super()._on_drained()
        if self._pong is not None and not self.ended:
            pong, self._pong = self._pong, None
            self.write(to_frame(PONG, pong))
        self._work()

    # The end

    def beat(self) -> None:
        """Ping. A client that answers no ping for `stall` is gone.

        A slow client may first have to read the bytes before the ping. So a heartbeat does not count if more than
        pings was written since the last one, or if the client took bytes that were written before.
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
        """Close with GOING_AWAY, because the server ends."""
        self._farewell(GOING_AWAY, why)

    def refuse(self, why: str) -> None:
        """Close with POLICY, because the access rules no longer allow the connection."""
        self.finish(POLICY, why)

    def finish(self, code: int, why: str) -> None:
        """Start the closing handshake (section 7.1.2). Elements that were not sent go to other consumers."""
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
        """Disconnect a client that did not answer the Close frame, or did not even take it."""
        assert self._stream is not None
        if self._stream.unsent or self._stream.untaken:  # the client may still read, and answer what it reads
            self._stream.cut()
        else:
            self._stream.close()

    def leave(self, why: str = "the client left") -> None:
        """Take no more elements. Those that the client waits for go to other consumers."""
        super().leave(why)
        self._unwait()

    def on_lost(self) -> None:
        """The connection is gone."""
        super().on_lost()
        self._commands.clear()
        closing, self._closing = self._closing, None  # an expired timer and this object would refer to each other
        if closing is not None and closing.active():
            closing.cancel()


class WebSocketHandler(BrokerHandler):
    """GET /ws/NAMES."""

    streams = True
    hand_out_types: ClassVar = {"GET": ()}
    sections: ClassVar[dict[str, str]] = {"GET": WebSocket.section}

    async def get(self, raw: bytes) -> None:
        """Join, then answer the handshake. So a refusal is still a plain HTTP answer."""
        key = check_handshake(self.request.version, self.request.fields.values)
        queues = queue_names(raw)
        consumer = WebSocket(self, queues, options=stream_options(self, queues))
        headers = (
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", accept(key)),
        )
        await consumer.begin(self, lambda: self.upgrade(headers))
