"""The lean handler: a request's options in, values out, one place that writes.

Owns what all handlers share: access checks, options and fields, the rendering of
answers and errors; knows no queue and no route. Handlers return what they have to
say. Read http/application.py next, then access/acl.py and api/queue.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

from cyclone import web
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.http import negotiation
from restmq.http.accesslog import NO_ADDRESS
from restmq.http.request import Most, Request
from restmq.http.server import Server
from restmq.http.stream import Stream
from restmq.model import document
from restmq.model.element import queue_name
from restmq.model.errors import (
    BadOption,
    BadRequest,
    Error,
    NotAllowed,
    NotImplementedHere,
    TooManyGuesses,
    UnsupportedMedia,
)
from restmq.model.options import EMPTY
from restmq.model.suggest import hint
from restmq.model.tokens import FEW
from restmq.model.urlencoded import unquote
from restmq.runtime.future import drive

log = Logger()
JSON = b"application/json"
PROBLEM = b"application/problem+json"
SCRIPTS = (b"application/javascript", b"text/javascript", b"application/x-javascript", b"application/ecmascript")
SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing (RFC 9110 section 9.2.1), but for what hands out
#: Options that may be empty, and then are absent: a listing's page, and what the first RestMQ had that way.
BLANK = ("after", "match", "ttl", "error")
READS = 'send a form, or a JSON object, such as {"NAME": "VALUE"}'
ACCEPT_POST = ((b"Accept-Post", b"application/x-www-form-urlencoded, multipart/form-data, application/json"),)
CLIENT_LEFT = 499  # what the access log says, as Nginx's does, of a request that nobody waits for any more
#: Methods that are known (RFC 9110 section 9, RFC 5789), though perhaps not for an address.
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE".split())
#: Header lines that a page of an allowed origin may send: those that requests of ours know, and those that libraries
#: of browsers add by themselves, which mean nothing here. None that a proxy sets, such as X-Real-IP.
MAY_SEND = frozenset(
    b"accept accept-language authorization cache-control content-encoding content-language content-type"
    b" idempotency-key if-match if-modified-since if-none-match last-event-id pragma prefer priority purpose range"
    b" baggage b3 sentry-trace traceparent tracestate"
    b" x-client-info x-correlation-id x-csrf-token x-request-id x-requested-with x-xsrf-token".split()
)
UNZIPS = 1032  # the most that deflate makes of a byte (RFC 1951)
MAX_WORD = 255  # bytes of a field's name that are looked at: no name that is known is longer
MOST_SENT = 100  # header lines that one preflight is answered for
_OPTION = re.compile(rb"restmq-[a-z0-9-]{1,64}\Z")
_CALLBACK = re.compile(rb"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*\Z")


class Answer(NamedTuple):
    """What a handler has to say."""

    body: bytes = b""
    status: int = 200
    type: bytes = b"text/plain; charset=utf-8"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Site(Protocol):
    """The application, as far as a handler knows it."""

    server: Server
    services: object


_names: dict[bytes, bytes] = {}


def name(raw: bytes) -> bytes:
    """A queue name out of a path: percent-decoded (a plus is a plus), then checked. Raises BadName."""
    good = _names.get(raw)
    if good is None:
        good = queue_name(unquote(raw))
        if len(_names) >= 10_000:
            _names.clear()
        _names[raw] = good
    return good


class Handler(web.RequestHandler):  # type: ignore[misc]  # cyclone has no types
    """cyclone's handler without its preparations for each request: they are made when asked for.

    A subclass answers the HTTP methods that it has as methods of (self, *path arguments) in lower case: get, post,
    delete. They return bytes, an Answer, None when a stream took over, or a coroutine of these. `sections` maps
    HTTP methods to the ACL section that is asked first. HEAD is GET without the body (RFC 9110 section 9.3.2), but
    for what streams or has a HEAD of its own.
    """

    #: HTTP method -> the method of the class that answers it, in the order of their definition.
    verbs: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    sections: ClassVar[Mapping[str, str]] = {}
    #: Methods that hand out elements, or stream them, with the types of their answers; see check_use().
    gives: ClassVar[Mapping[str, tuple[bytes, ...]]] = {}
    #: Whether they hand out something else when they are asked again.
    anew: ClassVar[bool] = True
    #: Preconditions that a method looks at itself, as RFC 9110 section 13.1 has them.
    conditions: ClassVar[Mapping[str, tuple[bytes, ...]]] = {}
    #: What the body of a POST is: its options; a value, or a form with one; or what the handler reads by itself.
    body: ClassVar[str] = "options"
    #: Whether the first RestMQ had this address: its clients' other fields pass.
    old: ClassVar[bool] = False
    hot = False  # whether it may be answered while others of its connection are still under way
    #: Cache-Control of good answers. A cache that keeps one would give an element twice, or show what was (RFC 9111).
    cache: ClassVar[bytes] = b"no-store"
    streams = False  # whether it takes the connection over: then there is nothing to answer who closed its side
    gone = False
    on_gone: list[Callable[[], None]] | None = None  # called when the client leaves before it is answered
    on_half: list[Callable[[], None]] | None = None  # called when it closes its side: it is still to be answered
    _streaming = False

    def __init_subclass__(cls) -> None:
        own = {word.upper(): verb for word, verb in vars(cls).items() if word.upper() in METHODS - {"OPTIONS"}}
        cls.verbs = {**cls.verbs, **own}
        if "GET" in cls.verbs and "HEAD" not in cls.verbs and not cls.streams:
            cls.verbs, cls.sections = _with_head(cls.verbs), _with_head(cls.sections)

    #: What handlers of queues use; a class that uses them declares what they are.
    services: object

    def __init__(self, application: Site, request: Request, **given: Any) -> None:
        self.application, self.server, self.services = application, application.server, application.services
        self.request = request
        request.handler = self
        if given:
            self.initialize(**given)

    def most(self) -> Most:
        """The most bytes that the body of a POST may have, by what it can mean here; other methods have LITTLE.

        An address whose bodies may be larger overrides it. Only the head of the request is there.
        """
        return Most()

    def judge(self) -> Most:
        """What the head alone decides: who may, which method, how large a body. Raises errors."""
        request = self.request
        self.allow(self.sections.get(request.method))
        if request.method not in self.verbs and request.method != "OPTIONS":
            raise self._not_allowed()
        if (request.fields.special or self.streams) and request.method != "OPTIONS":
            self._rare()
        if request.method == "POST" and self.body == "options":
            self._check_type()
        most = self.most() if request.method == "POST" else Most()
        if request.fields.length > most.bytes:
            raise most.passed(request.fields.length)
        return most

    def methods(self) -> tuple[str, ...]:
        """What may be asked of this address, for Allow."""
        return (*self.verbs, "OPTIONS")

    def _not_allowed(self) -> Error:
        method = self.request.method
        if method not in METHODS:  # they are told apart by case (RFC 9110 section 9.1)
            meant = f"; did you mean {method.upper()}?" if method.upper() in METHODS else ""
            return NotImplementedHere(f"the method {method} is not known here{meant}")
        return NotAllowed(f"{method} is not for this address", self.methods())

    def run(self, arguments: tuple[bytes, ...]) -> None:
        """Check, call the verb, and answer what it says."""
        request = self.request
        try:
            if not request.judged:
                self.allow(self.sections.get(request.method))
            verb = self.verbs.get(request.method)
            if verb is None and request.method == "OPTIONS":
                self.reply(self.told())
                return
            if verb is None:
                raise self._not_allowed()
            if request.fields.special or self.streams:
                if not request.judged:
                    self._rare()
                self._unzip()
            said = verb(self, *arguments)
        except TooManyGuesses as error:
            self._later(error, arguments)
            return
        except Exception as error:
            self.failed(error)
            return
        if said.__class__ is bytes or said.__class__ is Answer or said is None:
            self.reply(said)
        else:
            drive(said, self.reply, self.failed)

    def _later(self, refused: TooManyGuesses, arguments: tuple[bytes, ...]) -> None:
        """Begin anew when its password is looked at, or refuse it where no more may wait."""
        guesses = self.server.acl.guesses
        waits = guesses.later(refused, partial(self.run, arguments), self.failed) if guesses is not None else None
        if waits is None:
            self.failed(refused)
        else:
            self.on_gone = [*(self.on_gone or ()), waits.leave]

    def _rare(self) -> None:
        """What rare header lines ask for is refused where it is not done. Raises errors."""
        request = self.request
        kinds = self.gives.get(request.method)
        if kinds is not None:
            self.hands_out(kinds)
            if self.anew:
                self.hands_out_anew()
        elif request.method not in SAFE:
            self._check_conditions()
        if request.fields.length or request.fields.chunked:
            negotiation.check_charset(request.fields.values.get(b"content-type", b""))
            negotiation.zipped(request.fields.values)

    def hands_out(self, kinds: tuple[bytes, ...]) -> None:
        """Before anything is handed out: can this client use an answer of these types? Raises errors."""
        request = self.request
        if request.fields.special or self.streams:
            if kinds == (JSON,) and any(word == b"callback" for word, _ in request.query):
                kinds = SCRIPTS
            queue = request.raw_path.split(b"/")[2:3] or [value for word, value in request.query if word == b"queue"]
            named = queue[0].decode("utf-8", "replace")[:200] if queue else "NAME"
            negotiation.check_use(request.fields.values, kinds, named)
            self._check_conditions()

    def hands_out_anew(self) -> None:
        """Asked again, this hands out something else, whatever Idempotency-Key says. Raises BadRequest."""
        if b"idempotency-key" in self.request.fields.values:
            raise BadRequest(
                "an Idempotency-Key does not hold here: the same request once more hands out another element. Leave "
                "it out; take with a lease, and an element whose answer was lost comes again when its lease ends"
            )

    def _check_conditions(self) -> None:
        values, method = self.request.fields.values, self.request.method
        remedy = "" if b"if-match" not in values else "; a lease in If-Match goes with one element, at /q/NAME/N"
        negotiation.check_conditions(values, self.conditions.get(method, ()), remedy)

    def _check_type(self) -> None:
        """Raises UnsupportedMedia for a body that is neither a form nor JSON, by its type."""
        fields = self.request.fields
        kind = fields.values.get(b"content-type", b"")
        if kind and not (fields.form or fields.json):
            word = kind[:80].decode("latin-1")
            raise UnsupportedMedia(f"a body of type {word!a} is not read here: {READS}", ACCEPT_POST)

    def _unzip(self) -> None:
        """A gzip body becomes what it holds, within what the address takes. Raises BadRequest, TooLarge."""
        request = self.request
        valued = self.body == "value" and request.method == "POST"  # where no bytes are a value, too, and no gzip
        if (request.body or valued) and negotiation.zipped(request.fields.values):
            most = self.most() if request.method == "POST" else Most()
            request.connection.may_grow(request, min(most.bytes, UNZIPS * len(request.body)))
            body = negotiation.unzipped(request.body, most.bytes)
            if body is None:
                raise most.passed()
            request.connection.replaced(request, body)

    def allow(self, section: str | None) -> None:
        """Ask the ACL. What rests on the address alone is remembered on the connection."""
        acl = self.server.acl
        request = self.request
        acl.origins.admit(request)
        if section is not None:
            connection = request.connection
            if self.server.proxies is not None:
                connection.client(request.fields.values)  # forgets what another client was allowed
            if connection.allowed.get(section) != acl.generation and acl.check(section, request):
                connection.allowed[section] = acl.generation

    def told(self) -> Answer:
        """The answer to OPTIONS: the methods, and to a page of an allowed origin the header lines that it may send."""
        methods = ", ".join(self.methods()).encode("ascii")
        headers: list[tuple[bytes, bytes]] = [(b"Allow", methods)]
        if self.request.shared:
            asked = self.request.fields.values.get(b"access-control-request-headers", b"").lower()
            words = [word.strip(b" \t") for word in asked.split(b",", MOST_SENT)[:MOST_SENT]]
            sent = [word for word in words if word in MAY_SEND or _OPTION.match(word)]
            headers.append((b"Access-Control-Allow-Methods", methods))
            if sent:
                headers.append((b"Access-Control-Allow-Headers", b", ".join(sent)))
            headers.append((b"Access-Control-Max-Age", b"600"))
        return Answer(status=204, headers=tuple(headers))

    def did(self, what: str, **words: object) -> None:
        """One line in the log: who changed what. `what` is a format of twisted.logger, `words` fill it."""
        log.info("{who} " + what, who=self.request.remote_ip or NO_ADDRESS, **words)

    def left(self) -> None:
        """The client went before it was answered."""
        self.gone = True
        self._logged(CLIENT_LEFT, 0)
        for callback in self.on_gone or ():
            callback()

    def halved(self) -> None:
        """The client closed its side before it was answered, and may have left."""
        for callback in self.on_half or ():
            callback()

    def options(self, known: Mapping[str, Callable[[str], Any]], fields: tuple[str, ...] = ()) -> dict[str, Any]:
        """Options out of the query, RestMQ- headers and the body, in that order of weight.

        `known` maps names to parsers, which raise BadOption; `fields` are those of the body that
        field() reads. Raises BadOption for a name that is not known, but for old clients'; and for
        one that is empty, for it may be a variable that was not set.
        """
        request = self.request
        found: dict[str, str] = {}
        if request.body and not (self.body == "own" and request.method == "POST"):
            self._body_options(known, fields, found)
        if request.fields.twice:
            raise BadOption(f"the header {request.fields.twice!r} was given more than once")
        for header, value in request.fields.values.items() if request.fields.special else ():
            if header.startswith(b"restmq-"):
                word = header[7:].decode("ascii").replace("-", "_")
                if word not in known:
                    raise _unknown("header", "RestMQ-" + word, known)
                if _filled(word, value):
                    found[word] = _text(word, value)
        told = set()
        for raw, value in request.query if request.raw_query else ():
            word = raw.decode("utf-8", "replace")
            if word not in known and self.passes(word):
                continue
            if word not in known:
                raise _unknown("query parameter", word, known)
            if _filled(word, value):
                if word in told:
                    raise BadOption(f"the option {word!r} was given more than once in the query")
                told.add(word)
                found[word] = _text(word, value)
        return {word: known[word](text) for word, text in found.items()}

    def passes(self, word: str) -> bool:
        """Whether a query may have this word, though it is no option of this request."""
        return word in ("_", "callback") or word in self.old_words()

    def _body_options(self, known: Mapping[str, object], fields: tuple[str, ...], found: dict[str, str]) -> None:
        """Options that stand in the body; those that are not known pass in a form of an old address only."""
        given = self.given()
        passes = self.old and self.request.method == "POST" and not self._is_document()
        for raw, value in given:
            word = raw[:MAX_WORD].decode("utf-8", "replace")
            if word in known:
                if _filled(word, value):
                    if word in found:
                        raise BadOption(f"the option {word!r} was given more than once in the form")
                    found[word] = _text(word, value)
            elif not passes and word not in fields:
                raise _unknown("field", word, (*known, *fields))

    def given(self) -> list[tuple[bytes, bytes]]:
        """The fields of the body: of a form, or of a JSON object as a form would have them.

        Raises UnsupportedMedia for a body of another type, BadRequest for one that is malformed.
        """
        request = self.request
        if not request.body or (self.body == "value" and request.method == "POST"):
            return request.form
        if self._is_document():
            return [
                (word.encode("utf-8"), _field(word, value))
                for word, value in document.read(request.body, READS, most=FEW).items()
            ]
        if not request.fields.form:
            self._check_type()
            raise UnsupportedMedia(f"the body came without a Content-Type, and is no JSON: {READS}", ACCEPT_POST)
        return request.form

    def _is_document(self) -> bool:
        """Whether the body is a JSON object by its type or by its beginning: curl -d calls everything a form."""
        request = self.request
        if self.body == "value" and request.method == "POST":
            return False
        return request.fields.json or (request.fields.form != 2 and is_object(request.body))

    def old_words(self) -> tuple[str, ...]:
        """What old clients put in the query of a POST instead of its form."""
        old = self.old and self.request.method == "POST"
        return ("value", "msg", "queue", "policy", "status", "body", "ttl") if old else ()

    def field(self, *words: bytes) -> bytes | None:
        """A field of the body, or of the query as old clients have it; None when it is not there.

        The first of `words` that is there counts. Two of one are refused with BadRequest.
        """
        body = self.given() if self.body == "options" else self.request.form
        for given in (body, self.request.query if self.request.raw_query else []):
            there: list[bytes] = []
            for word in words:
                values = [value for found, value in given if found == word]
                if len(values) > 1:
                    raise BadRequest(f"the field {word.decode()!r} was given {len(values)} times")
                there += values
            if there:
                return there[0]
        return None

    def json(self, document: Any, end: bytes = b"\r\n") -> Answer:
        """A document as JSON, wrapped for JSONP when a callback was asked for."""
        return self.jsonp(json.dumps(document).encode("ascii"), end)

    def jsonp(self, body: bytes, end: bytes = b"\r\n") -> Answer:
        """JSON text as an answer, wrapped in `callback` when the query has one. Raises BadOption."""
        if self.request.raw_query:
            given = [value for word, value in self.request.query if word == b"callback"]
            if len(given) > 1:
                raise BadOption("the option 'callback' was given more than once in the query")
            for callback in given:
                _filled("callback", callback)
                if len(callback) > 64 or not _CALLBACK.match(callback):
                    raise BadOption("callback is no JavaScript name of at most 64 characters")
                charset = b"" if body.isascii() else b"; charset=utf-8"
                return Answer(b"%b(%b);%b" % (callback, body, end), 200, b"application/javascript" + charset)
        return Answer(body + end, 200, JSON)

    def stream(self, type: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Stream:
        """Answer 200 and keep the connection: chunked in HTTP/1.1, to its close in HTTP/1.0."""
        self._streaming = True
        request = self.request
        request.connection.freed(request)
        chunked = request.newer
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Connection: close\r\n"
        head = self.server.head(200, type, self.cache) + _lines((*headers, *request.shared)) + framing + b"\r\n"
        self._logged(200, 0)
        return Stream(request, head, chunked, raw=False, stall=self.server.config.stall)

    def upgrade(self, headers: tuple[tuple[bytes, bytes], ...]) -> Stream:
        """Answer 101 and keep the connection, raw both ways."""
        self._streaming = True
        self.request.connection.freed(self.request)
        self._logged(101, 0)
        head = self.server.head(101, b"") + _lines(headers) + b"\r\n"
        return Stream(self.request, head, False, raw=True, stall=self.server.config.stall)

    def failed(self, error: BaseException) -> None:
        """The one place that turns an error into an answer."""
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
            self.request.connection.freed(self.request)
        if self._streaming:
            self.request.connection.cut()
        elif not self.gone:
            self._write(error.render(), error.status, PROBLEM, error.headers)

    def reply(self, said: bytes | Answer | None) -> None:
        """Write what the verb says; None is for a stream that took over."""
        if self.gone:
            self.request.connection.freed(self.request)
        if self.gone or self._streaming:
            return
        try:
            if self.request.fields.special and said is not None:
                said = self._conditional(Answer(said) if isinstance(said, bytes) else said)
            if said.__class__ is bytes:
                self._write(said, 200, b"text/plain; charset=utf-8", ())
            elif isinstance(said, Answer):
                self._write(*said)
            else:
                raise TypeError(f"a verb answered {said!a}, which is neither bytes nor an Answer")
        except Exception as error:
            self.failed(error)

    def _conditional(self, said: Answer) -> Answer:
        """What was only looked at, if its preconditions hold (RFC 9110 section 13.2.1). Raises NotMatched."""
        method = self.request.method
        looked = said.status == 200 and method in ("GET", "HEAD") and method not in self.gives
        if looked and negotiation.unchanged(self.request.fields.values):
            return Answer(status=304)
        return said

    def _write(self, body: Any, status: int, kind: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """The one place that writes. Raises ValueError for a header that would break the head apart."""
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
        self._logged(status, len(body))

    def _logged(self, status: int, size: int) -> None:
        if self.server.access is not None:
            self.server.access(self.request, status, size)


def _with_head(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is there for GET is there for HEAD."""
    found: dict[str, Any] = {}
    for method, what in given.items():
        found[method] = what
        if method == "GET":
            found["HEAD"] = what
    return found


def _text(word: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadOption(f"{word} is not UTF-8") from None


def is_object(body: bytes) -> bool:
    """Whether a body begins as a JSON object does, perhaps with a byte order mark, which is told then."""
    return body[:64].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1] == b"{"


def _field(word: str, value: Any) -> bytes:
    if isinstance(value, document.Entries):  # which are long, so that one text of them all would be large
        return b",".join([_field(word, one) for one in value])
    text = document.plain(value)
    if text is None:
        raise BadOption(f"the field {word[:40]!a} must be a string, a number, true or false")
    return text.encode("utf-8")


def _filled(word: str, value: bytes) -> bool:
    """Whether an option has a value. Raises BadOption for an empty one, but where that always was none."""
    if not value and word not in BLANK:
        raise BadOption(f"the option {word!r} {EMPTY}")
    return value != b""


def _unknown(kind: str, word: str, known: Iterable[str]) -> BadOption:
    meant = hint(word.removeprefix("RestMQ-"), known)
    return BadOption(f"the {kind} {word[:80]!a} is not known to this request; {meant}")


def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header's value has a line break in it")
    return lines
