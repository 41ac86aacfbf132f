"""/q/NAME/N: one element, and its lease.

Owns the meaning of If-Match and of the options of a lease. Of the store it calls only the verbs. Read api/ack.py next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypedDict, cast

from restmq.api.pull import etag
from restmq.api.services import BrokerHandler
from restmq.http.handler import JSON, Answer, path_queue
from restmq.model import options
from restmq.model.element import Lease, number, parse_lease
from restmq.model.errors import BadKey, BadOption, LeaseLost, NotFound
from restmq.store.core import Core
from restmq.store.replies import shown
from restmq.store.requests import Nack

TOUCH: dict[str, Callable[[str], object]] = {
    "lease": options.release,
    "delay": options.delay,
    "at": options.at,
    "error": str,
    "dead": lambda text: options.switch("dead", text),
}
REASON = 256  # characters of a reason that are sent to Redis; lua/lib/leases.lua keeps 200 bytes
_GONE = "there is no such element: it was taken, acknowledged or deleted, its ttl is over, or it never was"


class TouchOptions(TypedDict, total=False):
    """The options that end or prolong a lease: `lease` and `delay` in ms, `at` a Unix time in ms."""

    lease: int
    delay: int
    at: int
    error: str
    dead: bool


def matched(handler: BrokerHandler, wanted: int) -> Lease | None:
    """The lease that If-Match names, or None without If-Match. Raises BadKey, LeaseLost."""
    given: bytes | None = handler.request.fields.values.get(b"if-match")
    if given is None:
        return None
    if b"," in given or given[:2] == b"W/" or given == b"*":
        kind = "any element" if given == b"*" else "a weak tag" if given[:2] == b"W/" else "several"
        raise BadKey(f'If-Match takes one lease as it came with the element, "N.D@EPOCH", not {kind}')
    return lease_of(given, wanted)


def lease_of(text: bytes, wanted: int) -> Lease:
    """The lease in a text, which must be a lease of the element. Raises BadKey, LeaseLost."""
    lease = parse_lease(text)
    if lease.number != wanted:
        raise LeaseLost(f"this is a lease of element {lease.number}, not of {wanted}")
    return lease


async def touch(core: Core, queue: bytes, wanted: int, lease: Lease | None, asked: TouchOptions) -> Lease | None:
    """Prolong a lease and return it. With `lease` 0 or `dead`, give it back and return None.

    `asked` has `lease` and perhaps `delay` in ms, `at`, a Unix time in ms, `error` and `dead`. Raises BadOption,
    NotFound, LeaseLost.
    """
    dead = asked.get("dead", False)
    if "lease" not in asked and not dead:
        raise BadOption("lease is missing: send how long the lease is to hold from now; 0 gives it back")
    if asked.get("lease"):
        if dead or "delay" in asked or "at" in asked or asked.get("error"):
            raise BadOption("delay, at and error go with lease=0, which gives the lease back; dead also without lease")
        longer = await core.prolong(queue, wanted, lease, asked["lease"])
        if longer is None:
            raise NotFound(_GONE)
        return longer
    if not await core.give_back(queue, wanted, lease, given_back(lease or Lease(wanted, 0, b""), asked)):
        raise NotFound(_GONE)
    return None


def given_back(lease: Lease, asked: TouchOptions) -> Nack:
    """A lease that is given back with these options. Raises BadOption for options that exclude each other."""
    options.check_delay_or_at(asked)
    dead, error = asked.get("dead", False), asked.get("error", "")
    if dead and ("delay" in asked or "at" in asked):
        raise BadOption("dead puts the element aside, so delay and at do not go with it")
    reason = error[:REASON].encode("utf-8")
    return Nack(lease, asked.get("delay"), bool(error), reason, asked.get("at"), dead)


def touched(queue: bytes, wanted: int, lease: Lease | None) -> dict[str, object]:
    """The answer about what touch() did."""
    text = queue.decode("utf-8")
    said: dict[str, object] = {"queue": text, "key": f"{text}:{wanted}"}
    if lease is None:
        return {**said, "lease": None}
    return {**said, "deliveries": lease.deliveries, "lease": bytes(lease).decode("ascii")}


class One(BrokerHandler):
    """/q/NAME/N."""

    hand_out_types: ClassVar = {"POST": (JSON,)}
    repeat_differs = False
    conditions: ClassVar = {"POST": (b"if-match",), "DELETE": (b"if-match",)}
    sections: ClassVar = dict.fromkeys(("GET", "POST", "DELETE"), "rest:consumer")

    async def get(self, raw: bytes, digits: bytes) -> Answer:
        """Look at one element wherever it is, and leave it there."""
        queue, wanted = path_queue(raw), number(digits)
        self.options({})
        self.jsonp(b"")
        found = await self.services.core.inspection.look(queue, wanted)
        if found is None:
            raise NotFound(_GONE)
        return self.json({"queue": queue.decode("utf-8"), **shown(found)})

    async def post(self, raw: bytes, digits: bytes) -> Answer:
        """Prolong a lease, or give it back."""
        queue, wanted = path_queue(raw), number(digits)
        asked = cast(TouchOptions, self.options(TOUCH))
        self.jsonp(b"")
        lease = await touch(self.services.core, queue, wanted, matched(self, wanted), asked)
        answer = self.json(touched(queue, wanted, lease))
        return answer if lease is None else answer._replace(headers=etag(lease))

    async def delete(self, raw: bytes, digits: bytes) -> Answer:
        """Delete one element wherever it is, or with If-Match acknowledge it."""
        queue, wanted = path_queue(raw), number(digits)
        self.options({})
        self.jsonp(b"")
        gone = await self.services.core.delete(queue, wanted, matched(self, wanted))
        text = queue.decode("utf-8")
        return self.json({"queue": text, "deleted": gone, "key": f"{text}:{wanted}"})
