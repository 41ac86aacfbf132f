"""Looking: the numbers of queues, their elements and their books, none of them touched.

Owns what /stats, /peek and /ledger show, and how a listing of queues is paged;
knows of the core only its verbs. What people see in a browser is api/pages.py;
what changes something is api/admin.py and api/dead_letters.py.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any, ClassVar

from twisted.internet.defer import DeferredList

from restmq.api.services import BrokerHandler
from restmq.http.handler import Answer, name
from restmq.model.element import parse_key
from restmq.model.errors import BadOption, Gone
from restmq.runtime.future import deferred
from restmq.store.core import ANSWER_BYTES
from restmq.store.replies import Peeked, shown

LOOK = "rest:consumer"
NAMED = 1000  # queues in one listing, and elements in one look
PEEKED = 50
FIRST = 10  # elements asked for before it is known how large they are
STATES = ("waiting", "leased", "delayed", "dead", "history")
_MOST = re.compile(r"0*([1-9][0-9]{0,2}|1000)\Z", re.ASCII)


def most(text: str) -> int:
    """How many are wanted, 1 to 1000. Raises BadOption."""
    found = _MOST.match(text)
    if not found:
        raise BadOption(f"max is a number from 1 to {NAMED}")
    return int(found[1])


async def named(handler: BrokerHandler, more: int = 0) -> list[bytes]:
    """The queues a listing asks for (after=, match=, max=), and `more` than that if there are. Raises BadOption."""
    asked = handler.options({"after": str, "match": str, "max": most})
    found: list[bytes] = await handler.services.core.inspection.queues(
        asked.get("after", "").encode("utf-8"), asked.get("match", "").encode("utf-8"), asked.get("max", NAMED) + more
    )
    return found


async def together(asked: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The answers to many questions, asked in one turn and so in one write; raises the first error."""
    # Every error is consumed here: the others of a Redis that went away must not fill the log.
    answers = await DeferredList([deferred(one) for one in asked], consumeErrors=True)
    for good, answer in answers:
        if not good:
            raise answer.value
    return [answer for _, answer in answers]


class Stats(BrokerHandler):
    """/stats/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """The numbers of one queue."""
        queue = name(raw)
        self.options({})
        stats = await self.services.core.inspection.stats(queue)
        rates = self.services.rates.of(stats)
        first = {"queue": queue.decode("utf-8"), "redis": self.services.core.redis_name, "len": stats.pop("len")}
        return self.json({**first, **stats, **rates}, b"")


class AllStats(BrokerHandler):
    """/stats/."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """The numbers of all queues."""
        stats = await together([self.services.core.inspection.stats(queue) for queue in await named(self)])
        queues = {one["name"]: {**one, **self.services.rates.of(one)} for one in stats}
        return self.json({"count": len(queues), "queues": queues, "redis": self.services.core.redis_name}, b"")


class Ledger(BrokerHandler):
    """/ledger/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """The queue's books."""
        queue = name(raw)
        self.options({})
        return self.json({"queue": queue.decode("utf-8"), **await self.services.core.inspection.ledger(queue)})


async def look(handler: BrokerHandler, queue: bytes, state: str, after: int, wanted: int) -> Answer:
    """Up to `wanted` elements in a state and at most 1 MiB of values, beyond the element `after` (0: from the first).

    Raises Gone when what comes next cannot be told, as `after` is not in that state any more.
    """
    found, more = await _collect(handler.services.core, queue, state, after, wanted)
    word = queue.decode("utf-8")
    document: dict[str, object] = {"queue": word, "state": state, "elements": [shown(one) for one in found]}
    if more:
        document["next"] = f"{word}:{found[-1].number}"
    return handler.json(document)


async def _collect(core: Any, queue: bytes, state: str, after: int, wanted: int) -> tuple[list[Peeked], bool]:
    """The elements, and whether there are more. Asked in pages: values may be large, and Redis must not send a GiB."""
    held: list[Peeked] = []
    size, at, ask = 0, after, FIRST
    if state == "history":  # bounded by history_bytes; an element's place in a long one has to be searched for
        ask = wanted + 1
    while len(held) <= wanted:
        some = await core.inspection.peek(queue, state, at, min(ask, wanted + 1 - len(held)))
        if not some:
            if some is None and not held:
                raise _gone(queue, state, after)
            return held, some is None  # None: the last went while we looked; `next` will tell so
        for one in some:
            size += len(one.value)
            if held and size > ANSWER_BYTES:
                return held, True
            held.append(one)
        at = held[-1].number
        ask = max(1, min(NAMED, (ANSWER_BYTES - size) // (1 + max(len(one.value) for one in some))))
    return held[:wanted], True


def _gone(queue: bytes, state: str, number: int) -> Gone:
    key = f"{queue.decode('utf-8')}:{number}"
    return Gone(f"{key} is not {state} any more, so nothing comes after it; begin again without `after`")


def _state(text: str) -> str:
    if text not in STATES:
        raise BadOption(f"state is one of {', '.join(STATES)}, not {text[:40]!a}")
    return text


class Peek(BrokerHandler):
    """/peek/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """Elements in one state."""
        queue = name(raw)
        asked = self.options({"state": _state, "max": most, "after": lambda key: parse_key(key.encode("utf-8"), queue)})
        return await look(self, queue, asked.get("state", "waiting"), asked.get("after", 0), asked.get("max", PEEKED))
