"""Elements that came together, what a live consumer is to those who give them to it, and what it has of a queue.

Knows no socket, no Redis and no policy. Read delivery/consumers.py next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Protocol

from restmq.model.element import Element


class Batch:
    """Elements of one queue that came together; `first` is the first one's position, 0 for round-robin."""

    __slots__ = ("elements", "epoch", "first", "frames", "queue")

    def __init__(self, queue: bytes, elements: list[Element], first: int, epoch: bytes) -> None:
        self.queue, self.elements, self.first, self.epoch = queue, elements, first, epoch
        self.frames: dict[Hashable, bytes] = {}

    @property
    def numbered(self) -> bool:
        """Whether the elements have positions, so that a stream can be resumed after them."""
        return self.first > 0

    @property
    def last(self) -> int:
        """The last one's position."""
        return self.first + len(self.elements) - 1

    def beyond(self, position: int) -> Batch | None:
        """What of it comes after a position; None when nothing does."""
        skip = position + 1 - self.first
        if skip <= 0:
            return self
        if skip >= len(self.elements):
            return None
        return Batch(self.queue, self.elements[skip:], self.first + skip, self.epoch)


class Consumer(Protocol):
    """One live connection. `written` counts all bytes, `unsent` those not yet in the kernel.

    `lease` is 0, or the ms for which it has an element until it is acknowledged, and
    `prefetch` how many of a queue at a time.
    """

    framing: Hashable
    written: int
    full: bool
    lease: int
    prefetch: int

    @property
    def unsent(self) -> int: ...

    @property
    def overfull(self) -> bool:
        """Whether more waits for its socket than its buffer may hold."""

    def on_fell_behind(self, queue: bytes, position: int, epoch: bytes) -> None:
        """It is given no more of what comes: what was broadcast after this position it reads from history."""

    def frame(self, batch: Batch) -> bytes:
        """The bytes of a batch; asked once for all consumers of equal framing."""

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write framed bytes. Never raises."""

    def on_missed(self, queue: bytes, first: int, last: int) -> None:
        """These positions will never come: tell."""

    def on_new_epoch(self, queue: bytes, epoch: bytes, position: int, behind: bool = False) -> None:
        """The queue has begun another life, and goes on from this position in it. `behind`: it was reading the past."""

    def close(self, why: str) -> None:
        """End the connection cleanly."""


class Place:
    """What one consumer has of a queue. `since` is the position after which it gets everything.

    `kept` is what came while it gets the past, None when it gets what comes. `ahead` is the position up to which it has
    what was not heard here yet, 0 for none. `held` are round-robin elements on their way to it: where its stream ends
    with them, the element, where its share began. `leased` are those that it leases, by their numbers, oldest first.
    """

    __slots__ = ("ahead", "held", "kept", "leased", "since")

    def __init__(self, since: int) -> None:
        self.since, self.ahead = since, 0
        self.kept: list[Batch] | None = None
        self.held: deque[tuple[int, Element, int]] = deque()
        self.leased: dict[int, Element] = {}


def offer(consumer: Consumer, batch: Batch) -> None:
    """Give a batch to a consumer, framed once for all that want it alike."""
    data = batch.frames.get(consumer.framing)
    if data is None:
        data = batch.frames[consumer.framing] = consumer.frame(batch)
    consumer.deliver(data, batch.queue, batch)


def flushed(consumer: Consumer) -> int:
    """How many bytes of the consumer's stream the kernel has taken."""
    return consumer.written - consumer.unsent
