"""Resume: a live consumer gets what it missed before it gets what comes, without gap or double.

Owns what `since` may say and the walk through a queue's history; knows neither
HTTP nor sockets. While it walks, what is heard is kept for the consumer
(consumers.py); what is no longer kept is announced, never skipped in silence.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from restmq.consumers import Batch, Consumer
from restmq.delivery import Delivery, Joined
from restmq.element import Element, parse_key, told
from restmq.errors import BadKey, BadOption, Unavailable
from restmq.options import milliseconds
from restmq.slot import pause

_ID = re.compile(rb"(0|[1-9][0-9]{0,15})@([0-9a-zA-Z.]{1,64})\Z")
_LAST = re.compile(rb"-([1-9][0-9]{0,6})\Z")
_AGO = re.compile(rb"[0-9.]+(ms|s|m|h|d)\Z")
_WORDS = (b"all", b"now")
UNREADABLE = b"unreadable"  # an epoch that no queue has
PAUSE = 0.01  # seconds between looks whether a socket takes more of the past
AWAY = 0.3  # seconds until Redis is asked again


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
        if b":" in word:
            named = word.rpartition(b":")[0]
            if named not in queues:
                raise BadOption(f"since: the key {told(word)} is of none of these queues")
            return {queue: _one(word, queue) if queue == named else Since("now") for queue in queues}
        words = words * len(queues)
    if len(words) != len(queues):
        raise BadOption(f"since has {len(words)} words for {len(queues)} queues: one for all, or one for each")
    return {queue: _one(word, queue) for queue, word in zip(queues, words)}


def returning(text: bytes, queues: list[bytes]) -> dict[bytes, Since]:
    """Where a stream goes on whose client comes back with its last id.

    It cannot mend an id that is none of ours, and would give up at an error. So that is one of another epoch:
    it is told of a reset, and gets all that is kept.
    """
    words = text.split(b",")
    if len(words) != len(queues):
        words = [b""] * len(queues)
    return {queue: _id(word) or Since("after", 0, UNREADABLE) for queue, word in zip(queues, words)}


def _id(word: bytes) -> Since | None:
    found = _ID.match(word)
    return Since("after", int(found[1]), found[2]) if found else None


def _one(word: bytes, queue: bytes) -> Since:
    found = _id(word)
    if found:
        return found
    if word == b"latest":
        return Since("last", 1)
    if word in _WORDS:
        return Since(word.decode())
    last = _LAST.match(word)
    if last:
        return Since("last", int(last[1]))
    if _AGO.match(word):
        return Since("ago", milliseconds("since", word.decode()))
    try:
        return Since("key", parse_key(word, queue))
    except BadKey:
        raise BadOption(
            f"since: {told(word)} is none of: an id (P@EPOCH), a key, -20, 10m, all, latest, now"
        ) from None


async def begin(delivery: Delivery, queue: bytes, since: Since, joined: int) -> tuple[int, bytes]:
    """Where a consumer that has joined at P `joined` starts in a queue: (P, epoch); with an id, what that says.

    What came after it joined it gets in any case: perhaps it is the only one. Raises Unavailable.
    """
    what, which, epoch = since
    if epoch:
        return which, epoch
    reply = await delivery.core.replay(queue, what, which, 0)
    return min(reply[3], joined), reply[0]


async def replay(delivery: Delivery, consumer: Consumer, name: bytes, start: int, epoch: bytes) -> None:
    """Give a consumer that has joined all that came after a position of an epoch, and then what comes.

    What is not kept it is told, and that another epoch has begun. It may leave, and Redis go and come back, meanwhile.
    """
    queue, joined = delivery.queues.get(name), start
    if queue is not None and epoch == queue.epoch:
        joined = queue.consumers.begins(consumer, start)
    while queue is not None and consumer in queue.consumers.all:
        if epoch == queue.epoch and start <= queue.position and 0 < queue.consumers.kept(consumer) <= start + 1:
            # All that follows is here.
            queue.consumers.replayed(consumer, start)
            return
        try:
            now, position, floor, _, to, *words = await delivery.core.replay(name, "after", start)
        except Unavailable:  # who is connected stays connected: the past goes on when Redis is back
            await pause(delivery.clock, AWAY)
            _unkept(delivery, consumer)
            continue
        if consumer not in queue.consumers.all:
            return
        delivery.renewed(queue, now, position)
        if not start and not position and epoch != UNREADABLE:  # nobody ever wrote to it: see Delivery._renew()
            epoch = now
        if now != epoch:
            start, epoch = floor, now
            if epoch == queue.epoch:
                queue.consumers.begins(consumer, start)
            consumer.renewed(name, epoch, start)
            continue
        if start > position:  # an id of what Redis has lost, or never had; what came since it joined is for it
            start = min(joined, position)
            queue.consumers.begins(consumer, start)
            continue
        if start < floor:
            consumer.missed(name, start + 1, floor)
        _offer(queue, consumer, epoch, words)
        start = max(to, floor)
        queue.consumers.reached(consumer, start)
        if start >= position and not consumer.full:
            queue.consumers.replayed(consumer, position)
            return
        while consumer.full and consumer in queue.consumers.all:
            await pause(delivery.clock, PAUSE)
            _unkept(delivery, consumer)
        _unkept(delivery, consumer)


def _unkept(delivery: Delivery, consumer: Consumer) -> None:
    """Nobody who reads slowly makes them pile up, nor those of the queues whose past comes after this one."""
    for name in delivery.of.get(consumer, ()):
        if name in delivery.queues:
            delivery.queues[name].consumers.read_again(consumer)


def _offer(queue: Joined, consumer: Consumer, epoch: bytes, words: list[bytes]) -> None:
    """One write; what has ended leaves holes between batches of consecutive positions."""
    elements: list[Element] = []
    frames: list[bytes] = []
    began = 0  # of the batch: its first place in elements, and its position
    first = 0
    for at in range(0, len(words), 3):
        position, number, value = int(words[at]), int(words[at + 1]), words[at + 2]
        if position != first + len(elements) - began:
            frames.append(_framed(queue, consumer, elements[began:], first, epoch))
            began, first = len(elements), position
        elements.append(Element(queue.name, number, value, 0, 0, epoch))
    if elements:
        frames.append(_framed(queue, consumer, elements[began:], first, epoch))
        consumer.deliver(b"".join(frames), queue.name, Batch(queue.name, elements, 0, epoch))


def _framed(queue: Joined, consumer: Consumer, elements: list[Element], first: int, epoch: bytes) -> bytes:
    return consumer.frame(Batch(queue.name, elements, first, epoch)) if elements else b""
