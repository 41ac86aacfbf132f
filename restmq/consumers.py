"""The live consumers of one queue in this instance, and whose turn it is.

Owns the list and the round-robin pointer, and what is on its way to whom;
pure Python: knows no socket, no Redis and no reactor. A consumer is anything
with the attributes of Consumer below. Read delivery.py next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Protocol

from restmq.element import Element


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


class Consumer(Protocol):
    """One live connection. `written` counts all bytes, `unsent` those not yet in the kernel."""

    framing: Hashable
    written: int
    unsent: int
    full: bool

    def frame(self, batch: Batch) -> bytes:
        """The bytes of a batch; asked once for all consumers of equal framing."""

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write framed bytes. Never raises."""

    def close(self, why: str) -> None:
        """End the connection cleanly."""


def offer(consumer: Consumer, batch: Batch) -> None:
    """Give a batch to a consumer, framed once for all that want it alike."""
    data = batch.frames.get(consumer.framing)
    if data is None:
        data = batch.frames[consumer.framing] = consumer.frame(batch)
    consumer.deliver(data, batch.queue, batch)


def flushed(consumer: Consumer) -> int:
    """How many bytes of the consumer's stream the kernel has taken."""
    return consumer.written - consumer.unsent


class Consumers:
    """The consumers of one queue, in order of joining, with the pointer and what each holds."""

    def __init__(self) -> None:
        self.all: list[Consumer] = []
        self._pointer = 0
        self._held: dict[int, deque[tuple[int, Element]]] = {}  # id(consumer) -> (mark, element)
        self._witnesses: deque[tuple[int, Consumer, int]] = deque()  # position, who, mark

    def __len__(self) -> int:
        return len(self.all)

    @property
    def ready(self) -> int:
        """How many take elements."""
        return sum(1 for consumer in self.all if not consumer.full)

    @property
    def stuck(self) -> int:
        """How many round-robin elements wait in the buffers of those that do not."""
        return sum(len(self._held.get(id(consumer), ())) for consumer in self.all if consumer.full)

    @property
    def held(self) -> set[int]:
        """Numbers of the round-robin elements that are in some consumer's buffer."""
        return {element.number for held in self._held.values() for _, element in held}

    def join(self, consumer: Consumer) -> None:
        """The newest consumer stands last in the ring."""
        self.all.append(consumer)

    def leave(self, consumer: Consumer) -> tuple[list[int], list[Element]]:
        """Take a consumer out; answers what its socket took, and what is now without an owner."""
        if consumer not in self.all:
            return [], []
        at = self.all.index(consumer)
        sent = self.settled(consumer)
        rest = [element for _, element in self._held.pop(id(consumer), ())]
        del self.all[at]
        if at < self._pointer:
            self._pointer -= 1
        for place, (position, witness, _) in enumerate(self._witnesses):
            if witness is consumer and self.all:  # another vouches, for all that it was given till now
                self._witnesses[place] = (position, self.all[0], self.all[0].written)
        return sent, rest

    def everyone(self, batch: Batch) -> None:
        """Broadcast: all of them, in one order."""
        for consumer in list(self.all):
            offer(consumer, batch)
        if self.all:
            last = batch.first + len(batch.elements) - 1
            witness = next((consumer for consumer in self.all if not consumer.full), self.all[0])
            self._witnesses.append((last, witness, witness.written))

    def confirmed(self, position: int) -> int:
        """The highest position that some consumer's socket took, from `position` on."""
        while self._witnesses and flushed(self._witnesses[0][1]) >= self._witnesses[0][2]:
            position = max(position, self._witnesses.popleft()[0])
        return position

    def give(self, queue: bytes, elements: list[Element], epoch: bytes) -> list[Element]:
        """Round-robin: each element to the next that is not full; answers those nobody could take."""
        shares: dict[int, tuple[Consumer, list[Element]]] = {}
        refused: list[Element] = []
        for element in elements:
            consumer = self._next()
            if consumer is None:
                refused.append(element)
            else:
                shares.setdefault(id(consumer), (consumer, []))[1].append(element)
        for consumer, share in shares.values():
            held = self._held.setdefault(id(consumer), deque())
            offer(consumer, Batch(queue, share, 0, epoch))
            held.extend((consumer.written, element) for element in share)
        return refused

    def _next(self) -> Consumer | None:
        for _ in range(len(self.all)):
            if self._pointer >= len(self.all):
                self._pointer = 0
            consumer = self.all[self._pointer]
            self._pointer += 1
            if not consumer.full:
                return consumer
        return None

    def settled(self, consumer: Consumer) -> list[int]:
        """Numbers of what the consumer held and its socket has taken; they are forgotten here."""
        held = self._held.get(id(consumer))
        numbers: list[int] = []
        if held:
            mark = flushed(consumer)
            while held and held[0][0] <= mark:
                numbers.append(held.popleft()[1].number)
        return numbers

    def again(self, position: int) -> None:
        """A confirmation was not heard: the next must say it again."""
        if self.all:
            self._witnesses.appendleft((position, self.all[0], 0))

    def waits(self) -> bool:
        """Whether something is still to be confirmed."""
        return bool(self._witnesses) or any(self._held.values())

    def drop(self) -> None:
        """Forget what is on its way: it is another's now."""
        self._held.clear()
        self._witnesses.clear()
