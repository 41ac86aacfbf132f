"""Comet: GET /c/NAMES, one JSON object and CRLF an element.

Owns its framing and its handler. Read live/sse.py next.
"""

from __future__ import annotations

from typing import ClassVar

from restmq.api.services import BrokerHandler
from restmq.http.handler import JSON
from restmq.http.negotiation import LINES
from restmq.http.stream import Stream
from restmq.live.consumer import CACHE, HEADERS, Live, queue_names, wish

CLOSED = b"RestMQ-Closed"


class Comet(Live):
    """A consumer of /c/NAMES: one JSON object and CRLF an element."""

    section = "comet:consumer"

    def framed(self, document: str, event: str = "") -> bytes:
        """A line."""
        return document.encode("ascii") + b"\r\n"

    def beat(self) -> None:
        """A blank line, which clients skip."""
        self.write(b"\r\n")

    def farewell(self, stream: Stream, why: str) -> None:
        """Tell why behind the last chunk, where no client takes it for an element."""
        stream.close(trailer=b"%b: %b\r\n" % (CLOSED, " ".join(why.split()).encode("ascii", "backslashreplace")))


class CometHandler(BrokerHandler):
    """GET /c/NAMES."""

    streams = True
    cache = CACHE
    gives: ClassVar = {"GET": (*LINES, JSON)}  # whose clients often ask for JSON
    sections: ClassVar[dict[str, str]] = {"GET": Comet.section}

    async def get(self, raw: bytes) -> None:
        """Join, and stream one JSON object a line for as long as the connection lives."""
        queues = queue_names(raw)
        consumer = Comet(self, queues, wish=wish(self, queues))
        headers = (*HEADERS, (b"Trailer", CLOSED)) if self.request.newer else HEADERS
        await consumer.begin(self, lambda: self.stream(b"application/x-ndjson", headers))
