"""A connection taken over for one long answer, whose end nobody knows yet.

Owns its framing and what is told of its socket; knows nothing of what is written.
live/consumer.py is who writes. Read http/proxies.py next.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from restmq.http.request import Request
from restmq.runtime.cork import bottom, send, unsent, untaken

MAX_AHEAD = 65536  # bytes read ahead of a request that is not answered yet, or past a stream that listens to none
_NOTSENT_LOWAT = 25  # Linux's TCP_NOTSENT_LOWAT (tcp(7)), which PyPy's socket module does not name
MAX_UNSENT = 131072  # bytes that the kernel may hold of a stream without having sent them


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
    A client that takes nothing for `stall` seconds after cut() is let go.
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
        request.handler = None  # it has answered
        self.connection.taken_over(self)
        send(self.transport, head)
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)
        self._watch()

    def _watch(self) -> None:
        """Bound how many bytes the kernel holds of a stream without having sent them (tcp(7)).

        Not how long: TCP_USER_TIMEOUT would reset the connection of a peer that is there and reads nothing for a while,
        and throw away what counts as delivered. Live looks itself for one that takes nothing.
        """
        if self.connection.peer_ip:
            handle = bottom(self.transport).getHandle()
            handle.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, MAX_UNSENT)

    @property
    def unsent(self) -> int:
        """Bytes written that the kernel has not yet taken."""
        return unsent(self.transport)

    @property
    def untaken(self) -> int:
        """Bytes that the kernel has, and the peer's kernel has not acknowledged yet."""
        return untaken(self.transport)

    def write(self, data: bytes) -> None:
        """Write bytes; all of a turn's reading of Redis leaves together."""
        if self.closed or not data:
            return
        if self._chunked:
            data = _chunk(data)
        self.written += len(data)
        send(self.transport, data)

    def received(self, data: bytes) -> None:
        """Bytes of the client. An upgraded stream's owner gets them; others ignore them, and so does one that ended."""
        if self.closed:
            return
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
        early = self.connection.read_ahead()
        self.transport.resumeProducing()
        if early:
            self.received(early)

    def close(self, last: bytes = b"", trailer: bytes = b"") -> None:
        """End it after what waits; chunked, with header lines at its end (RFC 9112 section 7.1.2)."""
        if self.closed:
            return
        self.write(last)
        self.closed = True
        if self._chunked:
            send(self.transport, b"0\r\n" + trailer + b"\r\n")
        self.connection.lose()

    def cut(self) -> None:
        """End it now. What waits here is thrown away; what the kernel has taken can still be read."""
        self.closed = True
        self.connection.cut(patience=self._stall)

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        on_lost = self.on_lost
        self.on_data = self.on_full = self.on_drained = self.on_lost = nothing  # its owner holds it, and it its owner
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
