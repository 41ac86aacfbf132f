"""A connection that is taken over for one long answer, whose end is not known yet.

Owns the framing, and the callbacks about the socket. Knows nothing of the content: live/consumer.py writes it. Read
http/proxies.py next.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from restmq.http.request import Request
from restmq.runtime.cork import bottom, send, unsent, untaken

MAX_AHEAD = 65536  # most bytes read after a request that is not answered yet, or by a stream that ignores them
_NOTSENT_LOWAT = 25  # Linux's TCP_NOTSENT_LOWAT (tcp(7)), which PyPy's socket module does not name
MAX_UNSENT = 131072  # most bytes of a stream that the kernel may hold without having sent them


def nothing(*_: object) -> None:
    """Does nothing: stands for a callback that the owner of a stream did not set."""


@implementer(IPushProducer)
class Stream:
    """A connection that is taken over for one long answer: chunked, until its close, or raw after an upgrade.

    - `written` counts the bytes given to the transport, with the framing. The kernel has not taken `unsent` of them.
    - `full` is true while Twisted's buffer holds more than 64 KiB. on_full() is called before, and on_drained() after.
    - on_lost() is called once, however the stream ends.
    - on_data() gets the client's bytes after an upgrade. Without an upgrade they are thrown away.
    - A client that takes nothing for `stall` seconds after cut() is disconnected.
    """

    def __init__(self, request: Request, head: bytes, chunked: bool, raw: bool, stall: float = 0) -> None:
        self.connection, self.transport = request.connection, request.connection.transport
        self._chunked, self._raw, self._stall = chunked, raw, stall
        self.written = 0
        self.full = self.closed = False
        self.on_data: Callable[[bytes], None] = nothing
        self.on_full: Callable[[], None] = nothing
        self.on_drained: Callable[[], None] = nothing
        self.on_lost: Callable[[], None] = nothing
        self._ignored = 0
        request.handler = None  # the handler has answered
        self.connection.give_to_stream(self)
        send(self.transport, head)
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)
        self._watch()

    def _watch(self) -> None:
        """Bound how many bytes of a stream the kernel holds without having sent them (tcp(7)).

        The time is not bounded here. TCP_USER_TIMEOUT would reset the connection of a peer that is there and does not
        read for a while, and throw away bytes that count as delivered. live/consumer.py itself looks for a client that
        takes nothing.
        """
        if self.connection.peer_ip:
            handle = bottom(self.transport).getHandle()
            handle.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, MAX_UNSENT)

    @property
    def unsent(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return unsent(self.transport)

    @property
    def untaken(self) -> int:
        """Bytes that the kernel has, and the peer's kernel has not acknowledged yet."""
        return untaken(self.transport)

    def write(self, data: bytes) -> None:
        """Write bytes. All bytes that one read from Redis causes leave together."""
        if self.closed or not data:
            return
        if self._chunked:
            data = _chunk(data)
        self.written += len(data)
        send(self.transport, data)

    def on_received(self, data: bytes) -> None:
        """Take bytes of the client.

        The owner of an upgraded stream gets them. Other streams, and ended ones, ignore them.
        """
        if self.closed:
            return
        if self._raw:
            self.on_data(data)
            return
        self._ignored += len(data)
        if self._ignored > MAX_AHEAD:
            self.transport.pauseProducing()

    def pause(self) -> None:
        """Stop reading for now."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Begin to read, or go on. Bytes that came before the stream was there are given to on_data first."""
        early = self.connection.read_ahead()
        self.transport.resumeProducing()
        if early:
            self.on_received(early)

    def close(self, last: bytes = b"", trailer: bytes = b"") -> None:
        """End the stream after the bytes that wait.

        A chunked one may end with header lines (RFC 9112 section 7.1.2).
        """
        if self.closed:
            return
        self.write(last)
        self.closed = True
        if self._chunked:
            send(self.transport, b"0\r\n" + trailer + b"\r\n")
        self.connection.lose()

    def cut(self) -> None:
        """End the stream now.

        Bytes that wait here are thrown away. The client can still read those that the kernel has taken.
        """
        self.closed = True
        self.connection.cut(patience=self._stall)

    def on_connection_lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        on_lost = self.on_lost
        self.on_data = self.on_full = self.on_drained = self.on_lost = (
            nothing  # or the stream and its owner would refer to each other
        )
        on_lost()

    # Twisted calls these when its buffer is full, and when it is empty again.

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
    """The data as one chunk. A thousand streams that write the same object share its frame."""
    global _chunked
    if _chunked[0] is not data:
        _chunked = (data, b"%x\r\n%b\r\n" % (len(data), data))
    return _chunked[1]
