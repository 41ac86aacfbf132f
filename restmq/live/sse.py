"""Server-Sent Events: GET /sse/NAMES (WHATWG HTML, section 9.2).

Owns its framing, its ids and its handler. Read live/websocket.py next.
"""

from __future__ import annotations

from typing import ClassVar

from restmq.api.services import BrokerHandler
from restmq.delivery.batch import Batch
from restmq.http.handler import Answer
from restmq.http.stream import Stream
from restmq.live.consumer import CACHE, HEADERS, Live, documents, queue_names, wish
from restmq.model.errors import (
    BadRequest,
    Error,
    Forbidden,
    Misdirected,
    Unauthorized,
)

#: What polyfills of EventSource ask besides: 2 KiB of padding for browsers that are gone, an address that is new.
POLYFILLS = ("evs_preamble", "padding", "r")
RETRY = 2000  # ms: an EventSource that lost its stream comes again after this
RETRY_ENDING = 1000  # ms: the same, when this instance ends and another may serve at once


class Sse(Live):
    """A consumer of /sse/NAMES: an event stream (WHATWG HTML, section 9.2)."""

    section = "sse:consumer"
    always_ids = True

    def opening(self, positions: dict[bytes, tuple[int, bytes]], early: bytes) -> bytes:
        """How long to wait before coming again, and the id to come with.

        A browser's EventSource keeps an id only when a blank line ends it, and dispatches nothing then for want of
        data (WHATWG HTML, section 9.2.6). Several libraries keep it at once, and hand the blank line on as an empty
        message. A browser is known by Pragma, which Fetch sends with an EventSource's cache mode, no-store.
        """
        first = self._id({**positions, **self._before}) if self.ids else ""
        self._places = {**positions, **self._places}
        end = "\n" if b"no-cache" in self.request.fields.values.get(b"pragma", b"").lower() else ""
        # What came early on several queues has no ids, for not all positions were known.
        after = f"id: {self._id(self._places)}\n{end}" if self._before else ""
        opening = f"retry: {RETRY}\n" + (f"id: {first}\n{end}" if first else "")
        return opening.encode("ascii") + early + after.encode("ascii")

    def frame(self, batch: Batch) -> bytes:
        """The elements as events; with ids if they are numbered."""
        words = self._words(batch)
        texts = documents(batch, bool(self.lease))
        if not words:
            return "".join([f"data: {text}\n\n" for text in texts]).encode("ascii")
        events = [f"{f'id: {word}' + chr(10) if word else ''}data: {text}\n\n" for word, text in zip(words, texts)]
        return "".join(events).encode("ascii")

    def framed(self, document: str, event: str = "") -> bytes:
        """An event of a kind of its own, which a browser's onmessage does not see."""
        word = self._id(self._places)
        return f"{f'id: {word}' + chr(10) if word else ''}event: {event}\ndata: {document}\n\n".encode("ascii")

    def beat(self) -> None:
        """A comment. No blank line ends it: many clients would hand their users an empty message."""
        self.write(b":\n")

    def farewell(self, stream: Stream, why: str) -> None:
        """Tell why, and when to come again."""
        stream.close(comment(why, RETRY_ENDING))


def comment(why: str, retry: int) -> bytes:
    """The end of an event stream: why it ends, and after how many ms to come again."""
    return f": {' '.join(why.split())}\nretry: {retry}\n".encode()


def _last_id(word: str) -> bool:
    """Whether a query parameter is a polyfill's Last-Event-ID: lastEventId, Last-Event-Id, evs_last_event_id."""
    return word.lower().replace("-", "").replace("_", "") in ("lasteventid", "evslasteventid")


class SseHandler(BrokerHandler):
    """GET /sse/NAMES."""

    streams = True
    cache = CACHE
    gives: ClassVar = {"GET": (b"text/event-stream",)}
    sections: ClassVar[dict[str, str]] = {"GET": Sse.section}

    def passes(self, word: str) -> bool:
        """What polyfills of EventSource add to the query."""
        return super().passes(word) or _last_id(word) or word in POLYFILLS

    def _again(self) -> bytes:
        """The last id that the client has, b"" when it has none: its header weighs most, then what was added last."""
        found = self.request.fields.values.get(b"last-event-id", b"")
        for word, value in reversed(self.request.query if self.request.raw_query else []):
            if not found and _last_id(word.decode("utf-8", "replace")):
                found = value
        return found

    async def get(self, raw: bytes) -> Answer | None:
        """Join, and stream events.

        A browser's EventSource gives up for good on anything but 200, so this
        answers 200 and tells in a comment why it cannot stream now.
        """
        queues = queue_names(raw)
        consumer = Sse(self, queues, wish=wish(self, queues, self._again()))
        try:
            await consumer.begin(self, lambda: self.stream(b"text/event-stream", HEADERS))
        except (BadRequest, Unauthorized, Forbidden, Misdirected):
            raise
        except Error as problem:
            self.server.refusals.note(self.request, problem)
            return Answer(comment(problem.text, RETRY), 200, b"text/event-stream", HEADERS)
        return None
