"""The port: it opens only when Redis is there, and while it closes, it turns no client away.

Owns the listening socket. Does not know which protocol is spoken on it. A plain close would reset clients that are
connected but not yet accepted. Behind Nginx, that would be a POST answered with 502 at every restart. Read broker.py
next, which opens the port last and closes it first.
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
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq import tls
from restmq.reactor import Reactor

#: Seconds to wait for Redis. Then clients are accepted, and get 503.
PATIENCE = 2.0
#: Seconds in which a handshake that has begun may end. Those of a proxy on this machine take microseconds.
HANDSHAKE = 0.002
_log = Logger()


class Listener(Service):
    """Listens on a Twisted endpoint `description` for `factory`, and opens when `ready()` is true.

    `on_listening` is called with the port's address, as soon as clients are no longer refused. `certificates` are
    those of an endpoint that speaks TLS, else None. Raises ConfigError for a description or files that cannot be read.
    Raises CannotListenError or OSError in privilegedStartService.
    """

    def __init__(
        self,
        description: str,
        factory: IProtocolFactory,
        reactor: Reactor,
        ready: Callable[[], bool],
        on_listening: Callable[[IAddress], object] | None = None,
    ) -> None:
        self._on_listening = on_listening
        self._description, self._factory, self._reactor, self._ready = description, factory, reactor, ready
        self.certificates = tls.Certificates(description, reactor) if tls.is_tls(description) else None
        #: Any: besides IListeningPort, it needs the socket and the reading methods of Twisted's own classes of ports.
        self._port: Any = None

    def privilegedStartService(self) -> None:
        """Bind and listen. Clients that connect wait in the kernel until startService."""
        Service.privilegedStartService(self)
        outcome: list[IListeningPort | Failure] = []
        listening = self.certificates or tls.endpoint(self._description, self._reactor)
        listening.listen(self._factory).addBoth(outcome.append)
        if not outcome:
            raise OSError(f"{self._description} does not listen at once")
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        self._port = outcome[0]
        self._port.stopReading()
        if self._on_listening is not None:
            self._on_listening(self._port.getHost())

    def startService(self) -> None:
        """Accept clients when Redis is there, or when that takes too long."""
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
        """Keep new clients out, accept those that already connect, then close.

        On TCP, a handshake may end at any moment, even in the last one before the socket closes, and is reset then. So
        the kernel is first asked to drop packets that begin a handshake. Such a client sends its packet again after a
        second, and is refused. Nginx then asks another instance, and the request is late by that second. A client
        without a proxy gets its refusal late. Handshakes that take longer than HANDSHAKE may still be reset. Without
        the filter, as on other systems than Linux, one stop of a hundred under load resets a client.

        A simpler way does not work. With listen(0) in place of the filter, the kernel still lets the client's side of
        a handshake end, and resets it later. Only the packet that begins a handshake can be dropped in time.
        """
        Service.stopService(self)
        port = self._port
        if port is None:
            return succeed(None)
        # systemd's socket stays, and clients that wait there are for the next process.
        if "systemd:" not in self._description:
            patience = 0.0
            if port.socket.family == socket.AF_UNIX:
                _replace_socket(port.socket.getsockname())
            elif _drop_handshakes(port.socket):
                patience = HANDSHAKE
            _accept_waiting(port, patience)
            # Twisted closes in its next turn. A client that came until then would be reset. So the kernel refuses from
            # here on, and Nginx asks another instance (tcp(7); a unix socket is replaced already).
            port.socket.shutdown(socket.SHUT_RDWR)
        stopped: Deferred[None] = maybeDeferred(port.stopListening)
        return stopped


def _accept_waiting(port: Any, patience: float) -> None:  # Any: see Listener._port
    """Accept all clients that have connected, and those that do within `patience` seconds.

    The reactor stands still meanwhile. In turns of its own it would answer them as if nothing ended, without the
    "Connection: close" that sends Nginx to another instance.
    """
    waiting = select.poll()
    waiting.register(port.socket, select.POLLIN)
    until = time.monotonic() + patience
    turns = 1000  # if file descriptors run out, clients stay unaccepted
    while turns and waiting.poll(max(0.0, until - time.monotonic()) * 1000):
        turns -= 1
        port.doRead()


#: A program for the kernel's packet filter, which sees a packet from its TCP header on (bpf(4) of the BSDs explains the
#: instructions). It loads the flags, and keeps SYN and ACK. If only SYN is set, it drops the packet, else it passes it.
_NO_SYN = (
    (0x30, 0, 0, 13),  # ld [13]
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN, else skip one
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #all
)
_SO_ATTACH_FILTER = 26  # socket(7); Python's socket module does not name it


def _drop_handshakes(listening: socket.socket) -> bool:
    """Drop all SYNs to a TCP socket from now on. Returns False if that is not possible.

    Connections that are accepted later inherit the filter, but no SYN ever comes to them.
    """
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    try:
        if sys.platform != "linux":
            raise OSError(f"not on {sys.platform}")
        where = program.buffer_info()[0]
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), where))
    except OSError as error:
        _log.debug("there is no packet filter, so a client that connects last may be reset: {error}", error=error)
        return False
    return True


def _replace_socket(path: str | bytes) -> None:
    """Put an empty file in the place of a unix socket, so that clients are refused from now on (unix(7)).

    Twisted removes the file when it closes.
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
        _log.debug("{path} could not be replaced: {error}", path=where, error=error)
