"""REST: /q/NAME and its elements. Producers POST, consumers GET.

Owns what a form, a body and a path mean; knows of the core only its verbs.
docs/protocol.txt is the reference. Read commands.py next.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from restmq import options
from restmq.element import Element, number, queue_name
from restmq.errors import BadRequest, BadValue, Error, NotAllowed, NotFound, TooLarge
from restmq.handler import JSON, Answer, Handler, name

TTL = {"ttl": options.ttl}
FORGET = {"forget": lambda text: options.yes("forget", text)}
NO_GET = "GET changes nothing here (get_consumes = no); POST /q/NAME/take takes"


class Prefetched(Error):
    """A browser asked ahead of its user (Sec-Purpose: prefetch): nothing is consumed."""

    status, type, title = 503, "prefetch", "Not for prefetching"


def checked(value: bytes, most: int) -> bytes:
    """A value, if it is UTF-8 and not too large. Raises BadValue, TooLarge."""
    if len(value) > most:
        raise TooLarge(f"the value has {len(value)} bytes, {most} are the most (max_value)")
    if not value.isascii():
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadValue(f"the value is not UTF-8: byte {error.start} cannot stand there") from None
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
            value = unquote_to_bytes(value)
        return checked(value, most)
    if not kind and request.fields.values.get(b"content-type"):
        return checked(body, most)
    if kind and len(body) > handler.app.config.max_form:
        raise TooLarge(f"the form has {len(body)} bytes, {handler.app.config.max_form} are the most")
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


def shown(element: Element) -> bytes:
    """An element as REST shows it."""
    return b'{"count": %d, "key": %b, "value": %b}' % (
        element.count,
        quote(element.key.decode("utf-8")).encode("ascii"),
        quote(element.value.decode("utf-8")).encode("ascii"),
    )


async def take(handler: Handler, queue: bytes) -> Element | None:
    """The oldest element, removed; nothing is removed for a client that has left already."""
    if handler.gone:
        return None
    if b"prefetch" in handler.request.fields.values.get(b"sec-purpose", b""):
        raise Prefetched("a prefetch consumes nothing; ask again when the element is really wanted")
    found: Element | None = await handler.app.core.take(queue)
    return found


def plain(handler: Handler) -> bool:
    """Whether the request carries nothing but itself: no query, no header of ours."""
    return not handler.request.raw_query and not handler.request.fields.special


class Queue(Handler):
    """/q/NAME."""

    hot = True
    sections: ClassVar = {
        "POST": "rest:producer",
        "GET": "rest:consumer",
        "HEAD": "rest:consumer",
        "DELETE": "admin",
    }

    async def post(self, raw: bytes) -> bytes:
        """Store an element; its key is the answer."""
        queue = name(raw)
        request = self.request
        ttl, form = 0, request.fields.form
        # A form of one field has no room for an option beside the value; its names may be escaped.
        if request.raw_query or request.fields.special or (form and (form == 2 or b"&" in request.body)):
            ttl = self.options(TTL).get("ttl", 0)
        value = value_of(self)
        added = (await self.app.core.add_all(queue, [value], ttl)).first if ttl else await self.app.core.add(queue, value)
        return b"%b:%d\r\n" % (queue, added)

    async def get(self, raw: bytes) -> Answer:
        """Remove the oldest element and answer it; 204 when nothing waits."""
        queue = name(raw)
        if not self.app.config.get_consumes:
            raise NotAllowed(NO_GET, "POST, HEAD, DELETE")
        if not plain(self):
            self.options({})
            self.jsonp(b"")  # a bad callback must not cost an element
        element = await take(self, queue)
        if element is None:
            return Answer(status=204)
        return self.jsonp(shown(element)) if self.request.raw_query else Answer(shown(element) + b"\r\n", 200, JSON)

    async def head(self, raw: bytes) -> Answer:
        """The lengths, as headers."""
        queue = name(raw)
        self.options({})
        waiting, delayed, leased = await self.app.core.lengths(queue)
        lengths = ((b"Waiting", waiting), (b"Delayed", delayed), (b"Leased", leased))
        return Answer(b"", 200, JSON, tuple((b"RestMQ-" + word, b"%d" % count) for word, count in lengths))

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

    sections: ClassVar = {"POST": "rest:consumer"}

    async def post(self, raw: bytes) -> Answer:
        """Remove the oldest element and answer it."""
        queue = name(raw)
        self.options({})
        self.jsonp(b"")
        element = await take(self, queue)
        return Answer(status=204) if element is None else self.jsonp(shown(element))

    verbs: ClassVar[dict[str, Any]] = {"POST": post}


class One(Handler):
    """/q/NAME/N."""

    sections: ClassVar = {"DELETE": "rest:consumer"}

    async def delete(self, raw: bytes, digits: bytes) -> Answer:
        """Delete one element wherever it is."""
        queue, wanted = name(raw), number(digits)
        self.options({})
        self.jsonp(b"")
        gone = await self.app.core.delete(queue, wanted)
        queue_text = queue.decode("utf-8")
        return self.json({"queue": queue_text, "deleted": gone, "key": f"{queue_text}:{wanted}"})

    verbs: ClassVar[dict[str, Any]] = {"DELETE": delete}


class Root(Handler):
    """/: the page, which is open; with `queue`, the same as /q/NAME as old clients have it, which is not."""

    sections: ClassVar = {"POST": "rest:producer"}

    async def post(self) -> bytes:
        """Store an element in the queue that the form names."""
        ttl = self.options(TTL).get("ttl", 0)
        found = self.field(b"queue")
        if not found:
            raise BadRequest("the form needs a field `queue`")
        queue = queue_name(found)
        value = value_of(self)
        added = (await self.app.core.add_all(queue, [value], ttl)).first if ttl else await self.app.core.add(queue, value)
        return b"%b:%d\r\n" % (queue, added)

    async def get(self) -> Answer:
        """The oldest element of the queue that the query names, or the page."""
        found = [value for word, value in self.request.query if word == b"queue"]
        if not found:
            return self.app.pages.page("index.html")
        # Judged by the decoded name, which is what hands out: %71ueue is queue, too.
        self.allow("rest:consumer")
        if not self.app.config.get_consumes:
            raise NotAllowed(NO_GET, "POST")
        if len(found) > 1:
            raise BadRequest(f"the parameter 'queue' was given {len(found)} times")
        queue = queue_name(found[0])
        self.options({"queue": str})
        self.jsonp(b"")
        element = await take(self, queue)
        if element is None:
            raise NotFound("nothing waits in this queue")
        return self.jsonp(shown(element))

    verbs: ClassVar[dict[str, Any]] = {"POST": post, "GET": get}
