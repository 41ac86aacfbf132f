"""Resume: a live consumer gets what it missed before it gets what comes, without gap or double.

Owns what `since` may say and the walk through a queue's history; knows neither
HTTP nor sockets. While it walks, what is heard is kept for the consumer
(consumers.py); what is no longer kept is announced, never skipped in silence.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from restmq.consumers import Batch, Consumer, offer
from restmq.delivery import Delivery, Joined, pause
from restmq.element import Element, parse_key
from restmq.errors import BadKey, BadOption
from restmq.options import milliseconds

_ID = re.compile(rb"(0|[1-9][0-9]{0,15})@([0-9a-zA-Z.]{1,64})\Z")
_LAST = re.compile(rb"-([1-9][0-9]{0,6})\Z")
_AGO = re.compile(rb"[0-9.]+(ms|s|m|h|d)\Z")
_WORDS = (b"all", b"latest", b"now")


class Since(NamedTuple):
    """Where a consumer wants to go on in one queue, in replay.lua's words; `epoch` only with an id."""

    what: str
    which: int = 0
    epoch: bytes = b""


def parse(text: bytes, queues: list[bytes]) -> dict[bytes, Since]:
    """One word for all queues, or one for each: an id, a key, -20, 10m, all, latest, now. Raises BadOption."""
    words = text.split(b",")
    if len(words) == 1 and len(queues) > 1:
        word = words[0]
        if _ID.match(word):
            raise BadOption("since has one id for several queues: an id holds for its queue, so there is one for each")
        if b":" in word and word not in _WORDS:
            named = word.rpartition(b":")[0]
            if named not in queues:
                raise BadOption(f"since: the key {word.decode('utf-8', 'replace')!a} is of none of these queues")
            return {queue: _one(word, queue) if queue == named else Since("now") for queue in queues}
        words = words * len(queues)
    if len(words) != len(queues):
        raise BadOption(f"since has {len(words)} words for {len(queues)} queues: one for all, or one for each")
    return {queue: _one(word, queue) for queue, word in zip(queues, words)}


def _one(word: bytes, queue: bytes) -> Since:
    found = _ID.match(word)
    if found:
        return Since("after", int(found[1]), found[2])
    if word in _WORDS:
        return Since(word.decode())
    found = _LAST.match(word)
    if found:
        return Since("last", int(found[1]))
    if _AGO.match(word):
        return Since("ago", milliseconds("since", word.decode()))
    try:
        return Since("key", parse_key(word, queue))
    except BadKey:
        raise BadOption(
            f"since: {word.decode('utf-8', 'replace')!a} is none of: an id (P@EPOCH), a key, -20, 10m, all, latest, now"
        ) from None


async def begin(delivery: Delivery, consumer: Consumer, queue: bytes, since: Since, joined: int) -> tuple[int, bytes]:
    """Where a consumer that has joined at P `joined` starts in a queue: (P, epoch). Announces what is not kept.

    What came after it joined it gets in any case: perhaps it is the only one. Raises Unavailable.
    """
    what, which, epoch = since
    reply = await delivery.core.replay(queue, what, which, 0)
    now = reply[0]
    if epoch and epoch != now:
        reply = await delivery.core.replay(queue, "all", 0, 0)
        consumer.renewed(queue, now, reply[3])
    _, position, floor, start = reply[:4]
    start = min(start, position, joined)
    if start < floor and not _has(delivery, consumer, queue, start):
        consumer.missed(queue, start + 1, floor)
        start = floor
    return start, now


async def replay(delivery: Delivery, consumer: Consumer, name: bytes, start: int) -> None:
    """Give the consumer everything from `start` on, and then what comes. Raises Unavailable; it may leave meanwhile."""
    queue = delivery.queues[name]
    while consumer in queue.consumers.all:
        if _has(delivery, consumer, name, start):
            queue.consumers.replayed(consumer, start)
            return
        epoch, position, floor, _, to, *words = await delivery.core.replay(name, "after", start)
        if consumer not in queue.consumers.all:
            return
        if start < floor:
            consumer.missed(name, start + 1, floor)
        _offer(queue, consumer, epoch, words)
        start = max(to, floor) if to >= position else to
        if to >= position:
            queue.consumers.replayed(consumer, position)
            return
        while consumer.full and consumer in queue.consumers.all:
            await pause(delivery.clock, 0.05)


def _has(delivery: Delivery, consumer: Consumer, queue: bytes, start: int) -> bool:
    """Whether all that follows a position is kept for the consumer already."""
    first = delivery.queues[queue].consumers.kept(consumer) if queue in delivery.queues else 0
    return 0 < first <= start + 1


def _offer(queue: Joined, consumer: Consumer, epoch: bytes, words: list[bytes]) -> None:
    """Batches of consecutive positions: what has ended leaves holes."""
    run: list[Element] = []
    first = 0
    for at in range(0, len(words), 3):
        position, number, value = int(words[at]), int(words[at + 1]), words[at + 2]
        if run and position != first + len(run):
            offer(consumer, Batch(queue.name, run, first, epoch))
            run = []
        if not run:
            first = position
        run.append(Element(queue.name, number, value, 0, 0, epoch))
    if run:
        offer(consumer, Batch(queue.name, run, first, epoch))
