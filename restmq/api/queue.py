"""REST: /q/NAME. Producers POST, consumers GET.

Owns what a form and a path mean; knows of the core only its verbs.
docs/protocol.txt is the reference. Read api/pull.py next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from restmq.api.pull import HAND_OUT, hand_out, plain, shown, take
from restmq.api.services import BrokerHandler
from restmq.api.values import is_batch, lines, value_of
from restmq.http.handler import JSON, Answer, name
from restmq.http.request import LITTLE, Most, Request
from restmq.model import options
from restmq.model.element import queue_name
from restmq.model.errors import BadRequest, NotAllowed, NotFound

STORE = {"ttl": options.ttl, "delay": options.delay, "at": options.at}
FORGET = {"forget": lambda text: options.yes("forget", text)}
REPLAYED = ((b"Idempotency-Replayed", b"true"),)
NO_GET = "GET changes nothing here (get_consumes = no); POST /q/NAME/take takes"


def producing(handler: BrokerHandler) -> Most:
    """The most that the body of a POST may have that stores: a form, a batch or a value."""
    config, request = handler.services.config, handler.request
    if request.fields.form:
        return Most(config.max_form, "the form", "three times max_value and 64 KiB")
    if is_batch(request):
        return Most(config.max_body, "the batch", "max_body")
    return Most(max(LITTLE, config.max_value), "the value", "max_value")


def idempotency_key(request: Request) -> tuple[bytes, bytes]:
    """The key in the header Idempotency-Key, b"" when there is none, and the header as it came. Raises BadOption.

    The header is a string or a word: "k" and k are one key (draft-ietf-httpapi-idempotency-key-header).
    """
    given = request.fields.values.get(b"idempotency-key")
    if given is None:
        return b"", b""
    word = "Idempotency-Key"
    return options.idempotency_key(word, options.unquoted(word, given.decode("latin-1"))), given


async def store(handler: BrokerHandler, queue: bytes, asked: Mapping[str, int]) -> bytes | Answer:
    """Store what a POST with options brings, a value or a batch of them; the answer is one key a line."""
    services, request = handler.services, handler.request
    options.one_of(asked)
    key, header = idempotency_key(request)
    batch = is_batch(request)
    values = lines(request.body, services.config.max_value) if batch else [value_of(handler)]
    request.body = b""  # what it had to say is taken out of it
    if not (batch or key or any(asked.values())):
        return b"%b:%d\r\n" % (queue, await services.core.add(queue, values[0]))
    window = round(services.config.idempotency * 1000)
    ttl, delay, until = (asked.get(word, 0) for word in ("ttl", "delay", "at"))
    added = await services.core.add_all(queue, values, ttl, delay, key, window, header, until)
    keys = b"".join([b"%b:%d\r\n" % (queue, number) for number in range(added.first, added.first + added.many)])
    return Answer(keys, headers=REPLAYED) if added.replayed else keys


class Queue(BrokerHandler):
    """/q/NAME."""

    hot = old = True
    body = "value"
    gives: ClassVar = {"GET": (JSON,)}
    sections: ClassVar = {
        "POST": "rest:producer",
        "GET": "rest:consumer",
        "HEAD": "rest:consumer",
        "DELETE": "admin",
    }

    def most(self) -> Most:
        return producing(self)

    def methods(self) -> tuple[str, ...]:
        """GET is none of them where it may not take."""
        return tuple(one for one in super().methods() if one != "GET" or self.services.config.get_consumes)

    async def post(self, raw: bytes) -> bytes | Answer:
        """Store an element, or a batch of them; the keys are the answer."""
        queue = name(raw)
        request = self.request
        form = request.fields.form
        # A form of one field has no room for an option beside the value; its names may be escaped.
        more = b"&" in request.body if form == 1 else form or is_batch(request)
        if more or request.raw_query or request.fields.special:
            return await store(self, queue, self.options(STORE))
        return b"%b:%d\r\n" % (queue, await self.services.core.add(queue, value_of(self)))

    async def get(self, raw: bytes) -> Answer:
        """Remove the oldest element and answer it; 204 when nothing waits."""
        queue = name(raw)
        if not self.services.config.get_consumes:
            raise NotAllowed(NO_GET, self.methods())
        if not plain(self):
            return await hand_out(self, queue) or Answer(status=204)
        element = await take(self, queue)
        return Answer(status=204) if element is None else Answer(shown(element) + b"\r\n", 200, JSON)

    async def head(self, raw: bytes) -> Answer:
        """The lengths, as headers."""
        queue = name(raw)
        self.options({})
        books = await self.services.core.inspection.ledger(queue)
        lengths = ((b"Waiting", "waiting"), (b"Delayed", "delayed"), (b"Leased", "leased"))
        return Answer(b"", 200, JSON, tuple((b"RestMQ-" + word, b"%d" % books[state]) for word, state in lengths))

    async def delete(self, raw: bytes) -> Answer:
        """Purge the queue; with forget=1 its counter and settings go too."""
        queue = name(raw)
        forget = self.options(FORGET).get("forget", False)
        self.jsonp(b"")
        had = await self.services.core.purge(queue, forget)
        self.did("{done} the queue {queue}", done="forgot" if forget else "purged", queue=queue.decode("utf-8"))
        return self.json({"queue": queue.decode("utf-8"), "status": int(had)})


class Take(BrokerHandler):
    """/q/NAME/take: GET /q/NAME for those that must not change things with a GET."""

    gives: ClassVar = {"POST": (JSON,)}
    sections: ClassVar = {"POST": "rest:consumer"}

    async def post(self, raw: bytes) -> Answer:
        """Remove or lease the oldest element and answer it."""
        return await hand_out(self, name(raw)) or Answer(status=204)


class Root(BrokerHandler):
    """/: the page, which is open; with `queue`, the same as /q/NAME as old clients have it, which is not."""

    old = True
    body = "value"
    sections: ClassVar = {"POST": "rest:producer"}

    def most(self) -> Most:
        return producing(self)

    async def post(self) -> bytes | Answer:
        """Store an element in the queue that the form names."""
        asked = self.options(STORE)
        found = self.field(b"queue")
        if not found:
            raise BadRequest("the form needs a field `queue`")
        return await store(self, queue_name(found), asked)

    async def get(self) -> Answer:
        """The oldest element of the queue that the query names, or the page."""
        found = [value for word, value in self.request.query if word == b"queue"]
        if not found:
            page: Answer = self.services.frontend.page(self.request, "index.html")
            return page
        # Judged by the decoded name, which is what hands out: %71ueue is queue, too.
        self.allow("rest:consumer")
        if self.request.method == "HEAD":
            raise NotAllowed("HEAD takes nothing; HEAD /q/NAME tells the queue's lengths", ("GET", "POST", "OPTIONS"))
        if not self.services.config.get_consumes:
            raise NotAllowed(NO_GET, ("POST", "OPTIONS"))
        self.hands_out((JSON,))
        self.hands_out_anew()
        if len(found) > 1:
            raise BadRequest(f"the parameter 'queue' was given {len(found)} times")
        queue = queue_name(found[0])
        answer = await hand_out(self, queue, {"queue": str, **HAND_OUT})
        if answer is None:
            raise NotFound("nothing waits in this queue")
        return answer
