"""REST: /q/NAME. Producers POST, consumers GET.

Owns what a form, a body and a path mean; knows of the core only its verbs.
docs/protocol.txt is the reference. Read api/element.py next.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar

from restmq.delivery.waiting import Wait
from restmq.http.handler import JSON, Answer, Handler, name
from restmq.http.negotiation import LINES, media_type
from restmq.http.request import LITTLE, Most, Request
from restmq.model import options
from restmq.model.element import Element, Lease, not_utf8, queue_name
from restmq.model.errors import BadRequest, BadValue, NotAllowed, NotFound, TooLarge
from restmq.model.urlencoded import unquote
from restmq.runtime.future import drive
from restmq.store.core import Nack

STORE = {"ttl": options.ttl, "delay": options.delay, "at": options.at}
HAND_OUT = {"wait": options.wait, "max": options.most, "lease": options.lease}
FORGET = {"forget": lambda text: options.yes("forget", text)}
MOST_LINES = 10_000  # values in one batch
_LINE, _LF = re.compile(rb"[^\n]+"), b"\n"
REPLAYED = ((b"Idempotency-Replayed", b"true"),)
NO_GET = "GET changes nothing here (get_consumes = no); POST /q/NAME/take takes"


def checked(value: bytes, most: int, what: str = "the value") -> bytes:
    """A value, if it is UTF-8 and not too large. Raises BadValue, TooLarge, which call it `what`."""
    if len(value) > most:
        raise TooLarge(f"{what} has {len(value)} bytes; at most {most} are allowed (max_value)")
    wrong = -1 if value.isascii() else not_utf8(value)
    if wrong >= 0:
        raise BadValue(f"{what} is not UTF-8: byte {wrong} cannot stand there")
    return value


def value_of(handler: Handler) -> bytes:
    """The value that a POST brings: form field `value` or `msg`, or the body. Raises BadValue, TooLarge."""
    request = handler.request
    body, most = request.body, handler.app.config.max_value
    kind = request.fields.form
    if kind == 1 and body[:6] == b"value=" and b"&" not in body and not request.raw_query:
        value = body[6:]
        if b"+" in value:
            value = value.replace(b"+", b" ")
        if b"%" in value:
            value = unquote(value)
        return checked(value, most)
    if not kind and request.fields.values.get(b"content-type"):
        return checked(body, most)
    if kind and len(body) > handler.app.config.max_form:
        raise TooLarge(f"the form has {len(body)} bytes; at most {handler.app.config.max_form} are allowed")
    found = handler.field(b"msg", b"value")
    if found is None:
        if not kind and body:
            raise BadValue(
                "the body came without a Content-Type, so it may be a value or a form: say which, "
                "'Content-Type: text/plain' stores the body as it is, "
                "'Content-Type: application/x-www-form-urlencoded' its field `value`"
            )
        raise BadValue(
            "there is no value: the form needs a field `value` (curl --data-urlencode value@file), "
            "or send the body itself with -H 'Content-Type: text/plain'"
        )
    return checked(found, most)


def is_batch(request: Request) -> bool:
    """Whether the body is a batch: one value a line."""
    kind: bytes = request.fields.values.get(b"content-type", b"")
    return media_type(kind) in LINES


def lines(body: bytes, most: int) -> list[bytes]:
    """A batch's values: each line as it stands, but for a CR before its LF; blank lines are none.

    Raises BadValue, which names the line, when there is none or one is not UTF-8; TooLarge when one
    is over `most` bytes, or there are over 10,000.
    """
    if b"\r\n" in body:
        body = body.replace(b"\r\n", b"\n")  # a CR at the end of the last line, which has no LF, is its own
    values: list[bytes] = []
    for found in _LINE.finditer(body):
        if len(values) == MOST_LINES:
            raise TooLarge(f"the batch has more than {MOST_LINES} values, which is not allowed: send several batches")
        value = found[0]
        if len(value) > most or not (value.isascii() or not_utf8(value) < 0):
            checked(value, most, f"line {body.count(_LF, 0, found.start()) + 1}")
        values.append(value)
    if not values:
        raise BadValue("the batch is empty: each line that is not blank is a value")
    return values


def producing(handler: Handler) -> Most:
    """The most that the body of a POST may have that stores: a form, a batch or a value."""
    config, request = handler.app.config, handler.request
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


async def store(handler: Handler, queue: bytes, asked: Mapping[str, int]) -> bytes | Answer:
    """Store what a POST with options brings, a value or a batch of them; the answer is one key a line."""
    app, request = handler.app, handler.request
    options.one_of(asked)
    key, header = idempotency_key(request)
    batch = is_batch(request)
    values = lines(request.body, app.config.max_value) if batch else [value_of(handler)]
    request.body = b""  # what it had to say is taken out of it
    if not (batch or key or any(asked.values())):
        return b"%b:%d\r\n" % (queue, await app.core.add(queue, values[0]))
    window = round(app.config.idempotency * 1000)
    ttl, delay, until = (asked.get(word, 0) for word in ("ttl", "delay", "at"))
    added = await app.core.add_all(queue, values, ttl, delay, key, window, header, until)
    keys = b"".join([b"%b:%d\r\n" % (queue, number) for number in range(added.first, added.first + added.many)])
    return Answer(keys, headers=REPLAYED) if added.replayed else keys


def shown(element: Element, leased: bool = False) -> bytes:
    """An element as REST shows it; leased, with what its consumer must know to acknowledge it."""
    text = b'{"count": %d, "key": %b, "value": %b' % (
        element.count,
        quote(element.key.decode("utf-8")).encode("ascii"),
        quote(element.value.decode("utf-8")).encode("ascii"),
    )
    if not leased:
        return text + b"}"
    return b'%b, "deliveries": %d, "lease": "%b"}' % (text, element.deliveries, bytes(element.lease))


def etag(lease: Lease) -> tuple[tuple[bytes, bytes], ...]:
    """The lease as a header, for a later If-Match."""
    return ((b"ETag", b'"%b"' % bytes(lease)),)


async def take(handler: Handler, queue: bytes) -> Element | None:
    """The oldest element, removed; nothing is removed for a client that has left already."""
    if handler.gone:
        return None
    found: Element | None = await handler.app.core.take(queue)
    return found


def bound(handler: Handler, wait: Wait) -> None:
    """A client that leaves waits no more; nor does one that closes its side, and it is answered that nothing waits.

    It may have left, so what is on its way to it goes back.
    """
    handler.on_gone = [*(handler.on_gone or ()), wait.leave]
    handler.on_half = [*(handler.on_half or ()), wait.leave]
    if handler.request.connection.half:
        wait.leave()


async def several(handler: Handler, queue: bytes, asked: Mapping[str, int]) -> list[Element]:
    """What `wait`, `max` and `lease` ask for. What comes for a client that has left goes back."""
    if handler.gone:
        return []
    core, most, ms, wait = handler.app.core, asked.get("max", 1), asked.get("lease", 0), asked.get("wait", 0)
    # What is taken behind it could not be answered before it, and would be lost with a client that leaves.
    handler.request.alone = wait > 0 or most > 1
    if wait:
        waits = handler.app.waiting.enter(queue, most, wait / 1000, ms)
        bound(handler, waits)
        waited: list[Element] = await waits.elements
        return waited
    if ms:
        leased: list[Element] = await core.lease(queue, most, ms)
        if handler.gone and leased:
            _back(handler, core.nack(queue, [Nack(element.lease, 0) for element in leased]))
        return leased
    taken = await core.take_many(queue, most)
    if handler.gone:
        _back(handler, core.untake(taken))
    return [element for element, _ in taken]


def _back(handler: Handler, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Bring back what nobody waits for any more; what goes wrong with that stands in the log."""
    drive(coroutine, lambda done: None, handler.failed)


async def hand_out(handler: Handler, queue: bytes, known: Mapping[str, Any] = HAND_OUT) -> Answer | None:
    """What GET, take and GET /?queue= do: remove or lease the oldest, and answer it; None when nothing waits."""
    asked = handler.options(known)
    handler.jsonp(b"")  # a bad callback must not cost an element
    if not any(word in asked for word in HAND_OUT):
        element = await take(handler, queue)
        return None if element is None else handler.jsonp(shown(element))
    elements = await several(handler, queue, asked)
    if not elements:
        return None
    leased = "lease" in asked
    if "max" in asked:
        return handler.jsonp(b"[%b]" % b", ".join([shown(element, leased) for element in elements]))
    answer = handler.jsonp(shown(elements[0], leased))
    return answer._replace(headers=etag(elements[0].lease)) if leased else answer


def plain(handler: Handler) -> bool:
    """Whether the request carries nothing but itself: no query, no header of ours, no body."""
    request = handler.request
    return not (request.raw_query or request.fields.special or request.body)


class Queue(Handler):
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
        return tuple(one for one in super().methods() if one != "GET" or self.app.config.get_consumes)

    async def post(self, raw: bytes) -> bytes | Answer:
        """Store an element, or a batch of them; the keys are the answer."""
        queue = name(raw)
        request = self.request
        form = request.fields.form
        # A form of one field has no room for an option beside the value; its names may be escaped.
        more = b"&" in request.body if form == 1 else form or is_batch(request)
        if more or request.raw_query or request.fields.special:
            return await store(self, queue, self.options(STORE))
        return b"%b:%d\r\n" % (queue, await self.app.core.add(queue, value_of(self)))

    async def get(self, raw: bytes) -> Answer:
        """Remove the oldest element and answer it; 204 when nothing waits."""
        queue = name(raw)
        if not self.app.config.get_consumes:
            raise NotAllowed(NO_GET, self.methods())
        if not plain(self):
            return await hand_out(self, queue) or Answer(status=204)
        element = await take(self, queue)
        return Answer(status=204) if element is None else Answer(shown(element) + b"\r\n", 200, JSON)

    async def head(self, raw: bytes) -> Answer:
        """The lengths, as headers."""
        queue = name(raw)
        self.options({})
        books = await self.app.core.ledger(queue)
        lengths = ((b"Waiting", "waiting"), (b"Delayed", "delayed"), (b"Leased", "leased"))
        return Answer(b"", 200, JSON, tuple((b"RestMQ-" + word, b"%d" % books[state]) for word, state in lengths))

    async def delete(self, raw: bytes) -> Answer:
        """Purge the queue; with forget=1 its counter and settings go too."""
        queue = name(raw)
        forget = self.options(FORGET).get("forget", False)
        self.jsonp(b"")
        had = await self.app.core.purge(queue, forget)
        self.did("{done} the queue {queue}", done="forgot" if forget else "purged", queue=queue.decode("utf-8"))
        return self.json({"queue": queue.decode("utf-8"), "status": int(had)})

    verbs: ClassVar[dict[str, Any]] = {"POST": post, "GET": get, "HEAD": head, "DELETE": delete}


class Take(Handler):
    """/q/NAME/take: GET /q/NAME for those that must not change things with a GET."""

    gives: ClassVar = {"POST": (JSON,)}
    sections: ClassVar = {"POST": "rest:consumer"}

    async def post(self, raw: bytes) -> Answer:
        """Remove or lease the oldest element and answer it."""
        return await hand_out(self, name(raw)) or Answer(status=204)

    verbs: ClassVar[dict[str, Any]] = {"POST": post}


class Root(Handler):
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
            page: Answer = self.app.pages.page(self.request, "index.html")
            return page
        # Judged by the decoded name, which is what hands out: %71ueue is queue, too.
        self.allow("rest:consumer")
        if self.request.method == "HEAD":
            raise NotAllowed("HEAD takes nothing; HEAD /q/NAME tells the queue's lengths", ("GET", "POST", "OPTIONS"))
        if not self.app.config.get_consumes:
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

    verbs: ClassVar[dict[str, Any]] = {"POST": post, "GET": get}
