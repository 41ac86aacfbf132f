"""The lean handler: a request's options in, an answer out, and one place that writes.

Owns what all handlers share: access checks, and the rendering of answers and errors. Knows no queue and no route. A
handler returns its answer. http/options.py reads options and fields, http/preflight.py answers OPTIONS. Read
http/application.py next, then access/acl.py and api/queue.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import ClassVar, NamedTuple, Protocol, TypeVar, Union

from cyclone import web
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.http import negotiation
from restmq.http.accesslog import NO_ADDRESS
from restmq.http.options import OptionReader, has_value
from restmq.http.preflight import options_headers
from restmq.http.request import BodyLimit, Request
from restmq.http.server import Server
from restmq.http.stream import Stream
from restmq.model.element import queue_name
from restmq.model.errors import BadOption, BadRequest, Error, NotAllowed, NotImplementedHere, TooManyGuesses
from restmq.model.urlencoded import unquote
from restmq.runtime.future import drive

log = Logger()
T = TypeVar("T")
JSON = b"application/json"
PROBLEM = b"application/problem+json"
SCRIPTS = (b"application/javascript", b"text/javascript", b"application/x-javascript", b"application/ecmascript")
SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing (RFC 9110 section 9.2.1), unless they hand out elements
CLIENT_LEFT = 499  # the access log's status for a client that left before its answer, as in Nginx
#: Methods that are known (RFC 9110 section 9, RFC 5789), though perhaps not for every address.
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE".split())
UNZIPS = 1032  # most bytes that deflate makes of one byte (RFC 1951)
_CALLBACK = re.compile(rb"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*\Z")


class Answer(NamedTuple):
    """The answer of a handler."""

    body: bytes = b""
    status: int = 200
    type: bytes = b"text/plain; charset=utf-8"
    headers: tuple[tuple[bytes, bytes], ...] = ()


#: What a verb returns in the end; None if a stream took over.
Said = Union[bytes, Answer, None]
#: A method of a handler that answers an HTTP method. Its arguments are the handler and the parts of the path.
Verb = Callable[..., Union[Said, Coroutine[object, object, Said]]]


class Site(Protocol):
    """The application, as far as a handler knows it."""

    server: Server
    services: object


_names: dict[bytes, bytes] = {}


def path_queue(raw: bytes) -> bytes:
    """The queue name in a path: percent-decoded, where a plus is a plus, and checked. Raises BadName."""
    good = _names.get(raw)
    if good is None:
        good = queue_name(unquote(raw))
        if len(_names) >= 10_000:
            _names.clear()
        _names[raw] = good
    return good


class Handler(OptionReader, web.RequestHandler):  # type: ignore[misc]  # cyclone has no types
    """cyclone's handler without its preparations for each request: the values are made when something asks for them.

    A subclass answers the HTTP methods that it has as methods of (self, *path arguments) in lower case: get, post,
    delete. They return bytes, an Answer, None when a stream took over, or a coroutine of these. `sections` maps HTTP
    methods to the access section that is asked first. HEAD is GET without the body (RFC 9110 section 9.3.2), unless
    the handler streams or has a HEAD of its own.
    """

    #: HTTP method -> the method of the class that answers it, in the order of their definition.
    verbs: ClassVar[Mapping[str, Verb]] = {}
    sections: ClassVar[Mapping[str, str]] = {}
    #: Methods that hand out or stream elements, with the types of their answers; see check_usable().
    hand_out_types: ClassVar[Mapping[str, tuple[bytes, ...]]] = {}
    #: Whether such a method hands out another element if the same request comes again.
    repeat_differs: ClassVar[bool] = True
    #: Preconditions that a method checks itself (RFC 9110 section 13.1).
    conditions: ClassVar[Mapping[str, tuple[bytes, ...]]] = {}
    hot = False  # whether the handler may answer while others of its connection are still under way
    #: Cache-Control of good answers. A cache that keeps one would give an element twice, or show old data (RFC 9111).
    cache: ClassVar[bytes] = b"no-store"
    streams = False  # whether the handler takes the connection over: a client that closed its side then gets no answer
    gone = False
    on_client_gone: list[Callable[[], None]] | None = None  # called when the client leaves before its answer
    on_half_closed: list[Callable[[], None]] | None = None  # called when the client closes its side before its answer
    _streaming = False

    def __init_subclass__(cls) -> None:
        own = {name.upper(): verb for name, verb in vars(cls).items() if name.upper() in METHODS - {"OPTIONS"}}
        cls.verbs = {**cls.verbs, **own}
        if "GET" in cls.verbs and "HEAD" not in cls.verbs and not cls.streams:
            cls.verbs, cls.sections = _with_head(cls.verbs), _with_head(cls.sections)

    #: What handlers of queues use. A class that uses them declares their type.
    services: object

    def __init__(self, application: Site, request: Request, **given: object) -> None:
        self.application, self.server, self.services = application, application.server, application.services
        self.request = request
        request.handler = self
        if given:
            self.initialize(**given)

    def body_limit(self) -> BodyLimit:
        """How large the body of a POST may be, by what it can mean here. Other methods allow LITTLE bytes.

        An address that takes larger bodies overrides this method. Only the head of the request is there.
        """
        return BodyLimit()

    def judge(self) -> BodyLimit:
        """Decide what the head alone decides: access, the method, and how large the body may be. Raises errors."""
        request = self.request
        self.allow(self.sections.get(request.method))
        if request.method not in self.verbs and request.method != "OPTIONS":
            raise self._not_allowed()
        if (request.fields.special or self.streams) and request.method != "OPTIONS":
            self._check_special()
        if request.method == "POST" and self.body == "options":
            self.check_type()
        limit = self.body_limit() if request.method == "POST" else BodyLimit()
        if request.fields.length > limit.bytes:
            raise limit.exceeded(request.fields.length)
        return limit

    def methods(self) -> tuple[str, ...]:
        """The methods of this address, for Allow."""
        return (*self.verbs, "OPTIONS")

    def _not_allowed(self) -> Error:
        method = self.request.method
        if method not in METHODS:  # methods are compared with case (RFC 9110 section 9.1)
            meant = f"; did you mean {method.upper()}?" if method.upper() in METHODS else ""
            return NotImplementedHere(f"the method {method} is not known here{meant}")
        return NotAllowed(f"{method} is not for this address", self.methods())

    def run(self, arguments: tuple[bytes, ...]) -> None:
        """Check the request, call the verb, and send its answer."""
        request = self.request
        try:
            if not request.judged:
                self.allow(self.sections.get(request.method))
            verb = self.verbs.get(request.method)
            if verb is None and request.method == "OPTIONS":
                self.reply(self.options_answer())
                return
            if verb is None:
                raise self._not_allowed()
            if request.fields.special or self.streams:
                if not request.judged:
                    self._check_special()
                self._unzip()
            said = verb(self, *arguments)
        except TooManyGuesses as error:
            self._run_later(error, arguments)
            return
        except Exception as error:
            self.failed(error)
            return
        if said is None or type(said) is bytes or type(said) is Answer:
            self.reply(said)
        else:
            drive(said, self.reply, self.failed)  # type: ignore[arg-type]  # mypy does not narrow a union by a negated type()

    def _run_later(self, refused: TooManyGuesses, arguments: tuple[bytes, ...]) -> None:
        """Run again when the password may be looked at. If no more requests may wait, refuse."""
        guesses = self.server.acl.guesses
        waits = guesses.wait(refused, partial(self.run, arguments), self.failed) if guesses is not None else None
        if waits is None:
            self.failed(refused)
        else:
            self.on_client_gone = [*(self.on_client_gone or ()), waits.on_client_left]

    def _check_special(self) -> None:
        """Refuse what special header lines ask for, where RestMQ does not do it. Raises errors."""
        request = self.request
        kinds = self.hand_out_types.get(request.method)
        if kinds is not None:
            self.check_usable(kinds)
            if self.repeat_differs:
                self.refuse_idempotency_key()
        elif request.method not in SAFE:
            self._check_conditions()
        if request.fields.length or request.fields.chunked:
            negotiation.check_charset(request.fields.values.get(b"content-type", b""))
            negotiation.zipped(request.fields.values)

    def check_usable(self, kinds: tuple[bytes, ...]) -> None:
        """Check, before elements are handed out, that this client can use an answer of these types. Raises errors."""
        request = self.request
        if request.fields.special or self.streams:
            if kinds == (JSON,) and any(name == b"callback" for name, _ in request.query):
                kinds = SCRIPTS
            queue = request.raw_path.split(b"/")[2:3] or [value for name, value in request.query if name == b"queue"]
            named = queue[0].decode("utf-8", "replace")[:200] if queue else "NAME"
            negotiation.check_use(request.fields.values, kinds, named)
            self._check_conditions()

    def refuse_idempotency_key(self) -> None:
        """Raise BadRequest for an Idempotency-Key: the same request once more hands out another element."""
        if b"idempotency-key" in self.request.fields.values:
            raise BadRequest(
                "an Idempotency-Key does not hold here: the same request once more hands out another element. Leave "
                "it out; take with a lease, and an element whose answer was lost comes again when its lease ends"
            )

    def _check_conditions(self) -> None:
        values, method = self.request.fields.values, self.request.method
        remedy = "" if b"if-match" not in values else "; a lease in If-Match goes with one element, at /q/NAME/N"
        negotiation.check_conditions(values, self.conditions.get(method, ()), remedy)

    def _unzip(self) -> None:
        """Replace a gzip body by its content, within the limit of the address. Raises BadRequest, TooLarge."""
        request = self.request
        valued = self.body == "value" and request.method == "POST"  # an empty body is a value there, but not gzip
        if (request.body or valued) and negotiation.zipped(request.fields.values):
            limit = self.body_limit() if request.method == "POST" else BodyLimit()
            request.connection.may_grow(request, min(limit.bytes, UNZIPS * len(request.body)))
            body = negotiation.unzipped(request.body, limit.bytes)
            if body is None:
                raise limit.exceeded()
            request.connection.replace_body(request, body)

    def allow(self, section: str | None) -> None:
        """Ask the access rules. The connection remembers an answer that depends on the address alone. Raises errors."""
        acl = self.server.acl
        request = self.request
        acl.origins.admit(request)
        if section is not None:
            connection = request.connection
            if self.server.proxies is not None:
                connection.client(request.fields.values)  # forgets the answers for another client of the proxy
            if connection.allowed.get(section) != acl.generation and acl.check(section, request):
                connection.allowed[section] = acl.generation

    def options_answer(self) -> Answer:
        """The answer to OPTIONS: the methods, and for a page of an allowed origin the header lines that it may send."""
        asked = self.request.fields.values.get(b"access-control-request-headers", b"")
        return Answer(status=204, headers=options_headers(self.methods(), asked, bool(self.request.shared)))

    def log_change(self, what: str, **values: object) -> None:
        """Log one line about a client's change. `what` is a format of twisted.logger, `values` fill it."""
        log.info("{who} " + what, who=self.request.remote_ip or NO_ADDRESS, **values)

    def on_client_left(self) -> None:
        """The client left before its answer."""
        self.gone = True
        self._log_answer(CLIENT_LEFT, 0)
        for callback in self.on_client_gone or ():
            callback()

    def on_client_half_closed(self) -> None:
        """The client closed its side before its answer, and may have left."""
        for callback in self.on_half_closed or ():
            callback()

    def json(self, document: object, end: bytes = b"\r\n") -> Answer:
        """A document as JSON, wrapped for JSONP if the query has a callback."""
        return self.jsonp(json.dumps(document).encode("ascii"), end)

    def jsonp(self, body: bytes, end: bytes = b"\r\n") -> Answer:
        """JSON text as an answer, wrapped in `callback` if the query has one. Raises BadOption."""
        if self.request.raw_query:
            given = [value for name, value in self.request.query if name == b"callback"]
            if len(given) > 1:
                raise BadOption("the option 'callback' was given more than once in the query")
            for callback in given:
                has_value("callback", callback)
                if len(callback) > 64 or not _CALLBACK.match(callback):
                    raise BadOption("callback is not a JavaScript name of at most 64 characters")
                charset = b"" if body.isascii() else b"; charset=utf-8"
                return Answer(b"%b(%b);%b" % (callback, body, end), 200, b"application/javascript" + charset)
        return Answer(body + end, 200, JSON)

    def stream(self, type: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Stream:
        """Answer 200 and keep the connection.

        In HTTP/1.1 the stream is chunked, in HTTP/1.0 it ends with the connection.
        """
        self._streaming = True
        request = self.request
        request.connection.free_body(request)
        chunked = request.newer
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Connection: close\r\n"
        head = self.server.head(200, type, self.cache) + _lines((*headers, *request.shared)) + framing + b"\r\n"
        self._log_answer(200, 0)
        return Stream(request, head, chunked, raw=False, stall=self.server.config.stall)

    def upgrade(self, headers: tuple[tuple[bytes, bytes], ...]) -> Stream:
        """Answer 101 and keep the connection, raw in both directions."""
        self._streaming = True
        self.request.connection.free_body(self.request)
        self._log_answer(101, 0)
        head = self.server.head(101, b"") + _lines(headers) + b"\r\n"
        return Stream(self.request, head, False, raw=True, stall=self.server.config.stall)

    def failed(self, error: BaseException) -> None:
        """Turn an error into an answer. This is the only place that does."""
        if not isinstance(error, Error):
            log.failure(
                "{method} {path} failed",
                Failure(error),
                method=self.request.method,
                path=self.request.raw_path.decode("ascii", "backslashreplace"),
            )
            error = Error("something went wrong inside RestMQ; its log says what")
        self.server.refusals.note(self.request, error)
        if self.gone:
            self.request.connection.free_body(self.request)
        if self._streaming:
            self.request.connection.cut()
        elif not self.gone:
            self._write(error.render(), error.status, PROBLEM, error.headers)

    def reply(self, said: Said) -> None:
        """Write the answer of a verb. None means that a stream took over."""
        if self.gone:
            self.request.connection.free_body(self.request)
        if self.gone or self._streaming:
            return
        try:
            if self.request.fields.special and said is not None:
                said = self._conditional(Answer(said) if isinstance(said, bytes) else said)
            if type(said) is bytes:
                self._write(said, 200, b"text/plain; charset=utf-8", ())
            elif isinstance(said, Answer):
                self._write(*said)
            else:
                raise TypeError(f"a verb answered {said!a}, which is neither bytes nor an Answer")
        except Exception as error:
            self.failed(error)

    def _conditional(self, said: Answer) -> Answer:
        """The answer of a look, if its preconditions hold (RFC 9110 section 13.2.1). Raises NotMatched."""
        method = self.request.method
        looked = said.status == 200 and method in ("GET", "HEAD") and method not in self.hand_out_types
        if looked and negotiation.unchanged(self.request.fields.values):
            return Answer(status=304)
        return said

    def _write(self, body: bytes, status: int, kind: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Write an answer.

        This is the only place that does. Raises ValueError for a header that would split the head.
        """
        request = self.request
        connection = request.connection
        empty = status in (204, 304)
        head = self.server.head(status, b"" if empty else kind, self.cache if status in (200, 304) else b"no-store")
        if headers or request.shared:
            head += _lines((*headers, *request.shared))
        if connection.closes(request):
            head += b"Connection: close\r\n"
        elif request.fields.keep:
            head += b"Connection: keep-alive\r\n"
        if empty:
            data = head + b"\r\n"
        elif request.method == "HEAD":
            data = b"%bContent-Length: %d\r\n\r\n" % (head, len(body))
            body = b""
        else:
            data = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        connection.answer(request, data)
        on_answer = self.server.on_answer
        if on_answer is not None:
            on_answer(request, status, len(body))

    def _log_answer(self, status: int, size: int) -> None:
        if self.server.on_answer is not None:
            self.server.on_answer(self.request, status, size)


def _with_head(given: Mapping[str, T]) -> dict[str, T]:
    """A table by HTTP method, in which HEAD has the same as GET."""
    found: dict[str, T] = {}
    for method, what in given.items():
        found[method] = what
        if method == "GET":
            found["HEAD"] = what
    return found


def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header's value has a line break in it")
    return lines
