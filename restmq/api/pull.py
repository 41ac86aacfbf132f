"""Taking elements: GET /q/NAME, POST /q/NAME/take and GET /?queue=.

Owns how elements are handed out and shown; knows of the core only its verbs. Read api/element.py next.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from restmq.delivery.waiting import Wait
from restmq.http.handler import Answer, Handler
from restmq.model import options
from restmq.model.element import Element, Lease
from restmq.runtime.future import drive
from restmq.store.core import Nack

HAND_OUT = {"wait": options.wait, "max": options.most, "lease": options.lease}


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
