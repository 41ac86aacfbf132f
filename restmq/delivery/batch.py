"""A batch: elements of one queue that came together.

Owns their positions, and the bytes into which consumers framed them. Knows no consumer, no socket and no Redis.
"""

from __future__ import annotations

from collections.abc import Hashable

from restmq.model.element import Element


class Batch:
    """Elements of one queue that came together. `first` is the position of the first one, 0 for round-robin."""

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
        """The position of the last element."""
        return self.first + len(self.elements) - 1

    def beyond(self, position: int) -> Batch | None:
        """The part that comes after a position; None when there is none."""
        skip = position + 1 - self.first
        if skip <= 0:
            return self
        if skip >= len(self.elements):
            return None
        return Batch(self.queue, self.elements[skip:], self.first + skip, self.epoch)
