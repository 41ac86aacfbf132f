"""The fields of a query or a form: application/x-www-form-urlencoded, and multipart/form-data (RFC 7578).

Owns taking them apart, byte for byte; knows no request. What another parser might
read another way is refused. Read request.py next.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from restmq import errors
from restmq.head import LINE, TOKEN

MAX_FIELDS = 100

_QUOTED = rb'"((?:[^"\\\r\n]|\\[^\r\n])*)"'
_BOUNDARY = re.compile(rb";[ \t]*boundary=(?:" + _QUOTED + rb"|(" + TOKEN + rb"+))[ \t]*(?:;|\Z)", re.IGNORECASE)
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + TOKEN + rb"+)=(?:" + _QUOTED + rb"|(" + TOKEN + rb"+))")


def _plain(part: bytes) -> bytes:
    return unquote_to_bytes(part.replace(b"+", b" "))


def pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a query or form (application/x-www-form-urlencoded), doubles and blank ones too.

    Raises BadRequest for more than 100 fields.
    """
    if not text:
        return []
    found = text.split(b"&", MAX_FIELDS + 1)
    if len(found) > MAX_FIELDS:
        raise errors.BadRequest(f"more than {MAX_FIELDS} fields")
    halves = (part.partition(b"=") for part in found if part)
    return [(_plain(name), _plain(value)) for name, _, value in halves]


def multipart(kind: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of multipart/form-data (RFC 7578), files by their field's name; values byte for byte.

    Raises BadRequest for more than 100 parts, and for what another parser might read another way.
    """
    found = _BOUNDARY.search(kind)
    boundary = (found[1] or found[2]) if found else b""
    if not 1 <= len(boundary) <= 70:
        raise errors.BadRequest("multipart/form-data without a boundary of 1 to 70 characters")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_FIELDS + 2)
    if len(parts) > MAX_FIELDS + 2:
        raise errors.BadRequest(f"more than {MAX_FIELDS} fields")
    end = parts[-1].lstrip(b" \t")
    if len(parts) < 2 or end[:2] != b"--" or end[2:].lstrip(b" \t")[:2] not in (b"", b"\r\n"):
        raise errors.BadRequest("multipart/form-data whose last boundary is missing")
    return [_part(part) for part in parts[1:-1]]


def _part(part: bytes) -> tuple[bytes, bytes]:
    """One part's name and value."""
    head, gap, value = part.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if not gap or lines[0].strip(b" \t"):
        raise errors.BadRequest("a part of multipart/form-data is malformed")
    name = None
    for line in lines[1:]:
        if not LINE.match(line):
            raise errors.BadRequest("a header line of multipart/form-data is malformed")
        word, _, text = line.partition(b":")
        word, text = word.lower(), text.strip(b" \t")
        if word == b"content-disposition":
            if name is not None:
                raise errors.BadRequest("a part of multipart/form-data has two Content-Disposition")
            name = _name(text)
        elif word == b"content-transfer-encoding" and text.lower() not in (b"7bit", b"8bit", b"binary"):
            raise errors.BadRequest("multipart/form-data is not decoded: send it as it is (RFC 7578 section 4.7)")
    if name is None:
        raise errors.BadRequest("a part of multipart/form-data has no name")
    return name, value


def _name(disposition: bytes) -> bytes | None:
    """The name in a Content-Disposition, None when there is none. Raises BadRequest for two, or nonsense."""
    kind, at = disposition.partition(b";")[0], len(disposition.partition(b";")[0])
    if kind.strip(b" \t").lower() != b"form-data":
        raise errors.BadRequest("a part of multipart/form-data is no form-data")
    names = []
    while at < len(disposition):
        found = _PARAMETER.match(disposition, at)
        if not found:
            raise errors.BadRequest("a Content-Disposition of multipart/form-data is malformed")
        if found[1].lower() == b"name":
            names.append(found[3] if found[2] is None else re.sub(rb"\\(.)", rb"\1", found[2]))
        at = found.end()
    if len(names) > 1:
        raise errors.BadRequest("a part of multipart/form-data has two names")
    return names[0] if names else None
