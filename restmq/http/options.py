"""The options and fields of one request: out of its query, its RestMQ- headers and its body.

Owns finding them, and refusing what is unknown, empty or given twice. Knows no route; the parsers of model/options.py
know what an option means. Read http/handler.py next, which every handler gets this with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, TypeVar

from restmq.http.request import Request
from restmq.model import document
from restmq.model.errors import BadOption, BadRequest, UnsupportedMedia
from restmq.model.options import EMPTY
from restmq.model.suggest import hint
from restmq.model.tokens import FEW

T = TypeVar("T")
#: Options that may be empty, and then count as absent: the page of a listing, and those that the first RestMQ allowed.
BLANK = ("after", "match", "ttl", "error")
SEND = 'send a form, or a JSON object, such as {"NAME": "VALUE"}'
ACCEPT_POST = ((b"Accept-Post", b"application/x-www-form-urlencoded, multipart/form-data, application/json"),)
MAX_NAME = 255  # bytes of a field's name that are compared: no known name is longer
#: Parameters that old clients put into the query of a POST, and not into its form.
OLD_PARAMETERS = ("value", "msg", "queue", "policy", "status", "body", "ttl")


class OptionReader:
    """The part of a handler that reads the options and fields of its request."""

    request: Request
    #: The body of a POST: its options; a value, or a form with one; or what the handler reads by itself ("own").
    body: ClassVar[str] = "options"
    #: Whether the first RestMQ had this address. Then unknown fields of its clients are ignored.
    old: ClassVar[bool] = False

    def options(self, known: Mapping[str, Callable[[str], T]], fields: tuple[str, ...] = ()) -> dict[str, T]:
        """Read the options of the request.

        An option in the query counts most, then one in a RestMQ- header, then the body.

        `known` maps names to parsers, which raise BadOption. `fields` are the body's fields that field() reads.

        Raises BadOption for a name that is not known, unless an old client sends it, and for an empty option, because
        the client's variable may not have been set.
        """
        request = self.request
        found: dict[str, str] = {}
        if request.body and not (self.body == "own" and request.method == "POST"):
            self._body_options(known, fields, found)
        if request.fields.twice:
            raise BadOption(f"the header {request.fields.twice!r} was given more than once")
        for header, value in request.fields.values.items() if request.fields.special else ():
            if header.startswith(b"restmq-"):
                option = header[7:].decode("ascii").replace("-", "_")
                if option not in known:
                    raise _unknown("header", "RestMQ-" + option, known)
                if has_value(option, value):
                    found[option] = _text(option, value)
        in_query = set()
        for raw, value in request.query if request.raw_query else ():
            option = raw.decode("utf-8", "replace")
            if option not in known and self.passes(option):
                continue
            if option not in known:
                raise _unknown("query parameter", option, known)
            if has_value(option, value):
                if option in in_query:
                    raise BadOption(f"the option {option!r} was given more than once in the query")
                in_query.add(option)
                found[option] = _text(option, value)
        return {option: known[option](text) for option, text in found.items()}

    def passes(self, parameter: str) -> bool:
        """Whether a query may have this parameter, though it is not an option of this request."""
        return parameter in ("_", "callback") or parameter in self.old_parameters()

    def old_parameters(self) -> tuple[str, ...]:
        """Parameters that old clients put into the query of a POST, and not into its form."""
        return OLD_PARAMETERS if self.old and self.request.method == "POST" else ()

    def _body_options(self, known: Mapping[str, object], fields: tuple[str, ...], found: dict[str, str]) -> None:
        """Read the options in the body. Unknown ones are ignored only in a form that is sent to an old address."""
        given = self.body_fields()
        ignores = self.old and self.request.method == "POST" and not self._is_document()
        for raw, value in given:
            option = raw[:MAX_NAME].decode("utf-8", "replace")
            if option in known:
                if has_value(option, value):
                    if option in found:
                        raise BadOption(f"the option {option!r} was given more than once in the form")
                    found[option] = _text(option, value)
            elif not ignores and option not in fields:
                raise _unknown("field", option, (*known, *fields))

    def body_fields(self) -> list[tuple[bytes, bytes]]:
        """The fields of the body: those of a form, or those of a JSON object as a form would have them.

        Raises UnsupportedMedia for a body of another type, BadRequest for a malformed one.
        """
        request = self.request
        if not request.body or (self.body == "value" and request.method == "POST"):
            return request.form
        if self._is_document():
            return [
                (name.encode("utf-8"), _form_value(name, value))
                for name, value in document.read(request.body, SEND, most=FEW).items()
            ]
        if not request.fields.form:
            self.check_type()
            raise UnsupportedMedia(f"the body came without a Content-Type, and is not JSON: {SEND}", ACCEPT_POST)
        return request.form

    def check_type(self) -> None:
        """Raise UnsupportedMedia if the body's type is neither a form nor JSON."""
        fields = self.request.fields
        kind = fields.values.get(b"content-type", b"")
        if kind and not (fields.form or fields.json):
            shown = kind[:80].decode("latin-1")
            raise UnsupportedMedia(f"a body of type {shown!a} is not read here: {SEND}", ACCEPT_POST)

    def _is_document(self) -> bool:
        """Whether the body is a JSON object, by its type or its beginning, because curl -d calls every body a form."""
        request = self.request
        if self.body == "value" and request.method == "POST":
            return False
        return request.fields.json or (request.fields.form != 2 and is_object(request.body))

    def field(self, *names: bytes) -> bytes | None:
        """A field of the body, or of the query as old clients send it. None if it is absent.

        The first of `names` that is present counts. Raises BadRequest if one name is present twice.
        """
        body = self.body_fields() if self.body == "options" else self.request.form
        for given in (body, self.request.query if self.request.raw_query else []):
            found: list[bytes] = []
            for name in names:
                values = [value for other, value in given if other == name]
                if len(values) > 1:
                    raise BadRequest(f"the field {name.decode()!r} was given {len(values)} times")
                found += values
            if found:
                return found[0]
        return None


def is_object(body: bytes) -> bool:
    """Whether a body begins as a JSON object does. A byte order mark before it is let pass, and refused later."""
    return body[:64].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1] == b"{"


def has_value(option: str, value: bytes) -> bool:
    """Whether an option has a value. Raises BadOption for an empty one, unless it may be empty."""
    if not value and option not in BLANK:
        raise BadOption(f"the option {option!r} {EMPTY}")
    return value != b""


def _text(option: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadOption(f"{option} is not UTF-8") from None


def _form_value(name: str, value: document.Json | document.Entries) -> bytes:
    if isinstance(value, document.Entries):  # Entries are long, so one text of all of them would be large
        return b",".join([_form_value(name, one) for one in value])
    text = document.plain(value)
    if text is None:
        raise BadOption(f"the field {name[:40]!a} must be a string, a number, true or false")
    return text.encode("utf-8")


def _unknown(kind: str, name: str, known: Iterable[str]) -> BadOption:
    meant = hint(name.removeprefix("RestMQ-"), known)
    return BadOption(f"the {kind} {name[:80]!a} is not known to this request; {meant}")
