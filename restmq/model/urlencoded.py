"""application/x-www-form-urlencoded, and percent-encoding (RFC 3986 section 2.1).

Owns decoding them, byte for byte. Knows neither requests nor HTTP. Read http/forms.py next.
"""

from __future__ import annotations

import binascii
import re

from restmq.model import errors

MAX_FIELDS = 100
PIECE = 64 << 10  # bytes decoded at a time, so that decoding takes little memory
#: A percent sign that does not begin an escape (RFC 3986 section 2.1).
BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BROKEN_RUN = re.compile(rb"(?:%(?![0-9A-Fa-f]{2})[^%]*)+")
#: Maps hexadecimal digits to 0, the percent sign to itself, and everything else to x.
_MASK = bytes(
    ord("0") if byte in b"0123456789abcdefABCDEF" else byte if byte == ord("%") else ord("x") for byte in range(256)
)


def unquote(text: bytes) -> bytes:
    """Decode percent-encoding as urllib.parse.unquote_to_bytes does, in linear time and with little memory.

    A percent sign without two hexadecimal digits after it stays as it is.
    """
    if b"%" not in text:
        return text
    if len(text) <= PIECE:
        return _piece(text)
    found, at = [], 0
    while at < len(text):
        end = at + PIECE
        if end < len(text):
            cut = text.rfind(b"%", end - 2, end)  # a piece must not end inside an escape
            end = end if cut < 0 else cut
        found.append(_piece(text[at:end]))
        at = end
    return b"".join(found)


def _piece(text: bytes) -> bytes:
    """Decode one piece with the decoder of quoted-printable, which is written in C.

    It escapes with = (RFC 2045 section 6.7).
    """
    good, every = text.translate(_MASK).count(b"%00"), text.count(b"%")
    if not good:
        return text
    text = text.replace(b"=", b"%3D")
    if good < every:
        if b"%%" in text:
            text = text.replace(b"%%", b"%25%").replace(b"%%", b"%25%")
        if 20 * good <= every - good:  # few matches, with one call for each
            text = _BROKEN_RUN.sub(lambda run: run[0].replace(b"%", b"%25"), text)
        else:
            text = BROKEN.sub(b"%25", text)
    return binascii.a2b_qp(text.replace(b"%", b"="))


def _plain(part: bytes) -> bytes:
    return unquote(part.replace(b"+", b" "))


def pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a query or form (application/x-www-form-urlencoded). Repeated and blank fields are kept.

    Raises BadRequest for more than 100 fields.
    """
    if not text:
        return []
    if text.count(b"&") >= MAX_FIELDS:
        raise errors.BadRequest(f"there are more than {MAX_FIELDS} fields")
    halves = (part.partition(b"=") for part in text.split(b"&") if part)
    return [(_plain(name), _plain(value)) for name, _, value in halves]
