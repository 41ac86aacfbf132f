"""/q/NAME/ack: many leases at once.

Owns the meaning of an acknowledgement's body. Of the store it calls only the verbs. Read api/commands.py next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Union

from restmq.api.element import TouchOptions, given_back
from restmq.api.services import BrokerHandler
from restmq.http.handler import Answer, path_queue
from restmq.http.request import BodyLimit
from restmq.model import document, options
from restmq.model.element import parse_lease
from restmq.model.errors import BadOption, BadRequest, TooLarge
from restmq.model.options import MOST
from restmq.model.suggest import hint
from restmq.runtime.future import begun
from restmq.store.requests import Nack

NACK = ("lease", "delay", "at", "error", "dead")
List = Union[list[document.Json], document.Entries]
EXAMPLE = '{"ack": ["1.1@EPOCH"], "nack": [{"lease": "2.1@EPOCH", "delay": 30, "error": "why"}]}'
LARGEST = 4 << 20  # most bytes of a body: twice MOST leases with their reasons, all of them escaped


class Ack(BrokerHandler):
    """/q/NAME/ack: many leases at once."""

    body = "own"
    sections: ClassVar = {"POST": "rest:consumer"}

    def body_limit(self) -> BodyLimit:
        return BodyLimit(LARGEST, "an acknowledgement")

    async def post(self, raw: bytes) -> Answer:
        """Acknowledge some leases, give others back, and answer which were lost.

        If one is malformed, nothing is done.
        """
        queue = path_queue(raw)
        self.options({})
        self.jsonp(b"")
        document = _document(self.request.body)
        to_ack, to_nack = _list(document, "ack"), _list(document, "nack")
        acks = {_text(f"lease {place} of 'ack'", one): None for place, one in enumerate(to_ack, 1)}
        nacks = dict(_nack(f"entry {place} of 'nack'", one) for place, one in enumerate(to_nack, 1))
        leases = [parse_lease(text.encode("utf-8")) for text in acks]
        given = [*leases, *(nack.lease for nack in nacks.values())]
        if len(set(given)) < len(to_ack) + len(to_nack):
            raise BadRequest("a lease stands there twice; each can be acknowledged or given back once")
        core = self.services.core
        if any(nack.until_ms for nack in nacks.values()):  # Redis may refuse `at`; then nothing may be done
            back = await core.nack(queue, list(nacks.values()))
            held = [*await core.ack(queue, leases), *back]
        else:
            acked = begun(core.ack(queue, leases))  # both calls leave in one write
            nacked = begun(core.nack(queue, list(nacks.values())))
            held = [*await acked, *await nacked]
        return self.json(
            {
                "queue": queue.decode("utf-8"),
                "acked": sum(held[: len(acks)]),
                "nacked": sum(held[len(acks) :]),
                "lost": [text for text, holds in zip([*acks, *nacks], held) if not holds],
            }
        )


def _document(text: bytes) -> document.Document:
    found = document.read(text, f"send an object: {EXAMPLE}")
    if not found:
        raise BadRequest(f"send an object: {EXAMPLE}")
    _known(found, ("ack", "nack"), "the object")
    return found


def _known(given: Iterable[str], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            raise BadRequest(f"unknown field {name[:40]!a} in {where}; {hint(name, known)}")


def _list(given: document.Document, name: str) -> List:
    found = given.get(name, [])
    if not isinstance(found, (list, document.Entries)):
        raise BadRequest(f"the field {name!r} must be a list")
    if len(found) > MOST:
        raise TooLarge(f"{name!r} has {len(found)} leases; at most {MOST} are allowed: send several requests")
    return found


def _text(where: str, value: document.Json) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{where} must be a string")
    return value  # document.read() has refused lone surrogates


def _nack(where: str, given: document.Json) -> tuple[str, Nack]:
    """The lease as the client sent it, and what is to become of the element. Raises BadRequest, which says where."""
    if not isinstance(given, dict) or "lease" not in given:
        raise BadRequest(f'{where} must be an object with a lease: {{"lease": "N.D@EPOCH", "delay": 30}}')
    _known(given, NACK, where)
    text = _text(f"the lease of {where}", given["lease"])
    asked: TouchOptions = {"error": _text(f"the error of {where}", given.get("error", ""))}
    if "delay" in given:
        asked["delay"] = options.of_json("delay", given["delay"], options.delay)
    if "at" in given:
        asked["at"] = options.of_json("at", given["at"], options.at)
    if "dead" in given:
        asked["dead"] = switch("dead", given["dead"])
    return text, given_back(parse_lease(text.encode("utf-8")), asked)


def switch(field: str, value: object) -> bool:
    """A JSON field that is true or false. Raises BadOption."""
    if not isinstance(value, bool):
        raise BadOption(f"the field {field!r} must be true or false")
    return value
