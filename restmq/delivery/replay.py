"""Replay: a live consumer gets the elements that it missed before new ones, without a gap and without doubles.

Owns the meaning of `since`, and the walk through a queue's history. Knows neither HTTP nor sockets. During the walk,
delivery/broadcast.py keeps new elements for the consumer. A consumer is told of the positions that history no longer
holds. live/consumer.py calls this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from restmq.delivery.batch import Batch
from restmq.delivery.consumer import Consumer
from restmq.delivery.pace import Pace
from restmq.delivery.service import Delivery
from restmq.delivery.subscription import Subscription
from restmq.model.element import Element, parse_key, quoted
from restmq.model.errors import BadKey, BadOption, Unavailable
from restmq.model.options import milliseconds
from restmq.runtime.future import pause

_ID = re.compile(rb"(0|[1-9][0-9]{0,15})@([0-9a-zA-Z.]{1,64})\Z")
_LAST = re.compile(rb"-([1-9][0-9]{0,6})\Z")
_AGO = re.compile(rb"[0-9.]{1,40}(ms|s|m|h|d)\Z")
_WORDS = (b"all", b"now")
UNREADABLE = b"unreadable"  # an epoch that no queue has
AWAY = 0.3  # seconds until Redis is asked again
PAGE_BYTES = 1 << 20  # of values, in a page of history
PIECE = 1 << 14  # bytes of values that are framed at once: on the wire they are up to six times as many
PIECE_ELEMENTS = 64  # and as many elements: the ids of a hundred queues are longer than most values


class Since(NamedTuple):
    """Where a consumer wants to go on in one queue, in the words of replay.lua. `epoch` comes only with an id."""

    what: str
    which: int = 0
    epoch: bytes = b""


def parse(text: bytes, queues: list[bytes]) -> dict[bytes, Since]:
    """Parse `since`: a word for all queues or for each: an id, a key, -20, 10m, all, latest, now. Raises BadOption."""
    words = text.split(b",")
    if len(words) == 1 and len(queues) > 1:
        word = words[0]
        if _ID.match(word):
            raise BadOption("since has one id for several queues: an id holds for its queue, so there is one for each")
        if b":" in word:
            named = word.rpartition(b":")[0]
            if named not in queues:
                raise BadOption(f"since: the key {quoted(word)} is of none of these queues")
            return {queue: _one(word, queue) if queue == named else Since("now") for queue in queues}
        words = words * len(queues)
    if len(words) != len(queues):
        many = f"{len(queues)} queue{'s' if len(queues) > 1 else ''}"
        raise BadOption(f"since has {len(words)} words for {many}: say one word for all, or one for each")
    return {queue: _one(word, queue) for queue, word in zip(queues, words)}


def returning(text: bytes, queues: list[bytes]) -> dict[bytes, Since]:
    """Parse the last id with which a client comes back to its stream.

    The client cannot correct an id that is not of RestMQ, and would give up at an error. So such an id counts as one of
    another epoch: the client is told of a reset, and gets all that is kept.
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
            f"since: {quoted(word)} is none of: an id (P@EPOCH), a key, -20, 10m, all, latest, now"
        ) from None


async def begin(delivery: Delivery, queue: bytes, since: Since, joined: int) -> tuple[int, bytes]:
    """Where a consumer that joined at position `joined` starts in a queue: position and epoch. An id says both itself.

    A consumer gets all elements that came after it joined in any case, because it may be the only one. Raises
    Unavailable.
    """
    what, which, epoch = since
    if epoch:
        return which, epoch
    found = await delivery.core.instances.history(queue, what, which, 0)
    return min(found.start, joined), found.epoch


async def replay(
    delivery: Delivery, consumer: Reader, name: bytes, start: int, epoch: bytes, behind: bool = False
) -> None:
    """Give a consumer that has joined all elements after a position of an epoch, and then new ones.

    The consumer reads page by page, at its own pace. It is told of positions that history does not hold, and of another
    epoch. Meanwhile it may leave, and Redis may go and come back. `behind` is for a consumer that has everything from
    its joining up to the position, and has not confirmed all of it.
    """
    queue = delivery.queues.get(name)
    if queue is None:
        return
    past = _Past(delivery, consumer, queue, start, epoch)
    if not behind and epoch == queue.epoch:
        past.joined = queue.consumers.broadcast.set_start(consumer, start)
    while past.goes_on:
        await consumer.pace.turn()
        try:
            caught_up = not past.goes_on or await past.page()
        except Unavailable:  # consumers stay connected: it goes on when Redis is back
            caught_up = False
            await pause(delivery.clock, AWAY)
            _unkept(delivery, consumer)
        finally:
            consumer.pace.done()
        if caught_up:
            return


class Reader(Consumer, Protocol):
    """A consumer that may read from history. At most `most` bytes may wait for it."""

    pace: Pace
    most: int


class _Past:
    """One consumer's way through one queue's history. It was given everything up to `start`."""

    def __init__(self, delivery: Delivery, consumer: Reader, queue: Subscription, start: int, epoch: bytes) -> None:
        self.delivery, self.consumer, self.queue = delivery, consumer, queue
        self.start, self.epoch = start, epoch
        self.size = min(PAGE_BYTES, consumer.most)  # bytes of values to ask for
        self.joined = start  # the position at which it joined

    @property
    def goes_on(self) -> bool:
        """Whether the consumer is still there."""
        return self.consumer in self.queue.consumers.all

    async def page(self) -> bool:
        """Give it the next page; True when it needs no other one. Raises Unavailable."""
        consumer, queue, broadcast = self.consumer, self.queue, self.queue.consumers.broadcast
        if (
            self.epoch == queue.epoch
            and self.start <= queue.position
            and broadcast.first_kept(consumer)
            and self._whole
        ):
            broadcast.end_history(consumer, self.start)  # all that follows is kept here
            return True
        found = await self.delivery.core.instances.history(queue.name, "after", self.start, size=self.size)
        now, position, floor, _, end, elements = found
        if not self.goes_on:
            return True
        queue.on_epoch(now, position)
        if not self.start and not position and self.epoch != UNREADABLE:  # nobody ever wrote to it
            self.epoch = now
        if now != self.epoch:
            self._renewed(now, floor)
            return False
        if self.start > position:  # an id that Redis lost or never had: it gets what came since it joined
            self.start = min(self.joined, position)
            broadcast.set_start(consumer, self.start)
            return False
        if self.start < floor:
            consumer.on_missed(queue.name, self.start + 1, floor)
        self.start = self._offer(elements) or max(end, floor)
        broadcast.on_history_given(consumer, self.start)
        if self.start >= position and not consumer.full and self._whole:
            broadcast.end_history(consumer, position)
            return True
        _unkept(self.delivery, consumer)
        return False

    def _offer(self, page: list[tuple[int, Element]]) -> int:
        """Write a page at once, but no more of it than may wait. Then answers the position it got to, otherwise 0.

        Here RestMQ learns how long the values are on the wire. The size of the next page depends on it.
        """
        elements: list[Element] = []
        frames: list[bytes] = []
        waiting = last = 0
        for piece in _pieces(self.queue, self.epoch, page):
            frames.append(self.consumer.frame(piece))
            elements += piece.elements
            waiting, last = waiting + len(frames[-1]), piece.last
            if waiting > self.consumer.most:
                break
        if elements:
            batch = Batch(self.queue.name, elements, 0, self.epoch)
            self.consumer.deliver(b"".join(frames), self.queue.name, batch)
        if len(elements) < len(page):
            self.size = sum(len(element.value) for element in elements)
            return last
        self.size = min(PAGE_BYTES, self.consumer.most, self.size + self.size // 4 + 1)
        return 0

    @property
    def _whole(self) -> bool:
        """Whether no position lies between the last one that it was given and the first one that is kept for it.

        Elements that came while it was full were not kept. And Redis may have answered before they were broadcast.
        """
        kept = self.queue.consumers.broadcast.first_kept(self.consumer)
        return kept <= self.start + 1 if kept else self.epoch != self.queue.epoch or self.queue.position <= self.start

    def _renewed(self, epoch: bytes, floor: int) -> None:
        """The queue has a new epoch: the consumer gets everything that history holds of it."""
        self.start, self.epoch = floor, epoch
        if epoch == self.queue.epoch:
            self.queue.consumers.broadcast.set_start(self.consumer, floor)
        self.consumer.on_new_epoch(self.queue.name, epoch, floor, behind=True)


def _unkept(delivery: Delivery, consumer: Consumer) -> None:
    """Keep nothing for a consumer that reads slowly, also not for the queues whose history it reads after this one."""
    for name in delivery.queues_of.get(consumer, ()):
        if name in delivery.queues:
            delivery.queues[name].consumers.broadcast.drop_kept(consumer)


def _pieces(queue: Subscription, epoch: bytes, page: list[tuple[int, Element]]) -> Iterator[Batch]:
    """Batches of a few elements of a page. Elements that have ended leave holes between them."""
    elements: list[Element] = []
    first = size = 0
    for position, element in page:
        full = len(elements) == PIECE_ELEMENTS or size + len(element.value) > PIECE
        if elements and (full or position != first + len(elements)):
            yield Batch(queue.name, elements, first, epoch)
            elements = []
        if not elements:
            first, size = position, 0
        elements.append(element)
        size += len(element.value)
    if elements:
        yield Batch(queue.name, elements, first, epoch)
