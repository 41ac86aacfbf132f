"""/q/NAME/N and /q/NAME/ack: one element, and many leases.

Owns what If-Match, the options of a lease and the body of an acknowledgement
mean; knows of the core only its verbs. Read api/commands.py next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from restmq.api.queue import etag
from restmq.http.handler import JSON, Answer, Handler, name
from restmq.http.request import Most
from restmq.model import document, options
from restmq.model.element import Lease, number, parse_lease
from restmq.model.errors import BadKey, BadOption, BadRequest, LeaseLost, NotFound, TooLarge
from restmq.model.options import MOST
from restmq.model.suggest import hint
from restmq.runtime.future import begun
from restmq.store.core import Nack
from restmq.store.replies import shown

TOUCH: dict[str, Callable[[str], Any]] = {
    "lease": options.release,
    "delay": options.delay,
    "at": options.at,
    "error": str,
    "dead": lambda text: options.yes("dead", text),
}
NACK = ("lease", "delay", "at", "error", "dead")
EXAMPLE = '{"ack": ["1.1@EPOCH"], "nack": [{"lease": "2.1@EPOCH", "delay": 30, "error": "why"}]}'
LARGEST = 4 << 20  # bytes of a body: twice MOST leases with the reasons, each escaped
REASON = 256  # characters of a reason; lua/lib/lease.lua keeps 200 bytes of it
_GONE = "there is no such element: it was taken, acknowledged or deleted, its ttl is over, or it never was"


def matched(handler: Handler, wanted: int) -> Lease | None:
    """The lease that If-Match names, None when there is none. Raises BadKey, LeaseLost."""
    given: bytes | None = handler.request.fields.values.get(b"if-match")
    if given is None:
        return None
    if b"," in given or given[:2] == b"W/" or given == b"*":
        kind = "any element" if given == b"*" else "a weak tag" if given[:2] == b"W/" else "several"
        raise BadKey(f'If-Match takes one lease as the element came with it, "N.D@EPOCH", not {kind}')
    return lease_of(given, wanted)


def lease_of(text: bytes, wanted: int) -> Lease:
    """The lease in a text, for the element it must belong to. Raises BadKey, LeaseLost."""
    lease = parse_lease(text)
    if lease.number != wanted:
        raise LeaseLost(f"this is a lease of element {lease.number}, not of {wanted}")
    return lease


async def touch(core: Any, queue: bytes, wanted: int, lease: Lease | None, asked: Mapping[str, Any]) -> Lease | None:
    """Prolong a lease, and answer it, or with `lease` 0 or `dead` give it back, and answer None.

    `asked` has `lease` and perhaps `delay` in ms, `at`, a Unix time in ms, `error` and `dead`. Raises BadOption,
    NotFound, LeaseLost.
    """
    dead = asked.get("dead", False)
    if "lease" not in asked and not dead:
        raise BadOption("it needs lease: how long from now the lease is to hold; 0 gives it back")
    if asked.get("lease"):
        if dead or "delay" in asked or "at" in asked or asked.get("error"):
            raise BadOption("delay, at and error go with lease=0, which gives the lease back; dead also without lease")
        longer: Lease | None = await core.prolong(queue, wanted, lease, asked["lease"])
        if longer is None:
            raise NotFound(_GONE)
        return longer
    if not await core.giveback(queue, wanted, lease, _given_back(lease or Lease(wanted, 0, b""), asked)):
        raise NotFound(_GONE)
    return None


def _given_back(lease: Lease, asked: Mapping[str, Any]) -> Nack:
    """A lease that is given back with these options. Raises BadOption for those that do not go together."""
    options.one_of(asked)
    dead, error = asked.get("dead", False), asked.get("error", "")
    if dead and ("delay" in asked or "at" in asked):
        raise BadOption("dead puts the element aside, so that delay and at do not go with it")
    reason = error[:REASON].encode("utf-8")
    return Nack(lease, asked.get("delay"), bool(error), reason, asked.get("at"), dead)


def touched(queue: bytes, wanted: int, lease: Lease | None) -> dict[str, object]:
    """What touch() did, for the client."""
    text = queue.decode("utf-8")
    said: dict[str, object] = {"queue": text, "key": f"{text}:{wanted}"}
    if lease is None:
        return {**said, "lease": None}
    return {**said, "deliveries": lease.deliveries, "lease": bytes(lease).decode("ascii")}


class One(Handler):
    """/q/NAME/N."""

    gives: ClassVar = {"POST": (JSON,)}
    anew = False
    conditions: ClassVar = {"POST": (b"if-match",), "DELETE": (b"if-match",)}
    sections: ClassVar = dict.fromkeys(("GET", "POST", "DELETE"), "rest:consumer")

    async def get(self, raw: bytes, digits: bytes) -> Answer:
        """Look at one element wherever it is, and leave it there."""
        queue, wanted = name(raw), number(digits)
        self.options({})
        self.jsonp(b"")
        found = await self.app.core.look(queue, wanted)
        if found is None:
            raise NotFound(_GONE)
        return self.json({"queue": queue.decode("utf-8"), **shown(found)})

    async def post(self, raw: bytes, digits: bytes) -> Answer:
        """Prolong a lease, or give it back."""
        queue, wanted = name(raw), number(digits)
        asked = self.options(TOUCH)
        self.jsonp(b"")
        lease = await touch(self.app.core, queue, wanted, matched(self, wanted), asked)
        answer = self.json(touched(queue, wanted, lease))
        return answer if lease is None else answer._replace(headers=etag(lease))

    async def delete(self, raw: bytes, digits: bytes) -> Answer:
        """Delete one element wherever it is, or with If-Match acknowledge it."""
        queue, wanted = name(raw), number(digits)
        self.options({})
        self.jsonp(b"")
        gone = await self.app.core.delete(queue, wanted, matched(self, wanted))
        text = queue.decode("utf-8")
        return self.json({"queue": text, "deleted": gone, "key": f"{text}:{wanted}"})

    verbs: ClassVar[dict[str, Any]] = {"GET": get, "POST": post, "DELETE": delete}


class Ack(Handler):
    """/q/NAME/ack: many leases at once."""

    body = "own"
    sections: ClassVar = {"POST": "rest:consumer"}

    def most(self) -> Most:
        return Most(LARGEST, "an acknowledgement")

    async def post(self, raw: bytes) -> Answer:
        """Acknowledge some, give others back, and tell which were lost. Nothing is done when one is malformed."""
        queue = name(raw)
        self.options({})
        self.jsonp(b"")
        told = _document(self.request.body)
        acks = {_text(f"lease {place} of 'ack'", one): None for place, one in enumerate(_list(told, "ack"), 1)}
        nacks = dict(_nack(f"entry {place} of 'nack'", one) for place, one in enumerate(_list(told, "nack"), 1))
        leases = [parse_lease(word.encode("utf-8")) for word in acks]
        given = [*leases, *(nack.lease for nack in nacks.values())]
        if len(set(given)) < len(told.get("ack", ())) + len(told.get("nack", ())):
            raise BadRequest("a lease stands there twice; each can be acknowledged or given back once")
        core = self.app.core
        if any(nack.until_ms for nack in nacks.values()):  # which may be refused; then nothing may be done
            back = await core.nack(queue, list(nacks.values()))
            held = [*await core.ack(queue, leases), *back]
        else:
            acked = begun(core.ack(queue, leases))  # both in one write
            nacked = begun(core.nack(queue, list(nacks.values())))
            held = [*await acked, *await nacked]
        return self.json(
            {
                "queue": queue.decode("utf-8"),
                "acked": sum(held[: len(acks)]),
                "nacked": sum(held[len(acks) :]),
                "lost": [word for word, one in zip([*acks, *nacks], held) if not one],
            }
        )

    verbs: ClassVar[dict[str, Any]] = {"POST": post}


def _document(text: bytes) -> document.Document:
    found = document.read(text, f"send an object: {EXAMPLE}")
    if not found:
        raise BadRequest(f"send an object: {EXAMPLE}")
    _known(found, ("ack", "nack"), "the object")
    return found


def _known(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for word in given:
        if word not in known:
            raise BadRequest(f"unknown field {word[:40]!a} in {where}; {hint(word, known)}")


def _list(told: Mapping[str, Any], word: str) -> list[Any] | document.Entries:
    found = told.get(word, [])
    if not isinstance(found, (list, document.Entries)):
        raise BadRequest(f"the field {word!r} must be a list")
    if len(found) > MOST:
        raise TooLarge(f"{word!r} has {len(found)} leases; at most {MOST} are allowed: send several requests")
    return found


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{where} must be a string")
    return value  # document.read() lets no lone surrogate through


def _nack(where: str, given: Any) -> tuple[str, Nack]:
    """The lease as it was sent, and what is to become of it. Raises BadRequest, which says where."""
    if not isinstance(given, dict) or "lease" not in given:
        raise BadRequest(f'{where} must be an object with a lease: {{"lease": "N.D@EPOCH", "delay": 30}}')
    _known(given, NACK, where)
    word = _text(f"the lease of {where}", given["lease"])
    asked: dict[str, Any] = {"error": _text(f"the error of {where}", given.get("error", ""))}
    for when, parse in (("delay", options.delay), ("at", options.at)):
        if when in given:
            asked[when] = options.told(when, given[when], parse)
    if "dead" in given:
        asked["dead"] = switch("dead", given["dead"])
    return word, _given_back(parse_lease(word.encode("utf-8")), asked)


def switch(field: str, value: Any) -> bool:
    """A JSON field that is true or false. Raises BadOption."""
    if not isinstance(value, bool):
        raise BadOption(f"the field {field!r} is true or false")
    return value
