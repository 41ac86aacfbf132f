"""The application: finds the handler of a request.

Owns the routes. Knows no queue. cyclone's ordinary handlers work beside the lean ones. Read access/acl.py next, then
api/queue.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

from cyclone import web
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from restmq.http.connection import Connection
from restmq.http.cyclone3 import Chunked, methods_of, repaired
from restmq.http.handler import CLIENT_LEFT, Handler
from restmq.http.request import BodyLimit, Request
from restmq.http.server import Server
from restmq.model.errors import BadRequest, Error, NotFound
from restmq.runtime.future import deferred

log = Logger()
#: A route of the list: (pattern, handler[, keywords[, name]]), or cyclone's URLSpec.
RouteSpec = Union[tuple[object, ...], web.URLSpec]
#: One of cyclone's ordinary handlers, or its class; cyclone has no types.
CycloneHandler = Any


class Route(NamedTuple):
    """The handler of a request. `arguments` come from the path, `given` from the list of routes."""

    handler: type[Handler]
    arguments: tuple[bytes, ...] = ()
    hot: bool = False
    given: Mapping[str, object] = {}


def specification(route: RouteSpec) -> web.URLSpec:
    """A route as cyclone's URLSpec. It may be one already, or (pattern, handler[, keywords[, name]])."""
    return route if isinstance(route, web.URLSpec) else web.URLSpec(*route)


class Application(web.Application):  # type: ignore[misc]  # cyclone has no types
    """The routes: cyclone's ordinary list of (pattern, handler[, keywords]) or URLSpec.

    Lean handlers are found first, and the hot ones of them without a regular expression. cyclone itself serves all
    others, with `given` as its settings. Each handler gets `server`, and `services`, whose type its class declares.
    """

    protocol = Connection
    log = log

    def __init__(self, routes: Sequence[RouteSpec], server: Server, services: object = None, **given: object) -> None:
        self.server, self.services = server, services
        self._hot: dict[bytes, type[Handler]] = {}
        self._cold: list[tuple[re.Pattern[bytes], type[Handler], dict[str, object]]] = []
        ordinary = [route for route in routes if not self._lean(route)]
        super().__init__(ordinary, transforms=[Chunked], **given)

    def _lean(self, route: RouteSpec) -> bool:
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

    def add_handlers(self, host_pattern: str, host_handlers: list[RouteSpec]) -> None:
        """Add ordinary handlers for a host, as cyclone does."""
        super().add_handlers(host_pattern, host_handlers)
        for _, specs in self.handlers:
            for spec in specs:
                spec.handler_class = repaired(spec.handler_class)

    def log_request(self, handler: CycloneHandler) -> None:
        """Log an answered request. cyclone calls this for its ordinary handlers."""
        if self.server.on_answer is not None:
            status = CLIENT_LEFT if handler.request.connection.ended else handler.get_status()
            self.server.on_answer(handler.request, status, int(handler._headers.get("Content-Length", 0)))

    def __call__(self, request: Request) -> None:
        """Begin a request. A hot one runs at once, another one when those before it are answered."""
        found = request.route
        if found is None:
            prefix, _, last = request.raw_path.rpartition(b"/")
            cls = self._hot.get(prefix)
            if cls is not None and last:  # the most frequent requests, found without a Route
                cls(self, request).run((last,))
                return
        route = self._route(request)
        if route.hot:
            route.handler(self, request, **route.given).run(route.arguments)
            return
        request.hold = True
        if request.connection.line[0] is request:
            self.run_next(request)

    def _route(self, request: Request) -> Route:
        """The route of a request, which the request keeps."""
        route = request.route
        if route is None:
            route = request.route = self.find(request)
        assert isinstance(route, Route)
        return route

    def find(self, request: Request) -> Route:
        """Find the handler of a request: a handler of the list, or one of cyclone's own."""
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
        text = f"there is nothing at {path[:200]}; /q/NAME is a queue, / shows the rest"
        return Route(Refused, given={"kind": NotFound, "text": text})

    def mark_malformed(self, request: Request, text: str) -> None:
        """Have a malformed request answered with 400 when its turn comes."""
        request.route = Route(Refused, given={"kind": BadRequest, "text": text})

    def judge(self, request: Request) -> BodyLimit:
        """Decide what the head alone decides, before any byte of the body is awaited.

        Returns how large the body may be.

        Raises what the handler raises: errors of access, method, length and type.
        """
        route = self._route(request)
        limit = route.handler(self, request, **route.given).judge()
        request.judged, request.handler = True, None
        return limit

    def refuse(self, request: Request, error: Exception) -> None:
        """Answer a request whose body has not come."""
        handler = request.handler or Handler(self, request)
        handler.failed(error)

    def run_next(self, request: Request) -> None:
        """Run a handler that holds the line, when the requests before it are answered."""
        route = self._route(request)
        handler = route.handler(self, request, **route.given)
        if route.handler.streams and request.method == "GET" and request.connection.half:
            request.connection.readConnectionLost()  # a client that closed its side can read no stream
        else:
            handler.run(route.arguments)

    def drain(self, seconds: float, grace: float) -> Deferred[None]:
        """Finish the requests that are under way, then close. The Deferred fires when all connections are closed.

        A request that is under way or arriving is answered with `Connection: close`. Idle connections are closed after
        `grace` seconds, because a request may be on its way to one. The owners of streams close them. Connections that
        are left after `seconds` are cut.
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
    """Stands before one of cyclone's handlers. It asks the access rules, and bounds the body by max_body."""

    def initialize(self, cls: CycloneHandler) -> None:
        """Take cyclone's handler, with its methods and, if it names any, its access sections."""
        self.asked = getattr(cls, "sections", {}).get(self.request.method)
        self.cls, self.own = cls, methods_of(cls)

    def methods(self) -> tuple[str, ...]:
        return (*self.own, "OPTIONS")

    def judge(self) -> BodyLimit:
        self.allow(self.asked)
        limit = BodyLimit(self.server.limits.size, setting="max_body")
        if self.request.fields.length > limit.bytes:
            raise limit.exceeded(self.request.fields.length)
        return limit

    def run(self, arguments: tuple[bytes, ...]) -> None:
        request = self.request
        try:
            if not request.judged:
                self.allow(self.asked)
            if request.method == "OPTIONS" and not hasattr(self.cls, "options"):
                self.reply(self.options_answer())
                return
            request.handler = None  # cyclone calls its own handlers when the client leaves
            web.Application.__call__(self.application, request)
        except Exception as error:
            self.failed(error)


class Everything(Handler):
    """OPTIONS *: the server as a whole (RFC 9110 section 9.3.7)."""

    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class Refused(Handler):
    """Answers a request that no route fits, or that is malformed."""

    def initialize(self, kind: type[Error], text: str) -> None:
        """Take the error to answer with."""
        self.kind, self.text = kind, text

    def judge(self) -> BodyLimit:
        self.allow(None)
        raise self.kind(self.text)

    def run(self, arguments: tuple[bytes, ...]) -> None:
        try:
            self.judge()
        except Exception as error:
            self.failed(error)
