"""/q/NAME/ack: many leases at once.

Owns what the body of an acknowledgement means; knows of the core only its verbs. Read api/commands.py next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from restmq.api.element import given_back
from restmq.api.services import BrokerHandler
from restmq.http.handler import Answer, name
from restmq.http.request import Most
from restmq.model import document, options
from restmq.model.element import parse_lease
from restmq.model.errors import BadOption, BadRequest, TooLarge
from restmq.model.options import MOST
from restmq.model.suggest import hint
from restmq.runtime.future import begun
from restmq.store.requests import Nack

NACK = ("lease", "delay", "at", "error", "dead")
EXAMPLE = '{"ack": ["1.1@EPOCH"], "nack": [{"lease": "2.1@EPOCH", "delay": 30, "error": "why"}]}'
LARGEST = 4 << 20  # bytes of a body: twice MOST leases with the reasons, each escaped


class Ack(BrokerHandler):
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
        core = self.services.core
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
    return word, given_back(parse_lease(word.encode("utf-8")), asked)


def switch(field: str, value: Any) -> bool:
    """A JSON field that is true or false. Raises BadOption."""
    if not isinstance(value, bool):
        raise BadOption(f"the field {field!r} is true or false")
    return value
