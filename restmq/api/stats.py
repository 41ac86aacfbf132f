"""Looking at queues: their numbers, their elements and their ledger. Looking changes nothing.

Owns what /stats, /peek and /ledger show, and the pages of a listing of queues. Of the store it calls only the verbs.
api/pages.py shows queues to a person in a browser. api/admin.py and api/dead_letters.py change queues.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, ClassVar, TypedDict, cast

from twisted.internet.defer import DeferredList

from restmq.api.services import BrokerHandler
from restmq.http.handler import Answer, path_queue
from restmq.model.element import parse_key
from restmq.model.errors import BadOption, Gone
from restmq.model.options import at_most
from restmq.runtime.future import deferred
from restmq.store.core import ANSWER_BYTES, Core
from restmq.store.replies import Peeked, shown

LOOK = "rest:consumer"
NAMED = 1000  # most queues in one listing, and most elements in one look
PEEKED = 50  # elements in one look without max=
FIRST = 10  # elements asked for before their size is known
STATES = ("waiting", "leased", "delayed", "dead", "history")


class ListingOptions(TypedDict, total=False):
    """The options of a listing of queues."""

    after: str
    match: str
    max: int


class PeekOptions(TypedDict, total=False):
    """The options of /peek/NAME; `after` is an element's number."""

    state: str
    after: int
    max: int


def listing_options(handler: BrokerHandler) -> ListingOptions:
    """The options of a listing of queues. Raises BadOption."""
    return cast(ListingOptions, handler.options({"after": str, "match": str, "max": at_most}))


async def named(handler: BrokerHandler, more: int = 0) -> list[bytes]:
    """The queues that a listing asks for (after=, match=, max=), and up to `more` further ones. Raises BadOption."""
    asked = listing_options(handler)
    return await handler.services.core.inspection.queues(
        asked.get("after", "").encode("utf-8"), asked.get("match", "").encode("utf-8"), asked.get("max", NAMED) + more
    )


async def together(asked: list[Coroutine[object, object, Any]]) -> list[Any]:  # Any: the answers differ in type
    """Ask several questions in one turn, and so in one write, and return their answers. Raises the first error."""
    # All errors are consumed, so that a Redis that went away does not fill the log.
    answers = await DeferredList([deferred(one) for one in asked], consumeErrors=True)
    for good, answer in answers:
        if not good:
            raise answer.value
    return [answer for _, answer in answers]


class Stats(BrokerHandler):
    """/stats/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """Answer the numbers of one queue."""
        queue = path_queue(raw)
        self.options({})
        stats = await self.services.core.inspection.stats(queue)
        rates = self.services.rates.of(stats)
        first = {"queue": queue.decode("utf-8"), "redis": self.services.core.redis_name, "len": stats.pop("len")}
        return self.json({**first, **stats, **rates}, b"")


class AllStats(BrokerHandler):
    """/stats/."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """Answer the numbers of all queues."""
        stats = await together([self.services.core.inspection.stats(queue) for queue in await named(self)])
        queues = {one["name"]: {**one, **self.services.rates.of(one)} for one in stats}
        return self.json({"count": len(queues), "queues": queues, "redis": self.services.core.redis_name}, b"")


class Ledger(BrokerHandler):
    """/ledger/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """Answer the queue's ledger."""
        queue = path_queue(raw)
        self.options({})
        return self.json({"queue": queue.decode("utf-8"), **await self.services.core.inspection.ledger(queue)})


async def look(handler: BrokerHandler, queue: bytes, state: str, after: int, wanted: int) -> Answer:
    """Answer up to `wanted` elements in a state that come after the element `after` (0: from the first).

    The answer has at most 1 MiB of values. Raises Gone if `after` is no longer in that state, because what comes after
    it is then unknown.
    """
    found, more = await _collect(handler.services.core, queue, state, after, wanted)
    name = queue.decode("utf-8")
    document: dict[str, object] = {"queue": name, "state": state, "elements": [shown(one) for one in found]}
    if more:
        document["next"] = f"{name}:{found[-1].number}"
    return handler.json(document)


async def _collect(core: Core, queue: bytes, state: str, after: int, wanted: int) -> tuple[list[Peeked], bool]:
    """The elements, and whether there are more.

    They are asked for in pages, because large values could make a GiB of answers.
    """
    held: list[Peeked] = []
    size, at, ask = 0, after, FIRST
    if state == "history":  # one page, because history_bytes bounds it, and each page must search for its first element
        ask = wanted + 1
    while len(held) <= wanted:
        some = await core.inspection.peek(queue, state, at, min(ask, wanted + 1 - len(held)))
        if not some:
            if some is None and not held:
                raise _gone(queue, state, after)
            return held, some is None  # None: the last element left meanwhile; the request with `next` says so
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
    return Gone(f"{key} is no longer {state}, so nothing comes after it; begin again without `after`")


def _state(text: str) -> str:
    if text not in STATES:
        raise BadOption(f"state must be one of {', '.join(STATES)}, not {text[:40]!a}")
    return text


class Peek(BrokerHandler):
    """/peek/NAME."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self, raw: bytes) -> Answer:
        """Answer elements in one state."""
        queue = path_queue(raw)
        known = {"state": _state, "max": at_most, "after": lambda key: parse_key(key.encode("utf-8"), queue)}
        asked = cast(PeekOptions, self.options(known))
        return await look(self, queue, asked.get("state", "waiting"), asked.get("after", 0), asked.get("max", PEEKED))
