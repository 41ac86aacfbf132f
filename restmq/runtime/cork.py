"""The cork: a transport is written at once, and once only for all that one read caused.

Owns the few private fields of Twisted's transports that this needs. Uses each of them in one place. Knows nothing of
HTTP or Redis.
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
#: A program for the kernel's packet filter (bpf(4) of the BSDs explains the words), ret #1: keep one byte of a packet.
#: Linux always keeps the TCP header, so it reads acknowledgements and ignores what the peer sends.
_NO_DATA = array.array("B", struct.pack("HBBI", 0x06, 0, 0, 1))
_MOST_READ = 64  # reads: a unix socket has no filter, and its peer may send for ever
_SO_ATTACH_FILTER = 26  # socket(7); Python's socket module does not name it


class Cork:
    """While it is open, writes gather. When it closes, each transport is written once. Open it around one read."""

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
        """Write now, or, while the cork is open, with everything else for the same transport."""
        if not self._depth:
            _write(transport, data)
            return
        parts = self._gathered.get(transport)
        if parts is None:
            self._gathered[transport] = [data]
        else:
            parts.append(data)

    def flush(self, transport: Any) -> None:
        """Write now what gathered for this transport, because it is going to be closed or counted."""
        parts = self._gathered.pop(transport, None)
        if parts:
            _write(transport, b"".join(parts))

    def drop(self, transport: Any) -> None:
        """Throw away what gathered for this transport, because it is going to be aborted."""
        self._gathered.pop(transport, None)

    def waiting(self, transport: Any) -> int:
        """How many bytes gathered for this transport."""
        return sum(map(len, self._gathered.get(transport, ())))


def _write(transport: Any, data: bytes) -> None:
    """Try the kernel at once when nothing waits before this: that saves a turn and a buffer. Never with TLS."""
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
    """The transport that has the socket. That of twisted.protocols.tls stands on top of it."""
    while hasattr(transport, "_appSendBuffer"):
        transport = transport.transport
    return transport


def unsent(transport: Any) -> int:
    """Bytes given to the transport that the kernel does not have yet, and, over TLS, those not encrypted yet.

    A TLS record that the kernel has only in part counts as unsent, because nobody can read it.
    """
    waiting = cork.waiting(transport)
    lower = bottom(transport)
    under = 0
    if isinstance(lower, FileDescriptor):
        under = len(lower.dataBuffer) - lower.offset + lower._tempDataLen
    if lower is not transport:  # twisted.protocols.tls, which gathers the small writes of a turn
        parts = [*transport._appSendBuffer, *getattr(getattr(transport, "_aggregator", None), "_buffer", ())]
        waiting += sum(map(len, parts)) + (_RECORD if under else 0)
    return waiting + under


def untaken(transport: Any) -> int:
    """Bytes that the peer's kernel has not acknowledged (SIOCOUTQ, tcp(7)); 0 where the system does not say."""
    lower = bottom(transport)
    if not isinstance(lower, FileDescriptor) or not lower.connected:
        return 0
    handle: Any = lower
    try:
        return int(struct.unpack("i", fcntl.ioctl(handle.getHandle(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


def can_half_close(transport: Any) -> bool:
    """Whether loseWriteConnection() sends a FIN and reading goes on: true for plain TCP and unix sockets."""
    return transport.__class__ in _PLAIN


def finish(transport: Any) -> None:
    """Throw away what the kernel has not taken, and send a FIN behind what it has (shutdown(2)).

    The peer can read everything that the kernel has. An abort would throw that away too.
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
    # loseWriteConnection() would wait until the kernel takes more, which may never happen.
    with suppress(OSError):  # the peer has left already
        handle.getHandle().shutdown(socket.SHUT_WR)
    if lower.disconnecting:
        lower.startWriting()  # loseConnection() was called before, and waits for a turn of writing


def let_go(transport: Any) -> None:
    """Close the socket after finish(), so that nothing the peer sends later resets the connection.

    A closed socket answers data with a reset, and then the kernel throws away what it still had to send. A WebSocket
    client sends a pong as soon as it has read a ping, though it has not read the elements behind the ping. So the
    kernel is told to ignore what comes. Systems other than Linux cannot do that, and send the reset.
    """
    lower: Any = bottom(transport)
    if isinstance(lower, FileDescriptor) and lower.connected:
        handle: socket.socket = lower.getHandle()  # type: ignore[attr-defined]  # a socket's transport has it
        with suppress(OSError):  # refused, or the peer has left already
            if handle.family != socket.AF_UNIX:
                where = _NO_DATA.buffer_info()[0]
                handle.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, where))
            for _ in range(_MOST_READ):  # data that came and was not read also resets the connection
                if not handle.recv(1 << 16):
                    break
    lower.loseConnection()


#: The reactor has one thread, so one cork serves everything.
cork = Cork()
send = cork.write
