"""REST: /q/NAME. Producers POST, consumers GET.

Owns the meaning of a form and a path. Of the store it calls only the verbs. docs/protocol.txt is the reference. Read
api/pull.py next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from restmq.api.pull import HAND_OUT, hand_out, plain, shown, take
from restmq.api.services import BrokerHandler
from restmq.api.values import is_batch, lines, value_of
from restmq.http.handler import JSON, Answer, path_queue
from restmq.http.request import LITTLE, BodyLimit, Request
from restmq.model import options
from restmq.model.element import queue_name
from restmq.model.errors import BadRequest, NotAllowed, NotFound

STORE = {"ttl": options.ttl, "delay": options.delay, "at": options.at}
FORGET = {"forget": lambda text: options.switch("forget", text)}
REPLAYED = ((b"Idempotency-Replayed", b"true"),)
NO_GET = "GET takes nothing here (get_consumes = no); take with POST /q/NAME/take"


def _read_already(_text: str) -> int:
    """Parse the parameter `queue`, which Root.get() reads by itself."""
    return 0


def producing(handler: BrokerHandler) -> BodyLimit:
    """How large the body of a storing POST may be: a form, a batch or a value."""
    config, request = handler.services.config, handler.request
    if request.fields.form:
        return BodyLimit(config.max_form, "the form", "three times max_value and 64 KiB")
    if is_batch(request):
        return BodyLimit(config.max_body, "the batch", "max_body")
    return BodyLimit(max(LITTLE, config.max_value), "the value", "max_value")


def idempotency_key(request: Request) -> tuple[bytes, bytes]:
    """The key in the header Idempotency-Key, b"" if there is none, and the header as it came. Raises BadOption.

    The header is a string or a word: "k" and k are one key (draft-ietf-httpapi-idempotency-key-header).
    """
    given = request.fields.values.get(b"idempotency-key")
    if given is None:
        return b"", b""
    name = "Idempotency-Key"
    return options.idempotency_key(name, options.unquoted(name, given.decode("latin-1"))), given


async def store(handler: BrokerHandler, queue: bytes, asked: Mapping[str, int]) -> bytes | Answer:
    """Store a value, or a batch of values, with options. The answer has one key a line."""
    services, request = handler.services, handler.request
    options.check_delay_or_at(asked)
    key, header = idempotency_key(request)
    batch = is_batch(request)
    values = lines(request.body, services.config.max_value) if batch else [value_of(handler)]
    request.body = b""  # the values are taken out of it
    if not (batch or key or any(asked.values())):
        return b"%b:%d\r\n" % (queue, await services.core.add(queue, values[0]))
    window = round(services.config.idempotency * 1000)
    ttl, delay, until = (asked.get(name, 0) for name in ("ttl", "delay", "at"))
    added = await services.core.add_all(queue, values, ttl, delay, key, window, header, until)
    keys = b"".join([b"%b:%d\r\n" % (queue, number) for number in range(added.first, added.first + added.many)])
    return Answer(keys, headers=REPLAYED) if added.replayed else keys


class Queue(BrokerHandler):
    """/q/NAME."""

    hot = old = True
    body = "value"
    hand_out_types: ClassVar = {"GET": (JSON,)}
    sections: ClassVar = {
        "POST": "rest:producer",
        "GET": "rest:consumer",
        "HEAD": "rest:consumer",
        "DELETE": "admin",
    }

    def body_limit(self) -> BodyLimit:
        return producing(self)

    def methods(self) -> tuple[str, ...]:
        """The methods without GET, if GET may not take."""
        return tuple(one for one in super().methods() if one != "GET" or self.services.config.get_consumes)

    async def post(self, raw: bytes) -> bytes | Answer:
        """Store an element, or a batch of elements. The keys are the answer."""
        queue = path_queue(raw)
        request = self.request
        form = request.fields.form
        # A form of one field has only the value, and no option. Its names may be escaped.
        more = b"&" in request.body if form == 1 else form or is_batch(request)
        if more or request.raw_query or request.fields.special:
            return await store(self, queue, self.options(STORE))
        return b"%b:%d\r\n" % (queue, await self.services.core.add(queue, value_of(self)))

    async def get(self, raw: bytes) -> Answer:
        """Remove the oldest element and answer it. 204 if nothing waits."""
        queue = path_queue(raw)
        if not self.services.config.get_consumes:
            raise NotAllowed(NO_GET, self.methods())
        if not plain(self):
            return await hand_out(self, queue) or Answer(status=204)
        element = await take(self, queue)
        return Answer(status=204) if element is None else Answer(shown(element) + b"\r\n", 200, JSON)

    async def head(self, raw: bytes) -> Answer:
        """Answer the lengths, as headers."""
        queue = path_queue(raw)
        self.options({})
        ledger = await self.services.core.inspection.ledger(queue)
        lengths = ((b"Waiting", "waiting"), (b"Delayed", "delayed"), (b"Leased", "leased"))
        return Answer(b"", 200, JSON, tuple((b"RestMQ-" + name, b"%d" % ledger[state]) for name, state in lengths))

    async def delete(self, raw: bytes) -> Answer:
        """Purge the queue. With forget=1, its counter and its settings go too."""
        queue = path_queue(raw)
        forget = self.options(FORGET).get("forget", False)
        self.jsonp(b"")
        had = await self.services.core.purge(queue, forget)
        self.log_change("{done} the queue {queue}", done="forgot" if forget else "purged", queue=queue.decode("utf-8"))
        return self.json({"queue": queue.decode("utf-8"), "status": int(had)})


class Take(BrokerHandler):
    """/q/NAME/take: the same as GET /q/NAME, for clients that must not change anything with a GET."""

    hand_out_types: ClassVar = {"POST": (JSON,)}
    sections: ClassVar = {"POST": "rest:consumer"}

    async def post(self, raw: bytes) -> Answer:
        """Remove or lease the oldest element and answer it."""
        return await hand_out(self, path_queue(raw)) or Answer(status=204)


class Root(BrokerHandler):
    """/: the page, which is open to all clients.

    With `queue`, it is the same as /q/NAME for old clients, and not open.
    """

    old = True
    body = "value"
    sections: ClassVar = {"POST": "rest:producer"}

    def body_limit(self) -> BodyLimit:
        return producing(self)

    async def post(self) -> bytes | Answer:
        """Store an element in the queue that the form names."""
        asked = self.options(STORE)
        found = self.field(b"queue")
        if not found:
            raise BadRequest("the form needs a field `queue`")
        return await store(self, queue_name(found), asked)

    async def get(self) -> Answer:
        """Answer the oldest element of the queue that the query names, or the page."""
        found = [value for name, value in self.request.query if name == b"queue"]
        if not found:
            page: Answer = self.services.frontend.page(self.request, "index.html")
            return page
        # The check uses the decoded name, as the hand-out does: %71ueue is queue, too.
        self.allow("rest:consumer")
        if self.request.method == "HEAD":
            raise NotAllowed("HEAD takes nothing; HEAD /q/NAME answers the queue's lengths", ("GET", "POST", "OPTIONS"))
        if not self.services.config.get_consumes:
            raise NotAllowed(NO_GET, ("POST", "OPTIONS"))
        self.check_usable((JSON,))
        self.refuse_idempotency_key()
        if len(found) > 1:
            raise BadRequest(f"the parameter 'queue' was given {len(found)} times")
        queue = queue_name(found[0])
        answer = await hand_out(self, queue, {"queue": _read_already, **HAND_OUT})
        if answer is None:
            raise NotFound("nothing waits in this queue")
        return answer
