"""The application: routes, and what their handlers share.

Owns finding the handler of a request; knows no queue. cyclone's ordinary handlers
work beside the lean ones. Read acl.py next, then rest.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from http.client import responses
from typing import Any, NamedTuple

from cyclone import web
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from restmq.accesslog import Refusals
from restmq.clock import Wheel
from restmq.cyclone3 import Chunked, repaired
from restmq.errors import NotFound
from restmq.handler import CLIENT_LEFT, Handler
from restmq.http import Connection
from restmq.proxies import Proxies
from restmq.request import Request
from restmq.slot import deferred

log = Logger()


class Limits(NamedTuple):
    """Seconds for head, body and idling; bytes of a body."""

    head: int
    body: int
    idle: int
    size: int


def specification(route: Any) -> Any:
    """A route as cyclone's URLSpec, which it may be already: (pattern, handler[, keywords[, name]])."""
    return route if isinstance(route, web.URLSpec) else web.URLSpec(*route)


class Application(web.Application):  # type: ignore[misc]
    """The routes and what handlers share: core, delivery, acl, settings, wheel.

    `routes` is cyclone's ordinary list of (pattern, handler[, keywords]) or URLSpec.
    Lean handlers are found first, those that are hot without a regular expression;
    all others are served by cyclone itself, `given` are its settings. `access`, when
    set, is called with (request, status, bytes) for every answer.
    """

    protocol = Connection
    log = log

    def __init__(
        self,
        routes: list[Any],
        settings: Any,
        core: Any,
        delivery: Any,
        acl: Any,
        wheel: Wheel,
        **given: Any,
    ) -> None:
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._hot: dict[bytes, type[Handler]] = {}
        self._cold: list[tuple[re.Pattern[bytes], type[Handler], dict[str, Any]]] = []
        ordinary = [route for route in routes if not self._lean(route)]
        super().__init__(ordinary, transforms=[Chunked], **given)
        self.config, self.core, self.delivery, self.acl, self.wheel = settings, core, delivery, acl, wheel
        self.limits = Limits(
            int(settings.head_timeout), int(settings.body_timeout), int(settings.idle_timeout), settings.max_body
        )
        self.proxies = Proxies(settings.xheader, tuple(settings.trusted_proxies)) if settings.xheaders else None
        self.connections: set[Connection] = set()
        self.live: Counter[str] = Counter()  # live consumers of each client's address; of this machine's none
        self.draining = False
        self.access: Callable[[Request, int, int], None] | None = None
        self.refusals = Refusals(wheel)
        wheel.each(self._tick)

    def _lean(self, route: Any) -> bool:
        spec = specification(route)
        cls = spec.handler_class
        if not (isinstance(cls, type) and issubclass(cls, Handler)):
            return False
        pattern = spec.regex.pattern
        simple = re.fullmatch(r"(/\w+)/\(\[\^/\]\+\)\$", pattern)
        if simple and cls.hot and not spec.kwargs:
            self._hot[simple[1].encode()] = cls
        self._cold.append((re.compile(pattern.encode()), cls, spec.kwargs))
        return True

    def add_handlers(self, host_pattern: str, host_handlers: Any) -> None:
        """Add ordinary handlers for a host, as cyclone does."""
        super().add_handlers(host_pattern, host_handlers)
        for _, specs in self.handlers:
            for spec in specs:
                spec.handler_class = repaired(spec.handler_class)

    def log_request(self, handler: Any) -> None:
        """Called by cyclone for its ordinary handlers."""
        if self.access is not None:
            status = CLIENT_LEFT if handler.request.connection.ended else handler.get_status()
            self.access(handler.request, status, int(handler._headers.get("Content-Length", 0)))

    def _tick(self) -> None:
        self._heads.clear()
        now = self.wheel.now
        for connection in [one for one in self.connections if one.deadline < now]:
            connection.late()

    def head(self, status: int, type: bytes) -> bytes:
        """An answer's first lines, remembered for a second."""
        head = self._heads.get((status, type))
        if head is None:
            reason = responses.get(status, "Error").encode("ascii")
            head = b"HTTP/1.1 %d %b\r\nServer: RestMQ\r\nDate: %b\r\nX-Content-Type-Options: nosniff\r\n%b" % (
                status,
                reason,
                self.wheel.date,
                b"Content-Type: %b\r\n" % type if type else b"",
            )
            self._heads[(status, type)] = head
        return head

    def __call__(self, request: Request) -> None:
        """A request came: hot ones at once, cold ones when those before them are answered."""
        prefix, _, last = request.raw_path.rpartition(b"/")
        cls = self._hot.get(prefix)
        if cls is not None and last:
            cls(self, request).run((last,))
            return
        request.hold = True
        if request.connection.line[0] is request:
            self.cold(request)

    def cold(self, request: Request) -> None:
        """Find the handler in the list, as cyclone does. It holds the line: those before it are answered."""
        for pattern, cls, given in self._cold:
            found = pattern.fullmatch(request.raw_path)
            if found:
                handler = cls(self, request, **given)
                if cls.streams and request.connection.half:
                    request.connection.readConnectionLost()  # there is nothing to answer to who asked for this
                else:
                    handler.run(found.groups())
                return
        specs = [spec for spec in self._get_host_handlers(request) or () if spec.regex.match(request.path)]
        if not specs:
            Missing(self, request).run(())
            return
        guard = Handler(self, request)
        try:
            guard.allow(getattr(specs[0].handler_class, "sections", {}).get(request.method))
            request.handler = None  # cyclone tells its own handlers that the client left
            super().__call__(request)
        except Exception as error:
            guard.failed(error)

    def drain(self, seconds: float, grace: float) -> Deferred[None]:
        """Finish what is in flight, then close; fires when all connections are gone.

        A request that is under way or arriving is answered with `Connection: close`.
        Idle connections are closed after `grace` seconds: a request may be on its way
        to one. Streams are their owners' to close. What is left after `seconds` is aborted.
        """
        self.draining = True
        for connection in list(self.connections):
            connection.drain(grace)
        return deferred(self._drained(seconds))

    async def _drained(self, seconds: float) -> None:
        end = self.wheel.clock.seconds() + seconds
        while self.connections and self.wheel.clock.seconds() < end:
            await deferLater(self.wheel.clock, 0.02)
        for connection in list(self.connections):
            connection.transport.abortConnection()
        while self.connections:
            await deferLater(self.wheel.clock, 0.02)


class Missing(Handler):
    """No route fits."""

    def run(self, arguments: tuple[bytes, ...]) -> None:
        path = self.request.raw_path.decode("ascii", "backslashreplace")
        try:
            self.allow(None)
        except Exception as error:
            self.failed(error)
            return
        self.failed(NotFound(f"there is nothing at {path[:200]}; /q/NAME is a queue, / tells the rest"))
