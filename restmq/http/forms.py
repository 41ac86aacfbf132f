"""The fields of a form: multipart/form-data (RFC 7578), and the charset of all forms.

Owns taking forms apart, byte for byte. Knows no request. A form that another parser might read differently is refused.
Read http/request.py next.
"""

from __future__ import annotations

import re

from restmq.http.headers import LINE, TOKEN
from restmq.http.negotiation import check_charset, named_utf_8
from restmq.model import errors
from restmq.model.urlencoded import MAX_FIELDS

MAX_PART = 8192  # most bytes of a part's header lines
MAX_LINES = 20  # most lines of a part, and parameters of a header

_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + TOKEN + rb'+)=(?:"([^"]*)"|(' + TOKEN + rb"+))")


def multipart(kind: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of multipart/form-data (RFC 7578). Files have their field's name, and values are kept byte for byte.

    Raises BadRequest for more than 100 parts, and for a form that another parser might read differently.
    """
    boundaries = [value for name, value in _parameters(kind, "the Content-Type") if name == b"boundary"]
    if len(boundaries) != 1 or not 1 <= len(boundaries[0]) <= 70:
        raise errors.BadRequest("multipart/form-data needs one boundary of 1 to 70 characters")
    line = b"\r\n--" + boundaries[0]
    at = len(line) - 2 if body.startswith(line[2:]) else _behind(body, line, 0)
    found: list[tuple[bytes, bytes]] = []
    while body[at : at + MAX_PART].lstrip(b" \t")[:2] != b"--":
        until = body.find(line, at)
        if until < 0:
            raise errors.BadRequest("the last boundary of multipart/form-data is missing")
        if len(found) >= MAX_FIELDS:
            raise errors.BadRequest(f"there are more than {MAX_FIELDS} fields")
        found.append(_part(body, at, until))
        at = until + len(line)
    end = body[at : at + MAX_PART].lstrip(b" \t")[2:].lstrip(b" \t")[:2]
    if end not in (b"", b"\r\n") or body.find(line, at) >= 0:
        raise errors.BadRequest("the last boundary of multipart/form-data is missing")
    return found


def _behind(body: bytes, line: bytes, at: int) -> int:
    found = body.find(line, at)
    if found < 0:
        raise errors.BadRequest("the last boundary of multipart/form-data is missing")
    return found + len(line)


def _part(body: bytes, at: int, end: int) -> tuple[bytes, bytes]:
    """The name and value of the part in body[at:end]."""
    gap = body.find(b"\r\n\r\n", at, min(end, at + MAX_PART))
    lines = body[at : max(gap, at)].split(b"\r\n", MAX_LINES)
    if gap < 0 or lines[0].strip(b" \t") or b"\r\n" in lines[-1]:
        raise errors.BadRequest("a part of multipart/form-data is malformed, or its head is too long")
    name = None
    for line in lines[1:]:
        if not LINE.match(line):
            raise errors.BadRequest("a header line of multipart/form-data is malformed")
        header, _, text = line.partition(b":")
        header, text = header.lower(), text.strip(b" \t")
        if header == b"content-disposition":
            if name is not None:
                raise errors.BadRequest("a part of multipart/form-data has two Content-Disposition lines")
            name = _name(text)
        elif header == b"content-type":
            check_charset(text)
        elif header == b"content-encoding":
            raise errors.UnsupportedMedia("a part has a Content-Encoding of its own: compress the whole body")
        elif header == b"content-transfer-encoding" and text.lower() not in (b"7bit", b"8bit", b"binary"):
            raise errors.BadRequest("multipart/form-data is not decoded: send it as it is (RFC 7578 section 4.7)")
    if name is None:
        raise errors.BadRequest("a part of multipart/form-data has no name")
    return name, body[gap + 4 : end]


def _name(disposition: bytes) -> bytes | None:
    """The name in a Content-Disposition, or None. Raises BadRequest for two names, and for a malformed one."""
    if disposition.partition(b";")[0].strip(b" \t").lower() != b"form-data":
        raise errors.BadRequest("a part of multipart/form-data is not form-data")
    names = [value for name, value in _parameters(disposition, "a Content-Disposition") if name == b"name"]
    if len(names) > 1:
        raise errors.BadRequest("a part of multipart/form-data has two names")
    return names[0] if names else None


def _parameters(text: bytes, what: str) -> list[tuple[bytes, bytes]]:
    """The parameters after a header's first word (RFC 9110 section 5.6.6). Raises BadRequest, which names `what`."""
    at = len(text.partition(b";")[0])
    # `flat` is as long as the text, and a quoted value in it ends at the next quote. No header line has a NUL in it.
    flat = text.replace(b"\\\\", b"\0\0").replace(b'\\"', b"\0\0")
    found: list[tuple[bytes, bytes]] = []
    while at < len(text):
        one = _PARAMETER.match(flat, at)
        if not one or len(found) >= MAX_LINES:
            raise errors.BadRequest(f"{what} of multipart/form-data is malformed")
        group = 3 if one[2] is None else 2
        value = text[one.start(group) : one.end(group)]
        if group == 2 and b"\\" in value:
            value = value.replace(b"\\\\", b"\0").replace(b"\\", b"").replace(b"\0", b"\\")
        found.append((one[1].lower(), value))
        at = one.end()
    return found


def check(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A form's fields, if its field `_charset_` is absent or names UTF-8 (RFC 7578 section 4.6).

    Raises UnsupportedMedia.
    """
    for name, value in fields:
        if name == b"_charset_":
            named_utf_8(value)
    return fields
