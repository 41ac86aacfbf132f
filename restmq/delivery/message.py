"""A message of Redis: a function sends it to the instances that listen.

Owns its form, which lua/lib/delivery.lua makes. The first line has a letter, the epoch and a number. The second line
has NUMBER DELIVERIES LENGTH of each element. The rest is the values. The letters:

- B: elements that are broadcast, from a position on;
- R: round-robin elements for one instance;
- T: elements that taps see;
- W: so many of the GETs that wait should take;
- P: the policy;
- A: leases that are over;
- Z: the queue was emptied.

Read delivery/subscription.py next.
"""

from __future__ import annotations

from restmq.model.element import Element


class Message:
    """`first` is the number in the first line, `words` is the second line."""

    __slots__ = ("_body", "epoch", "first", "kind", "words")

    def __init__(self, data: bytes) -> None:
        head, self.words, self._body = data.split(b"\n", 2)
        self.kind, self.epoch, first = head.split(b" ")
        self.first = int(first)

    @property
    def numbers(self) -> list[int]:
        """The number of each element."""
        return list(map(int, self.words.split(b" ")[::3]))

    def elements(self, queue: bytes) -> list[Element]:
        """The elements that it brings, as those of a queue."""
        words = list(map(int, self.words.split(b" ")))
        elements, at = [], 0
        for place in range(0, len(words), 3):
            number, deliveries, length = words[place : place + 3]
            elements.append(Element(queue, number, self._body[at : at + length], 0, deliveries, self.epoch))
            at += length
        return elements
