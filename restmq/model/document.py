"""A JSON object that a client sends, read strictly (RFC 8259, RFC 7493).

Owns the rules for a document. Text that another reader might understand differently, or could not read at all, is
refused. The error names the part that is wrong. Knows nothing of what the fields mean. Read model/options.py next.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # it exists, but is not documented
from typing import Union

from restmq.model import tokens, wide
from restmq.model.element import PIECE, not_utf8
from restmq.model.errors import BadRequest, TooLarge

#: What a JSON text can mean.
Json = Union[None, bool, int, float, str, list["Json"], dict[str, "Json"]]

DIGITS = 309  # most digits of a whole number: a longer one exceeds IEEE 754's doubles (RFC 7493 section 2.2)
_SPACES = re.compile(r"[ \t\r\n]*")  # RFC 8259 section 2
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BOM = b"\xef\xbb\xbf"


class Unclear(BadRequest):
    """The text is JSON, but other readers may understand it differently, or cannot read it (RFC 7493)."""


class Document(dict[str, Union[Json, "Entries"]]):
    """The fields of an object.

    `opaque` is the field that is only passed on, as UTF-8: the string's content, or the JSON text of any other value.
    It is b"" if there is no such field.
    """

    opaque = b""


class Entries(Iterable[Json]):
    """A list in a large document.

    Each entry is read when its turn comes, because all entries at once would take much memory.

    `narrow` has the same shape as `text`. The list begins at `start` in both, and has `many` entries.
    """

    def __init__(self, text: bytes, narrow: str, start: int, many: int) -> None:
        self._text = text
        self._narrow = narrow
        self._start = start
        self._many = many

    def __len__(self) -> int:
        return self._many

    def __iter__(self) -> Iterator[Json]:
        end = self._start
        for _ in range(self._many):
            start = _space(self._narrow, end + 1)  # after the bracket, or a comma
            end = _PASSED.raw_decode(self._narrow, start)[1]
            if end - start > PIECE:
                raise TooLarge(f"an entry of a list has {end - start} bytes; at most {PIECE} are allowed")
            yield _small(self._text[start:end])
            end = _space(self._narrow, end)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise _twice(next(name for name, many in names.items() if many > 1))
    return found


def _twice(name: str) -> Unclear:
    return Unclear(f"the name {name[:40]!a} stands twice in one JSON object, so it is not clear which one is meant")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Unclear(f"the number {digits[:20]}… has {len(digits)} digits: JSON readers need not read so many")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Unclear(f"the number {digits[:20]} is larger than JSON readers need to read")
    return number


def _constant(word: str) -> None:
    raise ValueError(f"{word} exists in Python and JavaScript, but not in JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_real, parse_constant=_constant)
#: For a value that is passed on unchanged. It must be JSON, but RestMQ does not read its numbers.
_PASSED = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_constant)


def read(text: bytes, wanted: str, opaque: str = "", most: int = tokens.MOST) -> Document:
    """Read the fields of an object.

    `wanted` tells the client what to send, and `opaque` names a field that is only passed on.

    `most` bounds the tokens of the text. A text of more than 64 KiB is read in pieces: its lists are Entries then,
    unless there is an opaque field, and everything else has 64 KiB at most.

    Raises:

    - TooLarge for more than `most` tokens
    - BadRequest for text that is not a JSON object, or is nested too deep, and for NaN and a byte order mark
    - Unclear for a name that stands twice, a number that is too large, and a lone surrogate
    """
    tokens.bounded(text, most)
    _check_utf8(text)
    found = Document()
    try:
        if len(text) > PIECE:
            _fill_large(found, text, opaque)
            return found
        decoded = text.decode("utf-8")
        _fill(found, decoded, opaque)
    except ValueError as error:
        raise BadRequest(f"this is not JSON: {error}; {wanted}") from None
    except _NoObject:
        raise BadRequest(f"this is JSON, but not an object: {wanted}") from None
    if _SURROGATE.search(decoded):
        for name, value in found.items():
            _check_text(name, None if name == opaque else value)
    return found


class _NoObject(Exception):
    """The text is JSON, but not an object."""


def _check_utf8(text: bytes) -> None:
    """Raise BadRequest for text that is not UTF-8 without a byte order mark (RFC 8259 section 8.1)."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in text[:4]:
        raise BadRequest("this is UTF-16 or UTF-32, but JSON is UTF-8 (RFC 8259 section 8.1)")
    wrong = -1 if text.isascii() else not_utf8(text)
    if wrong >= 0:
        raise BadRequest(f"this is not JSON: it is not UTF-8, byte {wrong} cannot stand there")
    if text[:3] == _BOM:
        raise BadRequest(
            "this begins with a byte order mark (U+FEFF), which JSON must not have (RFC 8259 section 8.1): "
            "save it without one"
        )


def _space(text: str, at: int) -> int:
    """The position after white space."""
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, what: str) -> int:
    """The position after the character `what`. Raises JSONDecodeError if another one stands there."""
    if text[at : at + 1] != what:
        raise json.JSONDecodeError(f"Expecting {what!r}", text, at)
    return at + 1


def _members(text: str, strict: bool, opaque: str) -> Iterator[tuple[str, Json, tuple[int, int], tuple[int, int]]]:
    """Yield the object's members one after the other, so that each error can name its field.

    A member is a name, its value, the place of the name inside its quotes, and the place of the value.
    """
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        _value("the document", _STRICT, text, at)
        raise _NoObject
    at = _space(text, at + 1)
    if text[at : at + 1] != "}":
        while True:
            begins = _expect(text, at, '"')
            name, at = scanstring(text, begins)
            start = _space(text, _expect(text, _space(text, at), ":"))
            decoder = _STRICT if strict and name != opaque else _PASSED
            value, end = _value(f"the field {name[:40]!a}", decoder, text, start)
            yield name, value, (begins, at - 1), (start, end)
            at = _space(text, end)
            if text[at : at + 1] != ",":
                break
            at = _space(text, at + 1)
    at = _space(text, _expect(text, at, "}"))
    if at < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _fill(found: Document, text: str, opaque: str) -> None:
    for name, value, _, (start, end) in _members(text, True, opaque):
        if name in found:
            raise _twice(name)
        found[name] = value
        if name == opaque:
            found.opaque = _utf8(name, value if isinstance(value, str) else text[start:end])


def _fill_large(found: Document, text: bytes, opaque: str) -> None:
    """Read a large text: find its members in the narrow form, then read each one where it stands."""
    narrow, room = wide.narrow(text), PIECE
    for _, value, (begins, ends), (start, end) in _members(narrow, False, ""):
        room = _left(room, begins, ends)
        name = _content("", text, begins - 1, ends + 1).decode("utf-8")
        if name in found:
            raise _twice(name)
        if name == opaque:
            found[name] = None
            found.opaque = _content(name, text, start, end)
        elif isinstance(value, list) and not opaque:
            found[name] = Entries(text, narrow, start, len(value))
        else:
            room = _left(room, start, end)
            found[name] = _small(text[start:end])


def _left(room: int, start: int, end: int) -> int:
    """The bytes that are left for names, and for values that are neither passed on nor a list. Raises TooLarge."""
    if end - start > room:
        raise TooLarge(f"this JSON has more than {PIECE} bytes in names and in fields that take a word or a number")
    return room - (end - start)


def _small(text: bytes) -> Json:
    """The value of a text of at most 64 KiB, which is known to be JSON."""
    decoded = text.decode("utf-8")
    value = _value("a value", _STRICT, decoded, 0)[0]
    if _SURROGATE.search(decoded):
        _check_text("", value)
    return value


def _content(name: str, text: bytes, start: int, end: int) -> bytes:
    """The content of a value that is a string, or the JSON text of any other value."""
    if text[start : start + 1] != b'"':
        return text[start:end]
    try:
        return wide.content(text, start + 1, end - 1)
    except UnicodeEncodeError:
        raise _lone(name) from None


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _lone(name) from None


def _lone(name: str) -> Unclear:
    """The error for half a character (RFC 7493 section 2.1), which no other program could read."""
    return Unclear(f"the field {name[:40]!a} has a lone surrogate in it, which is not text")


def _value(what: str, decoder: json.JSONDecoder, text: str, at: int) -> tuple[Json, int]:
    try:
        return decoder.raw_decode(text, at)
    except RecursionError:
        raise BadRequest(f"{what} is nested too deep: RestMQ reads at least 100 levels") from None


def _check_text(name: str, value: Json | Entries) -> None:
    """Raise Unclear for a lone surrogate."""
    _utf8(name, json.dumps([name, value], ensure_ascii=False))


def plain(value: Json | Entries) -> str | None:
    """A field that is an option, written as people write it in a form. None if the value cannot be an option.

    True and false become words, null becomes empty, and a list of strings is joined with commas.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return written(value)
    if isinstance(value, list):
        words = [one for one in value if isinstance(one, str)]
        return ",".join(words) if len(words) == len(value) else None
    return None


def written(value: str | float) -> str:
    """A string, or a number as people write it: 0.00001 and not 1e-05, with up to nine digits after the point."""
    if isinstance(value, float):
        text = f"{value:.9f}".rstrip("0")
        return text + "0" if text.endswith(".") else text
    return str(value)
