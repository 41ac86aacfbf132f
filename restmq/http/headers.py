"""A request's header lines, checked: what they say of the request's end, of its host, and of the connection.

Owns the rules by which every reader finds the same head (RFC 9110, RFC 9112). Knows no connection. Read http/forms.py
next.
"""

from __future__ import annotations

import re

from restmq.http.negotiation import listed, media_type, unusual
from restmq.model import errors

MAX_HEADERS = 100

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD = TOKEN + rb"+:[\t -~\x80-\xff]*"
LINE = re.compile(FIELD + rb"\Z")
#: An address in brackets or a name, and a port (RFC 9110 section 7.2 and RFC 3986 section 3.2.2).
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")


class Fields:
    """One header block, checked. The same bytes give the same object, so the object is never changed.

    `values` maps names in lower case to values. If a name stands twice, its values are joined with a comma (RFC 9110
    section 5.2). `twice` is a RestMQ- option that stands twice.

    Raises errors for a block that leaves the request's end or its host in doubt.
    """

    __slots__ = ("block", "chunked", "close", "expects", "form", "json", "keep", "length", "special", "twice", "values")

    def __init__(self, block: bytes, newer: bool) -> None:
        self.block = block
        values: dict[bytes, bytes] = {}
        self.values = values
        self.twice = ""
        if block.count(b"\n") > MAX_HEADERS:
            raise errors.HeadTooLarge(f"there are more than {MAX_HEADERS} header lines")
        for line in block.split(b"\r\n"):
            if not line:
                continue
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            if name in values:
                if name in (b"host", b"content-type"):
                    raise errors.BadRequest(f"{name.decode()} must stand exactly once")
                if name == b"content-length":
                    if values[name] != value:
                        raise errors.BadRequest("there are two Content-Length lines, and they differ")
                    continue
                if name.startswith(b"restmq-"):
                    self.twice = name.decode("ascii")
                value = values[name] + b", " + value
            values[name] = value
        host = values.get(b"host", b"")
        if newer and not host:
            raise errors.BadRequest("Host must stand exactly once, and name a host (RFC 9110 section 7.2)")
        if host and not _HOST.match(host):
            raise errors.BadRequest("Host is not a host: send a name or an address, and perhaps a port")
        coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
        self.chunked = coding is not None
        self.length = 0
        if coding is not None:
            if length is not None or not newer:
                raise errors.BadRequest("Transfer-Encoding is not allowed with Content-Length, nor in HTTP/1.0")
            _check_coding(coding)
        if length is not None:
            if not _LENGTH.match(length):
                raise errors.BadRequest("Content-Length is not a plain number")
            self.length = int(length)
        connection = values.get(b"connection", b"")
        self.close = listed(connection, b"close") or (not newer and not listed(connection, b"keep-alive"))
        self.keep = not newer and not self.close
        self.expects = newer and b"100-continue" in values.get(b"expect", b"").lower()
        kind = media_type(values.get(b"content-type", b""))
        self.form = {b"application/x-www-form-urlencoded": 1, b"multipart/form-data": 2}.get(kind, 0)
        self.json = kind.endswith((b"/json", b"+json"))
        self.special = any(name.startswith(b"restmq-") for name in values) or unusual(values, kind)


def _check_coding(value: bytes) -> None:
    """Raise for a Transfer-Encoding other than chunked alone (RFC 9112 sections 6.1 and 6.3)."""
    codings = [word.strip(b" \t") for word in value.lower().split(b",")]
    if codings[-1] != b"chunked" or b"chunked" in codings[:-1]:
        raise errors.BadRequest("Transfer-Encoding must end with chunked, and have it once")
    if len(codings) > 1:
        raise errors.NotImplementedHere("the only Transfer-Encoding known here is chunked")


NOTHING = Fields(b"", False)
_memo: dict[tuple[bytes, bool], Fields] = {}


def fields(block: bytes, newer: bool) -> Fields:
    """The block's Fields. A small one is remembered, because clients send the same block again and again."""
    known = _memo.get((block, newer))
    if known is None:
        known = Fields(block, newer)
        if len(block) <= 1024 and not known.special:  # an Idempotency-Key or a lease does not come again
            if len(_memo) >= 512:
                _memo.clear()
            _memo[(block, newer)] = known
    return known
