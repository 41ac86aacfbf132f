"""What a request's head says of its body and of the answer that the client wants (RFC 9110 sections 8, 12 and 13).

Owns charsets, content codings, media ranges, preconditions and prefetching, read from header lines alone. Knows no
route. http/handler.py asks. Read http/forms.py next.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping

from restmq.model.errors import (
    BadRequest,
    Error,
    NotAcceptable,
    NotMatched,
    Prefetched,
    UnsupportedMedia,
    UpgradeRequired,
)

Values = Mapping[bytes, bytes]

PRECONDITIONS = (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range")
#: Header lines that make a request mean more than its path and body say.
SPECIAL = frozenset(
    (
        *PRECONDITIONS,
        *(b"idempotency-key", b"range", b"purpose", b"sec-purpose", b"x-purpose", b"x-moz", b"sec-websocket-key"),
    )
)
#: Uses that a browser has for an answer (Sec-Fetch-Dest in Fetch Metadata), where JSON cannot serve.
DESTINATIONS = frozenset(
    b"audio audioworklet font image manifest paintworklet report script serviceworker sharedworker style track video "
    b"worker xslt".split()
)
#: Types for lines of JSON. None of them is registered; RestMQ answers with the first.
LINES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
MEMBERS = 1000  # most members of a gzip body: each costs a decompressor
_AHEAD = re.compile(rb"prefetch|prerender|preview", re.IGNORECASE)
_CHARSET = re.compile(rb";[ \t]*charset\*?[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.){0,80})\"|([^\s;]*))", re.IGNORECASE)
_UTF_8 = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"")
_Q = re.compile(rb";[ \t]*q[ \t]*=[ \t]*([01](?:\.[0-9]{0,3})?)[ \t]*(?:;|\Z)", re.IGNORECASE)
_SLICE = 64 << 10  # bytes given to a decompressor at a time, because it copies the bytes that are left


def listed(values: bytes, word: bytes) -> bool:
    """Whether a token stands in a list (RFC 9110 section 5.6.1), in capitals or not. Takes linear time."""
    values = values.lower()
    return word in values and re.search(rb"(?:\A|,)[ \t]*" + word + rb"[ \t]*(?:,|\Z)", values) is not None


def media_type(content_type: bytes) -> bytes:
    """The type in a Content-Type, without its parameters, in lower case."""
    return content_type.partition(b";")[0].strip().lower()


def check_charset(content_type: bytes) -> None:
    """Raise UnsupportedMedia for a type that names a charset other than UTF-8. ASCII is UTF-8."""
    if b"charset" not in content_type.lower():
        return
    for found in _CHARSET.finditer(content_type):
        named_utf_8(found[2] if found[1] is None else re.sub(rb"\\(.)", rb"\1", found[1]))


def named_utf_8(charset: bytes) -> None:
    """Raise UnsupportedMedia if this is the name of another charset than UTF-8."""
    if charset.strip().lower() not in _UTF_8:
        word = charset[:40].decode("latin-1")
        raise UnsupportedMedia(
            f"text in {word!a} is not read here: send UTF-8, with charset=utf-8 or without a charset"
        )


def zipped(values: Values) -> bool:
    """Whether the body is compressed with gzip. Raises UnsupportedMedia for any other coding."""
    given = values.get(b"content-encoding")
    if given is None:
        return False
    words = [part.strip().lower() for part in given.split(b",", 8)]
    codings = [word for word in words if word not in (b"", b"identity")]
    if not codings:
        return False
    if codings not in ([b"gzip"], [b"x-gzip"]):
        word = given[:40].decode("latin-1")
        raise UnsupportedMedia(
            f"a body with the Content-Encoding {word!a} is not read here: send it with gzip, or as it is",
            ((b"Accept-Encoding", b"gzip, identity"),),
        )
    return True


def unzipped(body: bytes, most: int) -> bytes | None:
    """The content of a gzip body (RFC 1952), or None if it has more than `most` bytes.

    It takes no more memory than that.

    Raises BadRequest for a body that ends too early, or goes on with something else.
    """
    parts: list[bytes] = []
    size = at = members = 0
    inflate, begun, rest = zlib.decompressobj(31), False, b""
    while at < len(body) or rest:
        if not rest:
            rest, at = body[at : at + _SLICE], at + _SLICE
        begun = True
        try:
            part = inflate.decompress(rest, most + 1 - size)
        except zlib.error as error:
            raise BadRequest(f"the body is not gzip: {str(error).partition(': ')[2] or error}") from None
        if part:
            parts.append(part)
            size += len(part)
            if size > most:
                return None
        rest = inflate.unconsumed_tail
        if inflate.eof:
            rest, members = inflate.unused_data, members + 1
            if members >= MEMBERS and (rest or at < len(body)):
                raise BadRequest(f"the gzip body has more than {MEMBERS} members; compress it in one")
            inflate, begun = zlib.decompressobj(31), False
    if begun or not members:
        raise BadRequest("the gzip body ends too early: a part of it is missing")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def accepts(accept: bytes, kinds: Iterable[bytes]) -> bool:
    """Whether a client that sends this Accept can use an answer of one of these types (RFC 9110 section 12.5.1).

    The most specific range decides. Parameters other than q, and malformed parts, are ignored.
    """
    ranges: dict[bytes, bool] = {}
    for part in accept.lower().split(b",")[:100]:
        word = part.partition(b";")[0].strip()
        if word:
            found = _Q.search(part)
            ranges[word] = ranges.get(word, False) or found is None or float(found[1]) > 0
    if not ranges:
        return True
    for kind in kinds:
        for word in (kind, kind.partition(b"/")[0] + b"/*", b"*/*"):
            if word in ranges:
                if ranges[word]:
                    return True
                break
    return False


def unusual(values: Values, kind: bytes) -> bool:
    """Whether a head asks for something rare. Such requests are checked more closely."""
    accept, content_type = values.get(b"accept"), values.get(b"content-type", b"")
    if accept is not None and accept != b"*/*" and not accepts(accept, (b"application/json",)):
        return True
    if values.get(b"sec-fetch-dest") in DESTINATIONS:
        return True
    if b"content-encoding" in values or b"websocket" in values.get(b"upgrade", b"").lower():
        return True
    if len(content_type) > len(kind) and b"charset" in content_type.lower():
        try:
            check_charset(content_type)
        except Error:
            return True
    return not SPECIAL.isdisjoint(values)


def check_use(values: Values, kinds: tuple[bytes, ...], queue: str) -> None:
    """Check that the client can use what a request hands out or streams.

    `kinds` are the types of the answer. A WebSocket has none, because it has its own check. `queue` is for the error.
    Raises Prefetched, NotAcceptable, UpgradeRequired and BadRequest.
    """
    for name in (b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"):
        if _AHEAD.search(values.get(name, b"")):
            raise Prefetched("a prefetch takes nothing; ask again when the element is really wanted")
    # A proxy that does not know WebSocket forwards a handshake without Upgrade.
    if kinds and (listed(values.get(b"upgrade", b""), b"websocket") or b"sec-websocket-key" in values):
        raise UpgradeRequired(f"this address does not speak WebSocket; /ws/{queue} does")
    destination = values.get(b"sec-fetch-dest", b"")
    if kinds and destination in DESTINATIONS and not (destination == b"script" and kinds[0].endswith(b"script")):
        raise NotAcceptable(f"the answer is {kinds[0].decode()}, but a browser wants it as {destination.decode()}")
    accept = values.get(b"accept")
    if accept is not None and kinds and not accepts(accept, kinds):
        raise NotAcceptable(f"the answer is {kinds[0].decode()}, which Accept excludes; {_where(accept, queue)}")
    if b"range" in values:
        raise BadRequest("Range asks for a part, but an element is handed out once and whole: leave Range out")


def _where(accept: bytes, queue: str) -> str:
    for kind, transport in ((b"text/event-stream", "sse"), (b"application/x-ndjson", "c"), (b"application/json", "q")):
        if accepts(accept, (kind,)):
            return f"{kind.decode()} comes from /{transport}/{queue}"
    return "nothing was done"


def check_conditions(values: Values, known: Iterable[bytes], hint: str) -> None:
    """Refuse a request that changes something and has a precondition that RestMQ does not check. Raises NotMatched.

    Without the precondition, the request would do what the client wanted to rule out (RFC 9110 section 13.2.1).
    """
    for header in PRECONDITIONS:
        if header in values and header not in known:
            name = header.decode().title()
            raise NotMatched(f"{name} is not supported for this request, so nothing was done: leave it out{hint}")


def unchanged(values: Values) -> bool:
    """Whether a look is answered with 304. An answer without an ETag matches only If-None-Match: *.

    Raises NotMatched for If-Match with a tag, because there is no ETag (RFC 9110 sections 13.1.1 and 13.2.2).
    """
    if values.get(b"if-match", b"*") != b"*":
        raise NotMatched("what this address shows has no ETag, so If-Match does not hold; leave it out")
    return values.get(b"if-none-match") == b"*"
