"""Taking elements: GET /q/NAME, POST /q/NAME/take and GET /?queue=.

Owns how elements are handed out and shown. Of the store it calls only the verbs. Read api/element.py next.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from json.encoder import encode_basestring_ascii as quote

from restmq.api.client import Client
from restmq.api.services import BrokerHandler, Services
from restmq.http.handler import Answer
from restmq.model import options
from restmq.model.element import Element, Lease
from restmq.runtime.future import drive, fault, nothing
from restmq.store.requests import Nack

HAND_OUT = {"wait": options.wait, "max": options.at_most, "lease": options.lease}


def shown(element: Element, leased: bool = False) -> bytes:
    """An element as REST shows it. A leased one has what its consumer needs to acknowledge it."""
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


async def take(handler: BrokerHandler, queue: bytes) -> Element | None:
    """The oldest element, removed. Nothing is removed for a client that has left already."""
    if handler.gone:
        return None
    found: Element | None = await handler.services.core.take(queue)
    return found


async def elements(services: Services, client: Client, queue: bytes, asked: Mapping[str, int]) -> list[Element]:
    """The elements that `wait`, `max` and `lease` ask for, removed or leased. If the client has left, they go back."""
    if client.gone:
        return []
    core, most, ms, wait = services.core, asked.get("max", 1), asked.get("lease", 0), asked.get("wait", 0)
    if wait:
        waits = services.waiting.enter(queue, most, wait / 1000, ms)
        client.waits(waits)
        return await waits.elements
    if ms:
        leased = await core.lease(queue, most, ms)
        if client.gone and leased:
            _back(core.nack(queue, [Nack(element.lease, 0) for element in leased]))
        return leased
    if "max" not in asked:
        element = await core.take(queue)
        return [] if element is None else [element]
    taken = await core.take_many(queue, most)
    if client.gone:
        _back(core.untake(taken))
    return [element for element, _ in taken]


def _back(coroutine: Coroutine[object, object, object]) -> None:
    """Bring elements back that no client waits for any more."""
    drive(coroutine, nothing, partial(fault, "bringing back what was taken for a client that left"))


async def hand_out(
    handler: BrokerHandler, queue: bytes, known: Mapping[str, Callable[[str], int]] = HAND_OUT
) -> Answer | None:
    """Remove or lease the oldest elements and answer them, for GET, take and GET /?queue=. None if nothing waits."""
    asked = handler.options(known)
    handler.jsonp(b"")  # refuses a bad callback before an element is taken
    # Elements that a later request takes could not be answered before this one, and would be lost if the client leaves.
    handler.request.alone = asked.get("wait", 0) > 0 or asked.get("max", 1) > 1
    found = await elements(handler.services, Client(handler), queue, asked)
    if not found:
        return None
    leased = "lease" in asked
    if "max" in asked:
        return handler.jsonp(b"[%b]" % b", ".join([shown(element, leased) for element in found]))
    answer = handler.jsonp(shown(found[0], leased))
    return answer._replace(headers=etag(found[0].lease)) if leased else answer


def plain(handler: BrokerHandler) -> bool:
    """Whether the request has no query, no special header line and no body."""
    request = handler.request
    return not (request.raw_query or request.fields.special or request.body)
