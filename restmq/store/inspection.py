"""Inspection: the calls that look at queues and elements, and change nothing.

Owns these calls and how their pages are put together. Knows neither HTTP nor consumers. store/replies.py has the form
of the replies, store/core.py the calls that change a queue.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from restmq.model.element import Element
from restmq.store import replies
from restmq.store.connection import Reply
from restmq.store.known import NAMES
from restmq.store.pipeline import Turn


class CallWhenRoom(Protocol):
    """Core.call_when_room(): a call whose answer may be large."""

    def __call__(self, patient: bool, name: str, queue: bytes, *words: bytes) -> Awaitable[Reply]: ...


class Inspection:
    """Looks at queues. Every method raises errors.Unavailable while Redis is away or slower than the deadline.

    newest(), peek() and look() also raise errors.NoRoom when clients leave too many answers unread.
    """

    def __init__(self, turn: Turn, context: bytes, call_when_room: CallWhenRoom) -> None:
        self._redis, self._call, self._context = turn.redis, turn.call, context
        self._call_when_room = call_when_room

    # -- queues

    async def queues(self, after: bytes = b"", match: bytes = b"", max: int = 1000) -> list[bytes]:
        """Names of queues in the order of their bytes: those beyond `after` that contain `match`, `max` at the most."""
        found: list[bytes] = []
        while len(found) < max:
            low = b"(" + after if after else b"-"
            page = await self._redis.call(b"ZRANGEBYLEX", NAMES, low, b"+", b"LIMIT", b"0", b"1000")
            found += [name for name in page if match in name]
            if len(page) < 1000:
                break
            after = page[-1]
        return found[:max]

    async def ledger(self, queue: bytes) -> dict[str, int]:
        """The queue's ledger: `added` is the sum of all the others but `bytes`; `imbalance` is the difference."""
        return replies.ledger(await self._call("look", queue, self._context))

    async def stats(self, queue: bytes) -> dict[str, object]:
        """The fields of one queue in /stats."""
        return replies.stats(queue, await self._call("look", queue, self._context))

    # -- elements

    async def newest(self, queue: bytes, most: int = 10) -> list[Element]:
        """The newest waiting elements, newest first."""
        reply = await self._call_when_room(False, "newest", queue, self._context, b"%d" % most)
        return [Element(queue, int(reply[at]), reply[at + 2], int(reply[at + 1])) for at in range(0, len(reply), 3)]

    async def peek(self, queue: bytes, state: str, after: int, most: int) -> list[replies.Peeked] | None:
        """Look at elements in a state: waiting, leased, delayed, dead or history.

        The page begins after the number `after`, and the answer is None when that one is not in the state. The order:

        - waiting and dead: by key;
        - leased and delayed: by the time at which that ends, and behind the leased, by key, the elements in flight;
        - history: in the order of delivery.
        """
        words = [state.encode(), b"%d" % after, b"%d" % most]
        reply = await self._call_when_room(False, "peek", queue, self._context, *words)
        while len(reply) == 2:  # not found yet: each call searches a thousand
            reply = await self._call("peek", queue, self._context, *words, reply[1])
        if state == "leased" and len(reply) < 8 * most:
            sent = await self._redis.scan(b"HSCAN", b"restmq:{%b}:y" % queue)
            way = sorted({int(word) for word in sent[::2]})  # a scan may bring one twice
            if reply == [b"?"] and after in way:
                reply, way = [], way[way.index(after) + 1 :]
            while reply != [b"?"] and way and len(reply) < 8 * most:
                some, way = way[:most], way[most:]
                words = [b"way", b"0", b"%d" % most, *(b"%d" % number for number in some)]
                reply = (reply + await self._call("peek", queue, self._context, *words))[: 8 * most]
        return None if reply == [b"?"] else replies.peeked(queue, reply)

    async def look(self, queue: bytes, number: int) -> replies.Peeked | None:
        """Look at one element; None when it is gone."""
        found = await self.peek(queue, "one", number, 1)
        return found[0] if found else None
