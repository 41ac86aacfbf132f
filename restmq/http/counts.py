"""Counts of answered requests, by route, method and status.

Owns the names of routes. Knows nothing of what a handler does. api/metrics.py shows the counts: read it next.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from restmq.http.application import RouteSpec, specification
from restmq.http.handler import METHODS
from restmq.http.request import Request

OTHER = "other"


def route_name(pattern: str) -> str:
    """A route as docs/protocol.txt writes it: /q/NAME/take for /q/([^/]+)/take."""
    path = pattern.replace("\\", "").replace("/([0-9]+)", "/N").replace("/?", "/")
    path = path.replace("(.+)", "FILE").replace("(.*)", "FILE")
    return path.replace("([^/]+)", "NAMES" if re.match(r"/(?:c|sse|ws)/", path) else "NAME")


class Counts:
    """Counts answers by route, method and status.

    It is the server's `on_answer`, and passes each answer on to the access log.

    Clients cannot make the counts grow: a path without a route, and a method that RestMQ does not know, count as
    `other`.
    """

    def __init__(self, routes: Iterable[RouteSpec], log: Callable[[Request, int, int], object] | None = None) -> None:
        """`routes` are those of the application, `log` is the access log."""
        found = [(spec.regex.pattern.removesuffix("$"), spec.handler_class) for spec in map(specification, routes)]
        self._routes = [(re.compile(pattern.encode()), route_name(pattern)) for pattern, _ in found]
        self._log = log
        self._hot: dict[bytes, str] = {}
        for pattern, handler in found:
            simple = re.fullmatch(r"(/\w+)/\(\[\^/\]\+\)", pattern)
            if simple and getattr(handler, "hot", False):
                self._hot[simple[1].encode()] = route_name(pattern)
        self._fast: dict[tuple[bytes, str, int], int] = {}
        self._slow: Counter[tuple[str, str, int]] = Counter()

    def __call__(self, request: Request, status: int, size: int) -> None:
        """Count an answered request. A hot request costs one look-up in a dict."""
        prefix, _, last = request.raw_path.rpartition(b"/")
        try:
            self._fast[prefix if last else b"", request.method, status] += 1
        except KeyError:
            self._other(request, prefix if last else b"", status)
        if self._log is not None:
            self._log(request, status, size)

    def _other(self, request: Request, prefix: bytes, status: int) -> None:
        method = request.method if request.method in METHODS else OTHER
        if prefix in self._hot and method != OTHER:
            self._fast[prefix, method, status] = 1
            return
        fits = (name for pattern, name in self._routes if pattern.fullmatch(request.raw_path))
        self._slow[next(fits, OTHER), method, status] += 1

    def counts(self) -> Counter[tuple[str, str, int]]:
        """The number of answers, by (route, method, status)."""
        counts = Counter(self._slow)
        for (prefix, method, status), count in self._fast.items():
            counts[self._hot[prefix], method, status] += count
        return counts
