"""The port: it lets nobody in before Redis is there, and closing, it turns nobody away.

Owns the listening socket. Must not know what is spoken on it. A plain close would
reset who is connected but not yet accepted; behind Nginx that is a POST answered
502, at every restart. Read broker.py next, which opens it last and closes it first.
"""

from __future__ import annotations

import array
import os
import select
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq import tls

#: Seconds in which Redis is waited for; then clients are let in, and hear 503.
PATIENCE = 2.0
#: Seconds a handshake that has begun gets to end: those of a proxy on this machine take microseconds.
HANDSHAKE = 0.002
_log = Logger()


class Listener(Service):
    """Listens on a Twisted endpoint `description` for `factory`; opens when `ready()` says so.

    `listening`, when given, is called with the port's address, as soon as whoever connects is not refused.
    `certificates` are those of an endpoint that speaks TLS, else None. Raises ConfigError for a description or
    files that cannot be read, CannotListenError or OSError in privilegedStartService.
    """

    def __init__(
        self,
        description: str,
        factory: IProtocolFactory,
        reactor: Any,
        ready: Callable[[], bool],
        listening: Callable[[IAddress], object] | None = None,
    ) -> None:
        self._listening = listening
        self._description, self._factory, self._reactor, self._ready = description, factory, reactor, ready
        self.certificates = tls.Certificates(description, reactor) if tls.is_tls(description) else None
        self._port: Any = None

    def privilegedStartService(self) -> None:
        """Bind and listen: whoever connects waits in the kernel until startService."""
        Service.privilegedStartService(self)
        outcome: list[Any] = []
        listening = self.certificates or tls.endpoint(self._description, self._reactor)
        listening.listen(self._factory).addBoth(outcome.append)
        if not outcome:
            raise OSError(f"{self._description} does not listen at once")
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        self._port = outcome[0]
        self._port.stopReading()
        if self._listening is not None:
            self._listening(self._port.getHost())

    def startService(self) -> None:
        """Let them in when Redis is there, or when that takes too long."""
        Service.startService(self)
        if self._port is None:
            self.privilegedStartService()
        self._open(self._reactor.seconds() + PATIENCE)

    def _open(self, until: float) -> None:
        if not self.running:
            return
        if self._ready() or self._reactor.seconds() >= until:
            self._port.startReading()
        else:
            self._reactor.callLater(0.02, self._open, until)

    def stopService(self) -> Deferred[None]:
        """Let nobody knock any more, take in who already did, then close.

        On TCP a handshake may end at any moment, in the last one before the socket closes too, and is reset then. So
        first the kernel is told to drop who begins one. It begins again after a second and is refused: Nginx asks
        another instance then, and the request is late by that second; a client without a proxy hears its refusal
        late. Handshakes that take longer than HANDSHAKE may still be reset. Where the filter is refused, and on other
        systems than Linux, one stop of a hundred under load resets somebody.

        What is smaller does not do: with listen(0) in place of the filter the kernel lets the client's side of a
        handshake end all the same, and resets it later; only the packet that begins one can be dropped in time.
        """
        Service.stopService(self)
        port = self._port
        if port is None:
            return succeed(None)
        if "systemd:" not in self._description:  # its socket stays, and what waits there is for the next one
            patience = 0.0
            if port.socket.family == socket.AF_UNIX:
                _cover(port.socket.getsockname())
            elif _hush(port.socket):
                patience = HANDSHAKE
            _take_in(port, patience)
            # Twisted closes in its next turn. Whoever came until then would be reset, so no time is left: from here
            # on the kernel refuses, and Nginx asks another (tcp(7); unix sockets are covered already).
            port.socket.shutdown(socket.SHUT_RDWR)
        stopped: Deferred[None] = maybeDeferred(port.stopListening)
        return stopped


def _take_in(port: Any, patience: float) -> None:
    """Accept all who have connected, and who does for so many seconds.

    The reactor stands still meanwhile: in a turn of its own it would answer them as if nothing ended, without the
    "Connection: close" that sends Nginx elsewhere.
    """
    waiting = select.poll()
    waiting.register(port.socket, select.POLLIN)
    until = time.monotonic() + patience
    turns = 1000  # when files run out, accepting does not get on
    while turns and waiting.poll(max(0.0, until - time.monotonic()) * 1000):
        turns -= 1
        port.doRead()


#: A program for the kernel's packet filter, which sees a packet from its TCP header on (bpf(4) of the BSDs has the
#: words): the flags, of them SYN and ACK, and if that is SYN alone, none of the packet, else all of it.
_NO_SYN = (
    (0x30, 0, 0, 13),  # ld [13]
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN, else skip one
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #all
)
_SO_ATTACH_FILTER = 26  # socket(7); Python's socket module does not name it


def _hush(listening: socket.socket) -> bool:
    """Drop all SYNs to a TCP socket from now on; False where that cannot be done.

    The connections accepted later inherit the filter, but no SYN ever comes to them.
    """
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    try:
        if sys.platform != "linux":
            raise OSError(f"not on {sys.platform}")
        where = program.buffer_info()[0]
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), where))
    except OSError as error:
        _log.debug("who connects in the last moment may be reset: no packet filter: {error}", error=error)
        return False
    return True


def _cover(path: str | bytes) -> None:
    """Put an empty file in the place of a unix socket: who connects from now on is refused (unix(7)).

    Twisted removes whatever is there when it closes.
    """
    where = os.fsdecode(path)
    if not where or where[0] == "\0":
        return
    try:
        if not stat.S_ISSOCK(os.stat(where).st_mode):
            return
        file, fresh = tempfile.mkstemp(dir=os.path.dirname(where))
        os.close(file)
        os.replace(fresh, where)
    except OSError as error:
        _log.debug("{path} is not covered: {error}", path=where, error=error)
