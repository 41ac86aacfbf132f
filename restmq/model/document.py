"""A JSON object as a client sends it, read strictly (RFC 8259, RFC 7493).

Owns what makes a document good: what another reader might read another way, or
could not read at all, is refused, and the error says which part it is. Knows
nothing of what the fields mean. Read model/options.py next.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, and undocumented
from typing import Any

from restmq.model import tokens, wide
from restmq.model.element import PIECE, not_utf8
from restmq.model.errors import BadRequest, TooLarge

DIGITS = 309  # of a whole number: a longer one is beyond IEEE 754's doubles (RFC 7493 section 2.2)
_SPACES = re.compile(r"[ \t\r\n]*")  # RFC 8259 section 2
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BOM = b"\xef\xbb\xbf"


class Unclear(BadRequest):
    """It is JSON, but of a kind that other readers read another way, or not at all (RFC 7493)."""


class Document(dict[str, Any]):
    """The fields of an object.

    `opaque` is UTF-8, b"" without such a field: what the field says if it is a string, else its JSON text.
    """

    opaque = b""


class Entries(Iterable[Any]):
    """A list of a large document: each entry is read when its turn comes, for all at once would be large.

    `narrow` has the same shape as `text`, and its list begins at `start` and has `many` entries.
    """

    def __init__(self, text: bytes, narrow: str, start: int, many: int) -> None:
        self._text = text
        self._narrow = narrow
        self._start = start
        self._many = many

    def __len__(self) -> int:
        return self._many

    def __iter__(self) -> Iterator[Any]:
        end = self._start
        for _ in range(self._many):
            start = _space(self._narrow, end + 1)  # behind the bracket, or a comma
            end = _PASSED.raw_decode(self._narrow, start)[1]
            if end - start > PIECE:
                raise TooLarge(f"an entry of a list has {end - start} bytes; {PIECE} are the most")
            yield _small(self._text[start:end])
            end = _space(self._narrow, end)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise _twice(next(name for name, many in names.items() if many > 1))
    return found


def _twice(name: str) -> Unclear:
    return Unclear(f"the name {name[:40]!a} stands twice in one JSON object, and it is not clear which is meant")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Unclear(f"the number {digits[:20]}… has {len(digits)} digits: no JSON reader has to know such a one")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Unclear(f"the number {digits[:20]} is larger than a JSON reader has to know")
    return number


def _constant(word: str) -> None:
    raise ValueError(f"{word} is Python's and JavaScript's, not JSON's")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_real, parse_constant=_constant)
#: For what is passed on as it stands: it must be JSON, and nobody here reads its numbers.
_PASSED = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_constant)


def read(text: bytes, wanted: str, opaque: str = "", most: int = tokens.MOST) -> Document:
    """The fields of an object. `wanted` says what to send, and `opaque` names a field that is only passed on.

    `most` bounds the tokens of the text: raises TooLarge for more. A text of more than 64 KiB is read in pieces:
    its lists are Entries then, unless there is an opaque field, and all else has 64 KiB at the most.
    Raises BadRequest for what is no JSON object, or nested too deep, for NaN and a byte order mark; Unclear
    for a name that stands twice, a number that is too large, and a lone surrogate.
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
        raise BadRequest(f"this is no JSON: {error}; {wanted}") from None
    except _NoObject:
        raise BadRequest(f"this is JSON, but no object: {wanted}") from None
    if _SURROGATE.search(decoded):
        for name, value in found.items():
            _check_text(name, None if name == opaque else value)
    return found


class _NoObject(Exception):
    """It is JSON of another kind."""


def _check_utf8(text: bytes) -> None:
    """Raises BadRequest for what is not UTF-8 without a byte order mark (RFC 8259 section 8.1)."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in text[:4]:
        raise BadRequest("this is UTF-16 or UTF-32, but JSON is UTF-8 (RFC 8259 section 8.1)")
    wrong = -1 if text.isascii() else not_utf8(text)
    if wrong >= 0:
        raise BadRequest(f"this is no JSON: it is not UTF-8, byte {wrong} cannot stand there")
    if text[:3] == _BOM:
        raise BadRequest(
            "this begins with a byte order mark (U+FEFF), which JSON must not (RFC 8259 section 8.1): save it without"
        )


def _space(text: str, at: int) -> int:
    """The position after white space."""
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, what: str) -> int:
    """The position after the character `what`, which must stand there."""
    if text[at : at + 1] != what:
        raise json.JSONDecodeError(f"Expecting {what!r}", text, at)
    return at + 1


def _members(text: str, strict: bool, opaque: str) -> Iterator[tuple[str, Any, tuple[int, int], tuple[int, int]]]:
    """The object's members one after the other, so that each error can name its field.

    Each is a name, a value, and where the name stands in its quotes, and the value.
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
    """The same for a large text: its members are looked for in its narrow form, and then read where they stand."""
    narrow, room = wide.narrow(text), PIECE
    for _, value, (begins, ends), (start, end) in _members(narrow, False, ""):
        room = _left(room, begins, ends)
        name = _said("", text, begins - 1, ends + 1).decode("utf-8")
        if name in found:
            raise _twice(name)
        if name == opaque:
            found[name] = None
            found.opaque = _said(name, text, start, end)
        elif isinstance(value, list) and not opaque:
            found[name] = Entries(text, narrow, start, len(value))
        else:
            room = _left(room, start, end)
            found[name] = _small(text[start:end])


def _left(room: int, start: int, end: int) -> int:
    """What is left of the room for names, and for values that are neither passed on nor a list."""
    if end - start > room:
        raise TooLarge(f"this JSON has more than {PIECE} bytes in names and in fields that take a word or a number")
    return room - (end - start)


def _small(text: bytes) -> Any:
    """The value of a text of at most 64 KiB, which is known to be JSON."""
    decoded = text.decode("utf-8")
    value = _value("a value", _STRICT, decoded, 0)[0]
    if _SURROGATE.search(decoded):
        _check_text("", value)
    return value


def _said(name: str, text: bytes, start: int, end: int) -> bytes:
    """What a value says if it is a string, else its text."""
    if text[start : start + 1] != b'"':
        return text[start:end]
    try:
        return wide.said(text, start + 1, end - 1)
    except UnicodeEncodeError:
        raise _lone(name) from None


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _lone(name) from None


def _lone(name: str) -> Unclear:
    """Half a character (RFC 7493 section 2.1), which no other program could read."""
    return Unclear(f"the field {name[:40]!a} has a lone surrogate in it, which is no text")


def _value(what: str, decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except RecursionError:
        raise BadRequest(f"{what} is nested too deep: a hundred levels are sure to be read") from None


def _check_text(name: str, value: Any) -> None:
    """Raises Unclear for a lone surrogate."""
    _utf8(name, json.dumps([name, value], ensure_ascii=False))


def plain(value: Any) -> str | None:
    """A field that is an option, as people write it in a form; None when it cannot be one.

    True and false are words, null is empty, a list of strings stands with commas.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return written(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return None


def written(value: str | float) -> str:
    """A string, or a number as people write it: 0.00001 and not 1e-05, up to nine digits behind the dot."""
    if isinstance(value, float):
        text = f"{value:.9f}".rstrip("0")
        return text + "0" if text.endswith(".") else text
    return str(value)
