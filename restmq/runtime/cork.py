"""Writing at once, and writing once: what Twisted's transports buffer, and when.

Owns the few private fields of the transports that this needs, each used in one
place here; knows nothing of HTTP or Redis. Read runtime/ticker.py next.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor

_PLAIN = (tcp.Server, tcp.Client, unix.Server, unix.Client)
_RECORD = 16384 + 256  # bytes of a TLS record at the most (RFC 8446 section 5.2)
#: A program for the kernel's packet filter (bpf(4) of the BSDs has the words), ret #1: one byte of a packet may stay.
#: Linux always keeps TCP's header: so it reads acknowledgements, and ignores what the peer sends.
_NO_DATA = array.array("B", struct.pack("HBBI", 0x06, 0, 0, 1))
_MOST_READ = 64  # pieces: a unix socket has no filter, and its peer may send for ever
_SO_ATTACH_FILTER = 26  # socket(7); Python's socket module does not name it


class Cork:
    """While open, what goes to a transport gathers; closing writes each once. Open it around one read."""

    def __init__(self) -> None:
        self._depth = 0
        self._gathered: dict[Any, list[bytes]] = {}

    def __enter__(self) -> Cork:
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth and self._gathered:
            gathered, self._gathered = self._gathered, {}
            for transport, parts in gathered.items():
                _write(transport, parts[0] if len(parts) == 1 else b"".join(parts))

    def write(self, transport: Any, data: bytes) -> None:
        """Write now, or with what else this turn has for the same transport."""
        if not self._depth:
            _write(transport, data)
            return
        parts = self._gathered.get(transport)
        if parts is None:
            self._gathered[transport] = [data]
        else:
            parts.append(data)

    def flush(self, transport: Any) -> None:
        """What gathered for this transport goes now: before it is closed, or counted."""
        parts = self._gathered.pop(transport, None)
        if parts:
            _write(transport, b"".join(parts))

    def drop(self, transport: Any) -> None:
        """What gathered for this transport is thrown away: before it is aborted."""
        self._gathered.pop(transport, None)

    def waiting(self, transport: Any) -> int:
        """Bytes gathered for this transport."""
        return sum(map(len, self._gathered.get(transport, ())))


def _write(transport: Any, data: bytes) -> None:
    """Try the kernel at once when nothing waits before it: a turn and a buffer less. Never for TLS."""
    if (
        transport.__class__ in _PLAIN
        and transport.connected
        and not transport.dataBuffer
        and not transport._tempDataBuffer
        and not transport.disconnecting
    ):
        sent = transport.writeSomeData(data)
        if sent.__class__ is int and sent > 0:
            if sent == len(data):
                return
            data = data[sent:]
    transport.write(data)


def bottom(transport: Any) -> Any:
    """The transport that has the socket: twisted.protocols.tls stands on one."""
    while hasattr(transport, "_appSendBuffer"):
        transport = transport.transport
    return transport


def unsent(transport: Any) -> int:
    """Bytes given to the transport that are not yet with the kernel; over TLS, those not yet encrypted too.

    A TLS record of which the kernel has only a part counts as unsent as a whole: nobody can read it.
    """
    waiting = cork.waiting(transport)
    lower = bottom(transport)
    under = 0
    if isinstance(lower, FileDescriptor):
        under = len(lower.dataBuffer) - lower.offset + lower._tempDataLen
    if lower is not transport:  # twisted.protocols.tls, which gathers small writes of a turn
        parts = [*transport._appSendBuffer, *getattr(getattr(transport, "_aggregator", None), "_buffer", ())]
        waiting += sum(map(len, parts)) + (_RECORD if under else 0)
    return waiting + under


def untaken(transport: Any) -> int:
    """Bytes of which the peer's kernel has not acknowledged that it has them (SIOCOUTQ, tcp(7)); 0 where none tells."""
    lower = bottom(transport)
    if not isinstance(lower, FileDescriptor) or not lower.connected:
        return 0
    handle: Any = lower
    try:
        return int(struct.unpack("i", fcntl.ioctl(handle.getHandle(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


def can_half_close(transport: Any) -> bool:
    """Whether loseWriteConnection() sends a FIN and reading goes on: plain TCP and unix sockets."""
    return transport.__class__ in _PLAIN


def finish(transport: Any) -> None:
    """Throw away what the kernel has not taken, and send a FIN behind what it has (shutdown(2)).

    The peer reads to the end whatever the kernel had; an abort would throw that away, too.
    """
    cork.drop(transport)
    lower: Any = bottom(transport)
    if lower is not transport:
        transport._appSendBuffer.clear()
        gathered = getattr(transport, "_aggregator", None)
        if gathered is not None and hasattr(gathered, "_buffer"):
            gathered._buffer.clear()
    if not isinstance(lower, FileDescriptor) or not lower.connected:
        return
    if lower.producer is not None:
        lower.unregisterProducer()
    lower.dataBuffer, lower.offset = b"", 0
    lower._tempDataBuffer, lower._tempDataLen = [], 0
    lower.stopWriting()
    handle: Any = lower
    # loseWriteConnection() would wait until the kernel takes more, which it may never do.
    with suppress(OSError):  # the peer has gone already
        handle.getHandle().shutdown(socket.SHUT_WR)
    if lower.disconnecting:
        lower.startWriting()  # loseConnection() was called before, and waits for a turn of writing


def let_go(transport: Any) -> None:
    """Close the socket behind finish(), so that nothing the peer sends later resets the connection.

    A closed socket answers data with a reset, and the kernel throws away what it still had to send. A WebSocket client
    sends a pong as soon as it has read a ping, with elements behind it still to read. So the kernel is told to ignore
    what comes. Where it cannot do that, on other systems than Linux, the reset comes as ever.
    """
    lower: Any = bottom(transport)
    if isinstance(lower, FileDescriptor) and lower.connected:
        handle: socket.socket = lower.getHandle()  # type: ignore[attr-defined]  # a socket's transport has it
        with suppress(OSError):  # refused, or the peer has gone already
            if handle.family != socket.AF_UNIX:
                where = _NO_DATA.buffer_info()[0]
                handle.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, where))
            for _ in range(_MOST_READ):  # what came and is not read resets the connection, too
                if not handle.recv(1 << 16):
                    break
    lower.loseConnection()


#: The reactor has one thread, so one cork serves all.
cork = Cork()
send = cork.write
