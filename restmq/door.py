"""The port: it lets nobody in before Redis is there, and closing, it turns nobody away.

Owns the listening socket. Must not know what is spoken on it. A plain close would
reset who is connected but not yet accepted; behind Nginx that is a POST answered
502, at every restart. Read web.py next, which opens it last and closes it first.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

#: Seconds in which Redis is waited for; then clients are let in, and hear 503.
PATIENCE = 2.0
_log = Logger()


class Door(Service):
    """Listens on a Twisted endpoint `description` for `factory`; opens when `ready()` says so.

    Raises CannotListenError or OSError in privilegedStartService.
    """

    def __init__(self, description: str, factory: IProtocolFactory, reactor: Any, ready: Callable[[], bool]) -> None:
        self._description, self._factory, self._reactor, self._ready = description, factory, reactor, ready
        self._port: Any = None

    def privilegedStartService(self) -> None:
        """Bind and listen: whoever connects waits in the kernel until startService."""
        Service.privilegedStartService(self)
        outcome: list[Any] = []
        serverFromString(self._reactor, self._description).listen(self._factory).addBoth(outcome.append)
        if not outcome:
            raise OSError(f"{self._description} does not listen at once")
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        self._port = outcome[0]
        self._port.stopReading()

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
        """Let nobody knock any more, take in who already did, then close."""
        Service.stopService(self)
        port = self._port
        if port is None:
            return succeed(None)
        if "systemd:" not in self._description:  # its socket stays, and what waits there is for the next one
            if port.socket.family == socket.AF_UNIX:
                _cover(port.socket.getsockname())
            waiting = select.poll()
            waiting.register(port.socket, select.POLLIN)
            turns = 1000  # when files run out, accepting does not get on
            while turns and waiting.poll(0):
                turns -= 1
                port.doRead()
            # Twisted closes in its next turn. Whoever came until then would be reset, so no time is left: from here
            # on the kernel refuses, and Nginx asks another (tcp(7); unix sockets are covered already).
            port.socket.shutdown(socket.SHUT_RDWR)
        stopped: Deferred[None] = maybeDeferred(port.stopListening)
        return stopped


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
