"""Repairs of what cyclone 1.3 gets wrong on Python 3, each with its symptom.

Owns nothing but these repairs. Everything else of cyclone is used as it is. An ordinary handler is written as
cyclone's own documentation says: the application serves `repaired(handler)` in its place. Read http/headers.py next.
"""

from __future__ import annotations

import inspect
from functools import cache
from http.client import responses
from typing import Any  # cyclone has no types: neither its handlers, nor their arguments and answers

from cyclone import web
from cyclone.util import ObjectDict
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.model.errors import Error
from restmq.runtime.future import deferred

log = Logger()


class Chunked(web.ChunkedTransferEncoding):  # type: ignore[misc]  # cyclone has no types
    """Repairs that flush() on HTTP/1.1 joined str and bytes: a TypeError, and the request was never answered."""

    def transform_chunk(self, block: bytes, finishing: bool) -> bytes:
        if not self._chunking:
            return block
        framed = b"%x\r\n%b\r\n" % (len(block), block) if block else b""
        return framed + b"0\r\n\r\n" if finishing else framed


def methods_of(handler: Any) -> tuple[str, ...]:
    """The methods of an ordinary handler, without OPTIONS, which every address has."""
    return tuple(one for one in handler.SUPPORTED_METHODS if one != "OPTIONS" and hasattr(handler, one.lower()))


class _Repairs(web.RequestHandler):  # type: ignore[misc]  # cyclone has no types
    """Stands before an ordinary handler, so that Python finds these methods first."""

    _reason: str

    @property
    def ui(self) -> Any:
        """Repairs that the handler and its functions for templates referred to each other: a cycle for each request."""
        found = ObjectDict((name, self._ui_method(each)) for name, each in self.application.ui_methods.items())
        modules = self.application.ui_modules.items()
        found["_modules"] = found["modules"] = ObjectDict((name, self._ui_module(name, each)) for name, each in modules)
        return found

    @ui.setter
    def ui(self, _: object) -> None:
        """Ignore what cyclone would store."""

    def finish(self, chunk: Any = None) -> None:
        """Repairs that the modules of a template held their handler after its answer."""
        super().finish(chunk)
        self.__dict__.pop("_active_modules", None)

    def _deferred_handler(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Repairs that an `async def` method was never awaited: the client got an empty 200 at once."""
        answer = super()._deferred_handler(function, *args, **kwargs)
        return answer.addCallback(lambda got: deferred(got) if inspect.iscoroutine(got) else got)

    def _execute_handler(self, prepared: object, args: Any, kwargs: Any) -> None:
        """Repairs that on_connection_close was called at the end of the next request, with the client still there."""
        if self._finished:
            return
        self.notifyFinish().addCallback(self._left)
        method = getattr(self, self.request.method.lower(), self.default)
        done = self._deferred_handler(
            method,
            *map(self.decode_argument, args),
            **{name: self.decode_argument(value, name=name) for name, value in kwargs.items()},
        )
        done.addCallbacks(self._execute_success, self._execute_failure)

    def _left(self, why: str | None) -> str | None:
        if why is not None and not self._finished:
            self.on_connection_close(why)
        return why

    def _generate_headers(self) -> Any:
        """Repairs three faults of heads.

        A 204 had a Content-Length, a reason could split the head, and a flush() to HTTP/1.0 had no end.
        """
        headers, request = self._headers, self.request
        if self._status_code == 204:
            self.clear_header("Content-Length")
            self.clear_header("Content-Type")
        self._reason = self._reason.replace("\r", " ").replace("\n", " ")
        headers.setdefault("X-Content-Type-Options", "nosniff")
        if headers.get("Server", "").startswith("cyclone/"):
            headers["Server"] = "RestMQ"
        for name, value in request.shared:
            headers.setdefault(name.decode("ascii"), value.decode("latin-1"))
        bare = self._status_code in (204, 304)
        if not (bare or "Content-Length" in headers or "Transfer-Encoding" in headers):
            request.connection.no_keep_alive = True
        if request.connection.closes(request):
            headers["Connection"] = "close"
        elif request.fields.keep:
            headers["Connection"] = "keep-alive"
        return super()._generate_headers()

    def _handle_request_exception(self, error: Any) -> None:
        """Repairs that a traceback was never logged whole, and that a failure after flush() left the connection in
        disorder.
        """
        failure = error if isinstance(error, Failure) else Failure(error)
        problem = failure.value
        if not isinstance(problem, (Error, web.HTTPError)):
            log.failure("{method} {path} failed", failure, method=self.request.method, path=ascii(self.request.path))
        failure.cleanFailure()  # its traceback has frames that refer to it
        if self._finished:
            return
        if self._headers_written:
            self.request.connection.transport.abortConnection()
            return
        if isinstance(problem, Error):
            self.clear()
            self._problem(problem)
        elif isinstance(problem, web.HTTPError):
            super()._handle_request_exception(problem)
        else:
            self.send_error(500, exception=problem)

    def _problem(self, problem: Error) -> None:
        self._status_code, self._reason = problem.status, responses.get(problem.status, "Error")
        self.set_header("Content-Type", "application/problem+json")
        for name, value in problem.headers:
            self.set_header(name.decode("ascii"), value)
        self.finish(problem.render())


class _Problems(_Repairs):
    """For handlers without error pages of their own: their errors look as everywhere in RestMQ."""

    def write_error(self, status_code: int, **given: Any) -> None:
        problem = Error(responses.get(status_code, "Error").lower())
        problem.status, problem.title = status_code, responses.get(status_code, "Error")
        problem.type = problem.title.lower().replace(" ", "-")
        if status_code == 405:
            self.set_header("Allow", ", ".join((*methods_of(type(self)), "OPTIONS")))
        if status_code == 500:
            problem.text = "something went wrong inside RestMQ; its log says what"
        self._problem(problem)


class _NoEtag(web.RequestHandler):  # type: ignore[misc]  # cyclone has no types
    """Repairs that every answer to a GET was hashed, so that a read of a queue could answer 304."""

    def compute_etag(self) -> None:
        return None


@cache
def repaired(handler: type[web.RequestHandler]) -> type:
    """The handler with the repairs. What the handler overrides itself stays its own."""
    own_errors = hasattr(handler, "get_error_html") or handler.write_error is not web.RequestHandler.write_error
    bases: tuple[type, ...] = (_Repairs if own_errors else _Problems, handler)
    if handler.compute_etag is web.RequestHandler.compute_etag:
        bases = (_NoEtag, *bases)
    return type(handler.__name__, bases, {"__module__": handler.__module__, "__doc__": handler.__doc__})
