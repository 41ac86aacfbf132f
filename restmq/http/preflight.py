"""The answer to OPTIONS, and to a browser's preflight (the Fetch standard's CORS protocol).

Owns which header lines a page of an allowed origin may send. Knows no route. access/origin.py decides which origins are
allowed. Read http/handler.py next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Header lines that a page of an allowed origin may send: those that our requests know, and those that browsers'
#: libraries add by themselves, which mean nothing here. None that a proxy sets, such as X-Real-IP.
ALLOWED = frozenset(
    b"accept accept-language authorization cache-control content-encoding content-language content-type"
    b" idempotency-key if-match if-modified-since if-none-match last-event-id pragma prefer priority purpose range"
    b" baggage b3 sentry-trace traceparent tracestate"
    b" x-client-info x-correlation-id x-csrf-token x-request-id x-requested-with x-xsrf-token".split()
)
MOST_ASKED = 100  # most header lines that one preflight is answered for
_OPTION = re.compile(rb"restmq-[a-z0-9-]{1,64}\Z")


def options_headers(methods: Iterable[str], asked: bytes, shared: bool) -> tuple[tuple[bytes, bytes], ...]:
    """The header lines of an answer to OPTIONS.

    `methods` are those of the address. `asked` is Access-Control-Request-Headers. `shared` says that a page of an
    allowed origin asks: only then the answer lists the header lines that the page may send.
    """
    allow = ", ".join(methods).encode("ascii")
    headers: list[tuple[bytes, bytes]] = [(b"Allow", allow)]
    if shared:
        names = [part.strip(b" \t") for part in asked.lower().split(b",", MOST_ASKED)[:MOST_ASKED]]
        allowed = [name for name in names if name in ALLOWED or _OPTION.match(name)]
        headers.append((b"Access-Control-Allow-Methods", allow))
        if allowed:
            headers.append((b"Access-Control-Allow-Headers", b", ".join(allowed)))
        headers.append((b"Access-Control-Max-Age", b"600"))
    return tuple(headers)
