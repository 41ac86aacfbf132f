"""Start reading here: the routes, and what is put together to serve them.

Owns the routing table and the order of starting and ending; everything named
in it stands in a module of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from restmq import admin, config, live, rest, websocket
from restmq.clock import Wheel
from restmq.config import Settings
from restmq.core import Core
from restmq.delivery import Delivery
from restmq.door import Door
from restmq.handler import Application
from restmq.http import Request
from restmq.presence import Presence
from restmq.redis import Redis
from restmq.slot import deferred

log = Logger()

ROUTES: list[tuple[str, Any]] = [
    (r"/", rest.Root),
    (r"/q/([^/]+)", rest.Queue),
    (r"/q/([^/]+)/take", rest.Take),
    (r"/q/([^/]+)/([0-9]+)", rest.One),
    (r"/queue", admin.Form),
    (r"/c/([^/]+)", live.CometHandler),
    (r"/sse/([^/]+)", live.SseHandler),
    (r"/ws/([^/]+)", websocket.WebSocketHandler),
    (r"/p/([^/]+)", admin.Policy),
    (r"/control/?", admin.Controls),
    (r"/control/([^/]+)", admin.Control),
    (r"/stats/?", admin.AllStats),
    (r"/stats/([^/]+)", admin.Stats),
    (r"/q/?", admin.Listing),
    (r"/j/([^/]+)", admin.Jobs),
    (r"/healthz", admin.Health),
    (r"/readyz", admin.Ready),
    (r"/robots\.txt", admin.Robots),
    (r"/static/(.+)", admin.Static),
]


def frontend_path() -> Path:
    """Where the pages lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "frontend"
    return inside if inside.is_dir() else package.parent / "frontend"


class Broker(Service):
    """Everything that runs: begins with the wheel, ends with the links to Redis."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self.settings = settings
        self.wheel = Wheel(reactor)
        link = {
            "db": settings.redis_db,
            "username": settings.redis_username or None,
            "password": settings.redis_password or None,
            "deadline": settings.deadline,
        }
        self.redis = Redis(settings.redis, reactor, **link)
        self.messages = Redis(settings.redis, reactor, heard=lambda channel, data: None, **link)
        self.core = Core(self.redis, reactor, settings.history, settings.history_bytes)
        self.presence = Presence(self.core, reactor)
        self.delivery = Delivery(self.core, self.messages, self.presence, reactor)
        self.acl = config.access(settings)
        self.app = Application(ROUTES, settings, self.core, self.delivery, self.acl, self.wheel)
        self.app.pages = admin.Pages(frontend_path(), settings.static_path, settings.template_path)
        if settings.access_log:
            self.app.access = self._access
        for each in (self.redis.watch, self.messages.watch, self.delivery.watch, self.acl.reload_if_changed):
            self.wheel.each(each)
        self.core.unknown_layout = self._refuse
        self._reactor = reactor

    def _access(self, request: Request, status: int, size: int) -> None:
        """One line a request. Queries are left out: they may hold what nobody should read."""
        log.info(
            "{ip} {method} {path} {status} {size}",
            ip=request.remote_ip,
            method=request.method,
            path=request.raw_path.decode("ascii", "backslashreplace"),
            status=status,
            size=size,
        )

    def _refuse(self, why: str) -> None:
        log.critical("{why}", why=why)
        self._reactor.stop()

    def connected(self) -> bool:
        """Whether both links to Redis are there."""
        return self.redis.link is not None and self.messages.link is not None

    def startService(self) -> None:
        """The wheel turns, the links are made, the beat begins."""
        super().startService()
        self.wheel.start()
        self.redis.start()
        self.messages.start()
        self.presence.start()
        log.info("RestMQ with Redis at {redis}", redis=self.core.redis_name)

    def stopService(self) -> Deferred[None]:
        """Finish requests, close live consumers, give back what they held, then let go of Redis."""
        super().stopService()
        return deferred(self._stop())

    async def _stop(self) -> None:
        log.info("ending: finishing requests and closing live consumers")
        drained = self.app.drain(self.settings.drain, self.settings.grace)
        await self.delivery.close()
        await drained
        self.wheel.stop()
        await self.core.close()
        await self.messages.disconnect()


def service(settings: Settings) -> MultiService:
    """All of it, not started. The port is opened last and closed first."""
    from twisted.internet import reactor

    broker = Broker(settings, reactor)
    return _Ordered(broker, Door(settings.endpoint, broker.app, reactor, broker.connected))


class _Ordered(MultiService):
    """Starts in order, ends in reverse order, each after the one before it has ended."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        for part in parts:
            part.setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return deferred(self._stop())

    async def _stop(self) -> None:
        for part in reversed(list(self)):
            await maybeDeferred(part.stopService)
