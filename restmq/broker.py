"""The broker: puts the parts together, starts them, and ends them in order.

Owns that order. Each part stands in a module of its own. Read web.py next.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypedDict, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from restmq.access.guesses import Guesses
from restmq.api.frontend import Frontend
from restmq.api.rates import Rates
from restmq.api.services import Services
from restmq.config import Config, access
from restmq.delivery.channels import Channels
from restmq.delivery.presence import Presence
from restmq.delivery.service import Delivery
from restmq.delivery.waiters import Waiters
from restmq.exposure import Exposure
from restmq.http.accesslog import AccessLog, AccessLogFile, to_log
from restmq.http.application import Application
from restmq.http.counts import Counts
from restmq.http.server import Server
from restmq.listener import Listener
from restmq.log import FILE_SIZE, FILES
from restmq.reactor import Reactor
from restmq.runtime.future import deferred
from restmq.runtime.ticker import Wheel
from restmq.store.connection import Redis
from restmq.store.core import Core
from restmq.store.readiness import Readiness
from restmq.web import ROUTES

log = Logger()


def frontend_path() -> Path:
    """The folder of the pages: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "frontend"
    return inside if inside.is_dir() else package.parent / "frontend"


def _fail() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


class _Link(TypedDict):
    """The arguments that both links to Redis have in common; `deadline` is in seconds."""

    db: int
    username: str | None
    password: str | None
    deadline: float


class Broker(Service):
    """Everything that runs. It begins with the wheel, and ends with the links to Redis."""

    def __init__(self, config: Config, reactor: Reactor) -> None:
        self.config = config
        self.wheel = Wheel(reactor)
        link: _Link = {
            "db": config.redis_db,
            "username": config.redis_username or None,
            "password": config.redis_password or None,
            "deadline": config.deadline,
        }
        self.redis = Redis(config.redis, reactor, **link)
        self.messages = Redis(config.redis, reactor, on_message=lambda channel, data: None, **link)
        self.core = Core(self.redis, reactor, config.queues)
        self.presence = Presence(self.core, reactor, lasts=config.silence)
        self.channels = Channels(self.core, self.messages, self.presence)
        self.delivery = Delivery(self.core, self.messages, self.presence, self.channels, reactor)
        self.waiting = Waiters(self.core, self.channels, reactor)
        self.delivery.on_wakeup, self.delivery.on_rejoining = self.waiting.on_wakeup, self.waiting.on_rejoining
        self.acl = access(config, Guesses(reactor))
        where = config.access_log
        self.access_file = AccessLogFile(where, FILE_SIZE, FILES) if isinstance(where, Path) else None
        self.access_log = AccessLog(self.wheel, self.access_file or to_log) if where else None
        counts = Counts(ROUTES, self.access_log)
        self.server = Server(config, self.acl, self.wheel, self.core.answers, counts)
        readiness = Readiness(self.core)
        frontend = Frontend(frontend_path(), config.static_path, config.template_path)
        services = Services(config, self.core, self.delivery, self.waiting, frontend, Rates(), readiness, counts)
        self.app = Application(ROUTES, self.server, services)
        watches = (self.redis.watch, self.messages.watch, self.delivery.watch, readiness.tick)
        for each in (*watches, self.acl.reload_if_changed):
            self.wheel.each(each)
        self.core.greeting.on_unsuitable = self._end_with_error
        self._reactor = reactor
        self._ending = False

    def _end_with_error(self, why: str) -> None:
        log.critical("{why}", why=why)
        if not self._ending:
            self._ending = True
            atexit.register(_fail)  # twistd has no way to end with an error
            self._reactor.stop()

    # -- a second signal

    def _take_signals(self) -> None:
        """Handle signals before the reactor does, because the reactor logs a second signal as an error."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if callable(before):
                    signal.signal(number, partial(self._on_signal, before))

    def _on_signal(
        self, before: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None
    ) -> None:
        if self._ending:
            self._reactor.callFromThread(self.end_now)
        else:
            self._ending = True
            before(number, frame)

    def end_now(self) -> None:
        """End now: cut every connection, and give Redis a second to take back the elements that they held."""
        log.warn("a second signal: ending at once; connections cut: {count}", count=len(self.server.connections))
        for connection in list(self.server.connections):
            connection.cut(linger=False)
        self._reactor.callLater(1.0, self.redis.cut, "this instance is ending")

    def connected(self) -> bool:
        """Whether both links to Redis are up."""
        return self.redis.link is not None and self.messages.link is not None

    def startService(self) -> None:
        """Start the wheel, the links to Redis and the heartbeat of this instance."""
        Service.startService(self)
        if self.access_file is not None:
            try:
                self.access_file.open()
            except OSError as error:
                why = f"[server] access_log: {self.config.access_log} cannot be opened: {error.strerror}"
                self._reactor.callWhenRunning(self._end_with_error, why)
        self._reactor.callWhenRunning(self._take_signals)
        self.wheel.start()
        self.redis.start()
        self.messages.start()
        self.presence.start()
        log.info("RestMQ with Redis at {redis}", redis=self.core.redis_name)

    def stopService(self) -> Deferred[None]:
        """Finish requests, close live consumers, give back their elements, then close the links to Redis."""
        Service.stopService(self)
        return deferred(self._stop())

    async def _stop(self) -> None:
        log.info("ending: finishing requests and closing live consumers")
        if self.acl.guesses is not None:
            self.acl.guesses.close()
        drained = self.app.drain(self.config.drain, self.config.grace)
        self.waiting.close()
        await self.delivery.close()
        await drained
        self.wheel.stop()
        self.server.refusals.flush()
        if self.access_log is not None:
            self.access_log.flush()
        await self.core.close()
        await self.messages.disconnect()


def services(config: Config) -> list[Service]:
    """The broker and its port, not started, in the order of their start. The port opens last and closes first."""
    from twisted.internet import reactor as made

    reactor = cast(Reactor, made)
    broker = Broker(config, reactor)
    exposure = Exposure(config, broker.acl)
    broker.wheel.each(exposure.check_rules)
    listener = Listener(config.endpoint, broker.app, reactor, broker.connected, exposure.on_listening)
    if listener.certificates is not None:
        broker.wheel.each(listener.certificates.reload_if_changed)
    return [broker, listener]
