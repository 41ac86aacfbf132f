"""The application: which handler a request gets.

Owns the routes; knows no queue. cyclone's ordinary handlers work beside the lean ones. Read access/acl.py next, then
api/queue.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cyclone import web
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from restmq.http.connection import Connection
from restmq.http.cyclone3 import Chunked, methods_of, repaired
from restmq.http.handler import CLIENT_LEFT, Handler
from restmq.http.request import Most, Request
from restmq.http.server import Server
from restmq.model.errors import BadRequest, Error, NotFound
from restmq.runtime.future import deferred

log = Logger()


class Route(NamedTuple):
    """Who handles a request: `arguments` are what its path says, `given` what the list of routes says."""

    handler: type[Handler]
    arguments: tuple[bytes, ...] = ()
    hot: bool = False
    given: Mapping[str, Any] = {}


def specification(route: Any) -> Any:
    """A route as cyclone's URLSpec, which it may be already: (pattern, handler[, keywords[, name]])."""
    return route if isinstance(route, web.URLSpec) else web.URLSpec(*route)


class Application(web.Application):  # type: ignore[misc]  # cyclone has no types
    """The routes: cyclone's ordinary list of (pattern, handler[, keywords]) or URLSpec.

    Lean handlers are found first, those that are hot without a regular expression; cyclone itself serves all others,
    and `given` are its settings. Each handler gets `server` and `services`, which are whatever its class declares.
    """

    protocol = Connection
    log = log

    def __init__(self, routes: list[Any], server: Server, services: object = None, **given: Any) -> None:
        self.server, self.services = server, services
        self._hot: dict[bytes, type[Handler]] = {}
        self._cold: list[tuple[re.Pattern[bytes], type[Handler], dict[str, Any]]] = []
        ordinary = [route for route in routes if not self._lean(route)]
        super().__init__(ordinary, transforms=[Chunked], **given)

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
        if self.server.access is not None:
            status = CLIENT_LEFT if handler.request.connection.ended else handler.get_status()
            self.server.access(handler.request, status, int(handler._headers.get("Content-Length", 0)))

    def __call__(self, request: Request) -> None:
        """A request came: hot ones at once, cold ones when those before them are answered."""
        route = request.route
        if route is None:
            prefix, _, last = request.raw_path.rpartition(b"/")
            cls = self._hot.get(prefix)
            if cls is not None and last:  # the most frequent of requests, found without a Route
                cls(self, request).run((last,))
                return
            request.route = route = self.find(request)
        if route.hot:
            route.handler(self, request, **route.given).run(route.arguments)
            return
        request.hold = True
        if request.connection.line[0] is request:
            self.cold(request)

    def find(self, request: Request) -> Route:
        """Who handles a request: a handler of the list, else one of cyclone's own."""
        if request.raw_path == b"*":
            return Route(Everything)
        for pattern, cls, given in self._cold:
            found = pattern.fullmatch(request.raw_path)
            if found:
                return Route(cls, found.groups(), cls.hot, given)
        for spec in self._get_host_handlers(request) or ():
            if spec.regex.match(request.path):
                return Route(Ordinary, given={"cls": spec.handler_class})
        path = request.raw_path.decode("ascii", "backslashreplace")
        text = f"there is nothing at {path[:200]}; /q/NAME is a queue, / tells the rest"
        return Route(Refused, given={"kind": NotFound, "text": text})

    def wrong(self, request: Request, text: str) -> None:
        """A request is none that could be meant: it is answered so when its turn comes."""
        request.route = Route(Refused, given={"kind": BadRequest, "text": text})

    def judge(self, request: Request) -> Most:
        """What the head alone decides, before a byte of the body is awaited: the most that it may have.

        Raises what the handler raises: access, method, length, type.
        """
        request.route = route = request.route or self.find(request)
        most = route.handler(self, request, **route.given).judge()
        request.judged, request.handler = True, None
        return most

    def refuse(self, request: Request, error: Exception) -> None:
        """Answer a request at its head."""
        (request.handler or Handler(self, request)).failed(error)

    def cold(self, request: Request) -> None:
        """Run a handler that holds the line: those before it are answered."""
        route = request.route
        handler = route.handler(self, request, **route.given)
        if route.handler.streams and request.method == "GET" and request.connection.half:
            request.connection.readConnectionLost()  # a client that asked for this has nothing to be answered
        else:
            handler.run(route.arguments)

    def drain(self, seconds: float, grace: float) -> Deferred[None]:
        """Finish what is in flight, then close; fires when all connections are gone.

        A request that is under way or arriving is answered with `Connection: close`.
        Idle connections are closed after `grace` seconds: a request may be on its way
        to one. Streams are their owners' to close. What is left after `seconds` is cut.
        """
        self.server.draining = True
        for connection in list(self.server.connections):
            connection.drain(grace)
        return deferred(self._drained(seconds))

    async def _drained(self, seconds: float) -> None:
        connections, clock = self.server.connections, self.server.wheel.clock
        end = clock.seconds() + seconds
        while connections and clock.seconds() < end:
            await deferLater(clock, 0.02)
        for connection in list(connections):
            connection.cut(linger=False)
        while connections:
            await deferLater(clock, 0.02)


class Ordinary(Handler):
    """Stands before a handler of cyclone's: who may come in is asked here; its body has max_body."""

    def initialize(self, cls: Any) -> None:
        """cyclone's handler: the methods that it has, and the sections that it names, if it does."""
        self.asked = getattr(cls, "sections", {}).get(self.request.method)
        self.cls, self.own = cls, methods_of(cls)

    def methods(self) -> tuple[str, ...]:
        return (*self.own, "OPTIONS")

    def judge(self) -> Most:
        self.allow(self.asked)
        most = Most(self.server.limits.size, setting="max_body")
        if self.request.fields.length > most.bytes:
            raise most.passed(self.request.fields.length)
        return most

    def run(self, arguments: tuple[bytes, ...]) -> None:
        request = self.request
        try:
            if not request.judged:
                self.allow(self.asked)
            if request.method == "OPTIONS" and not hasattr(self.cls, "options"):
                self.reply(self.told())
                return
            request.handler = None  # cyclone tells its own handlers that the client left
            web.Application.__call__(self.application, request)
        except Exception as error:
            self.failed(error)


class Everything(Handler):
    """OPTIONS *: the server as a whole (RFC 9110 section 9.3.7)."""

    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class Refused(Handler):
    """What no route fits, or no request could mean."""

    def initialize(self, kind: type[Error], text: str) -> None:
        """The error that it is answered with."""
        self.kind, self.text = kind, text

    def judge(self) -> Most:
        self.allow(None)
        raise self.kind(self.text)

    def run(self, arguments: tuple[bytes, ...]) -> None:
        try:
            self.judge()
        except Exception as error:
            self.failed(error)
