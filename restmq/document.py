"""A JSON object as a client sends it, read strictly (RFC 8259, RFC 7493).

Owns what makes a document good: what another reader might read another way, or
could not read at all, is refused, and the error says which part it is. Knows
nothing of what the fields mean. Read options.py next.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, and undocumented
from typing import Any

from restmq import tokens
from restmq.errors import BadRequest

DIGITS = 309  # of a whole number: a longer one is beyond IEEE 754's doubles (RFC 7493 section 2.2)
_SPACES = re.compile(r"[ \t\r\n]*")  # RFC 8259 section 2
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BOM = "\ufeff"


class Unclear(BadRequest):
    """It is JSON, but of a kind that other readers read another way, or not at all (RFC 7493)."""


class Document(dict[str, Any]):
    """The fields of an object. `opaque` is the text of the field that is not looked into, "" without one."""

    opaque = ""


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


def read(text: bytes | str, wanted: str, opaque: str = "", most: int = tokens.MOST) -> Document:
    """The fields of an object. `wanted` says what to send, and `opaque` names a field that is only passed on.

    `most` bounds the tokens of the text: raises TooLarge for more.
    Raises BadRequest for what is no JSON object, or nested too deep, for NaN and a byte order mark; Unclear
    for a name that stands twice, a number that is too large, and a lone surrogate.
    """
    tokens.bounded(text, most)
    decoded = _decoded(text)
    found = Document()
    try:
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


def _decoded(text: bytes | str) -> str:
    """The text, which is UTF-8 without a byte order mark (RFC 8259 section 8.1)."""
    if isinstance(text, bytes):
        if text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in text[:4]:
            raise BadRequest("this is UTF-16 or UTF-32, but JSON is UTF-8 (RFC 8259 section 8.1)")
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"this is no JSON: it is not UTF-8, byte {error.start} cannot stand there") from None
    if text[:1] == _BOM:
        raise BadRequest(
            "this begins with a byte order mark (U+FEFF), which JSON must not (RFC 8259 section 8.1): save it without"
        )
    return text


def _space(text: str, at: int) -> int:
    """The position after white space."""
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, what: str) -> int:
    """The position after the character `what`, which must stand there."""
    if text[at : at + 1] != what:
        raise json.JSONDecodeError(f"Expecting {what!r}", text, at)
    return at + 1


def _fill(found: Document, text: str, opaque: str) -> None:
    """Read the object's fields, one after the other, so that each error can name its field."""
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        _value("the document", _STRICT, text, at)
        raise _NoObject
    at = _space(text, at + 1)
    if text[at : at + 1] != "}":
        while True:
            name, at = scanstring(text, _expect(text, at, '"'))
            if name in found:
                raise _twice(name)
            start = _space(text, _expect(text, _space(text, at), ":"))
            passed = name == opaque
            found[name], at = _value(f"the field {name[:40]!a}", _PASSED if passed else _STRICT, text, start)
            if passed:
                found.opaque = text[start:at]
            at = _space(text, at)
            if text[at : at + 1] != ",":
                break
            at = _space(text, at + 1)
    at = _space(text, _expect(text, at, "}"))
    if at < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _value(what: str, decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except RecursionError:
        raise BadRequest(f"{what} is nested too deep: a hundred levels are sure to be read") from None


def _check_text(name: str, value: Any) -> None:
    """Raises BadRequest for half a character (RFC 7493 section 2.1), which no other program could read."""
    try:
        json.dumps([name, value], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Unclear(f"the field {name[:40]!a} has a lone surrogate in it, which is no text") from None


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
