"""Comet: GET /c/NAMES, one JSON object and CRLF an element.

Owns its framing and its handler. Read live/sse.py next.
"""

from __future__ import annotations

from typing import ClassVar

from restmq.api.services import BrokerHandler
from restmq.http.handler import JSON
from restmq.http.negotiation import LINES
from restmq.http.stream import Stream
from restmq.live.consumer import CACHE, HEADERS, Live
from restmq.live.options import queue_names, stream_options

CLOSED = b"RestMQ-Closed"


class Comet(Live):
    """A consumer of /c/NAMES: one JSON object and CRLF an element."""

    section = "comet:consumer"

    def frame_object(self, document: str, event: str = "") -> bytes:
        """One JSON object as a line."""
        return document.encode("ascii") + b"\r\n"

    def beat(self) -> None:
        """Write a blank line, which clients skip."""
        self.write(b"\r\n")

    def farewell(self, stream: Stream, why: str) -> None:
        """Send the reason after the last chunk, where no client takes it for an element."""
        stream.close(trailer=b"%b: %b\r\n" % (CLOSED, " ".join(why.split()).encode("ascii", "backslashreplace")))


class CometHandler(BrokerHandler):
    """GET /c/NAMES."""

    streams = True
    cache = CACHE
    hand_out_types: ClassVar = {"GET": (*LINES, JSON)}  # clients of these types often ask for JSON
    sections: ClassVar[dict[str, str]] = {"GET": Comet.section}

    async def get(self, raw: bytes) -> None:
        """Join, and stream one JSON object a line for as long as the connection exists."""
        queues = queue_names(raw)
        consumer = Comet(self, queues, options=stream_options(self, queues))
        headers = (*HEADERS, (b"Trailer", CLOSED)) if self.request.newer else HEADERS
        await consumer.begin(self, lambda: self.stream(b"application/x-ndjson", headers))
