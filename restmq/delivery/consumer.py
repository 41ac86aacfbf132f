"""A live consumer as delivery sees it, and its place in one queue.

Owns how a consumer is given a batch, and what is noted of each consumer. Knows no socket, no Redis and no policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Protocol

from restmq.delivery.batch import Batch
from restmq.model.element import Element


class Consumer(Protocol):
    """One live connection.

    `written` counts all bytes, `unsent` those that the kernel does not have yet. `full` is true while its socket takes
    no more. `lease` is the ms for which it has an element until it acknowledges it, 0 when it does not lease;
    `prefetch` is how many elements of a queue it leases at a time. Consumers with equal `framing` get the same bytes.
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
        """From now on it reads the broadcasts after this position from history, and is given nothing new."""

    def frame(self, batch: Batch) -> bytes:
        """The bytes of a batch. Asked once for all consumers of equal framing."""

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write framed bytes. Never raises."""

    def on_missed(self, queue: bytes, first: int, last: int) -> None:
        """Positions `first` to `last` will never come: tell the client."""

    def on_new_epoch(self, queue: bytes, epoch: bytes, position: int, behind: bool = False) -> None:
        """The queue has a new epoch, and goes on from this position in it. `behind`: it was reading history."""

    def close(self, why: str) -> None:
        """End the connection cleanly."""


class Place:
    """One consumer in one queue, and what it has of the queue.

    - `since`: it gets everything after this position.
    - `kept`: batches that came while it reads history; None when it gets each batch at once.
    - `ahead`: it has everything up to this position, which was not all heard here yet; 0 for none.
    - `held`: round-robin elements that are in flight to it, as (end, element, start). The element came with a share of
      several. The bytes of this share go from start to end of the consumer's stream.
    - `leased`: elements that it leases, by number, oldest first.
    """

    __slots__ = ("ahead", "held", "kept", "leased", "since")

    def __init__(self, since: int) -> None:
        self.since, self.ahead = since, 0
        self.kept: list[Batch] | None = None
        self.held: deque[tuple[int, Element, int]] = deque()
        self.leased: dict[int, Element] = {}


def offer(consumer: Consumer, batch: Batch) -> None:
    """Give a batch to a consumer. It is framed once for all that want the same form."""
    data = batch.frames.get(consumer.framing)
    if data is None:
        data = batch.frames[consumer.framing] = consumer.frame(batch)
    consumer.deliver(data, batch.queue, batch)


def flushed(consumer: Consumer) -> int:
    """How many bytes of the consumer's stream the kernel has taken."""
    return consumer.written - consumer.unsent
