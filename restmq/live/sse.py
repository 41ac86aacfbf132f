"""Server-Sent Events: GET /sse/NAMES (WHATWG HTML, section 9.2).

Owns its framing, its ids and its handler. Read live/websocket.py next.
"""

from __future__ import annotations

from typing import ClassVar

from restmq.api.services import BrokerHandler
from restmq.delivery.batch import Batch
from restmq.http.handler import Answer
from restmq.http.stream import Stream
from restmq.live.consumer import CACHE, HEADERS, Live, documents
from restmq.live.options import queue_names, stream_options
from restmq.model.errors import (
    BadRequest,
    Error,
    Forbidden,
    Misdirected,
    Unauthorized,
)

#: Other parameters of EventSource's polyfills: 2 KiB of padding for old browsers, and an address that is new each time.
POLYFILLS = ("evs_preamble", "padding", "r")
RETRY = 2000  # ms after which an EventSource that lost its stream comes again
RETRY_ENDING = 1000  # the same if this instance ends, because another may serve at once


class Sse(Live):
    """A consumer of /sse/NAMES: an event stream (WHATWG HTML, section 9.2)."""

    section = "sse:consumer"
    always_ids = True

    def opening(self, positions: dict[bytes, tuple[int, bytes]], early: bytes) -> bytes:
        """The time to wait before the client comes again, and the id to come with.

        A browser's EventSource keeps an id only if a blank line ends it. It dispatches nothing then, because there is
        no data (WHATWG HTML, section 9.2.6). Several libraries keep the id at once, and hand the blank line on as an
        empty message. RestMQ knows a browser by Pragma, which Fetch sends with an EventSource's cache mode, no-store.
        """
        first = self._id({**positions, **self._before}) if self.ids else ""
        self._places = {**positions, **self._places}
        end = "\n" if b"no-cache" in self.request.fields.values.get(b"pragma", b"").lower() else ""
        # Early elements of several queues have no ids, because not all positions were known.
        after = f"id: {self._id(self._places)}\n{end}" if self._before else ""
        opening = f"retry: {RETRY}\n" + (f"id: {first}\n{end}" if first else "")
        return opening.encode("ascii") + early + after.encode("ascii")

    def frame(self, batch: Batch) -> bytes:
        """The elements as events, with ids if they are numbered."""
        ids = self._ids(batch)
        texts = documents(batch, bool(self.lease))
        if not ids:
            return "".join([f"data: {text}\n\n" for text in texts]).encode("ascii")
        events = [f"{f'id: {one}' + chr(10) if one else ''}data: {text}\n\n" for one, text in zip(ids, texts)]
        return "".join(events).encode("ascii")

    def frame_object(self, document: str, event: str = "") -> bytes:
        """An event of another kind, which a browser's onmessage does not get."""
        last = self._id(self._places)
        return f"{f'id: {last}' + chr(10) if last else ''}event: {event}\ndata: {document}\n\n".encode("ascii")

    def beat(self) -> None:
        """Write a comment. No blank line ends it, because many clients would hand their users an empty message."""
        self.write(b":\n")

    def farewell(self, stream: Stream, why: str) -> None:
        """Send the reason, and when to come again."""
        stream.close(comment(why, RETRY_ENDING))


def comment(why: str, retry: int) -> bytes:
    """The end of an event stream: the reason, and after how many ms to come again."""
    return f": {' '.join(why.split())}\nretry: {retry}\n".encode()


def _last_id(name: str) -> bool:
    """Whether a query parameter is a polyfill's Last-Event-ID: lastEventId, Last-Event-Id, evs_last_event_id."""
    return name.lower().replace("-", "").replace("_", "") in ("lasteventid", "evslasteventid")


class SseHandler(BrokerHandler):
    """GET /sse/NAMES."""

    streams = True
    cache = CACHE
    hand_out_types: ClassVar = {"GET": (b"text/event-stream",)}
    sections: ClassVar[dict[str, str]] = {"GET": Sse.section}

    def passes(self, parameter: str) -> bool:
        """Whether a query may have this parameter. Polyfills of EventSource add some."""
        return super().passes(parameter) or _last_id(parameter) or parameter in POLYFILLS

    def _last_id_sent(self) -> bytes:
        """The client's last id, or b"" if it has none. The header counts most, then the last parameter."""
        found = self.request.fields.values.get(b"last-event-id", b"")
        for name, value in reversed(self.request.query if self.request.raw_query else []):
            if not found and _last_id(name.decode("utf-8", "replace")):
                found = value
        return found

    async def get(self, raw: bytes) -> Answer | None:
        """Join, and stream events.

        A browser's EventSource gives up for good on any status but 200. So this method answers 200, and says in a
        comment why it cannot stream now.
        """
        queues = queue_names(raw)
        consumer = Sse(self, queues, options=stream_options(self, queues, self._last_id_sent()))
        try:
            await consumer.begin(self, lambda: self.stream(b"text/event-stream", HEADERS))
        except (BadRequest, Unauthorized, Forbidden, Misdirected):
            raise
        except Error as problem:
            self.server.refusals.note(self.request, problem)
            return Answer(comment(problem.text, RETRY), 200, b"text/event-stream", HEADERS)
        return None
