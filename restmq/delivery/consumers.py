"""The live consumers of one queue in this instance, in the order in which they came.

Owns the list, and what each consumer has of the queue. Plain Python: knows no socket, no Redis and no reactor. A
consumer is anything with the attributes of Consumer in delivery/consumer.py. Read delivery/broadcast.py next, then
delivery/roundrobin.py: the two policies.
"""

from __future__ import annotations

from restmq.delivery.broadcast import Broadcast
from restmq.delivery.consumer import Consumer, Place
from restmq.delivery.roundrobin import RoundRobin
from restmq.model.element import Element


class Consumers:
    """The consumers of one queue. `broadcast` and `roundrobin` give them elements by either policy."""

    def __init__(self) -> None:
        self.all: list[Consumer] = []
        self._places: dict[Consumer, Place] = {}
        self.broadcast = Broadcast(self.all, self._places)
        self.roundrobin = RoundRobin(self.all, self._places)

    def __len__(self) -> int:
        return len(self.all)

    def join(self, consumer: Consumer, position: int = 0) -> None:
        """Add a consumer, last in the ring. It gets what is broadcast after a position."""
        self.all.append(consumer)
        self._places[consumer] = Place(position)

    def leave(self, consumer: Consumer) -> tuple[list[Element], list[Element], list[Element]]:
        """Take a consumer out. Answers elements: those that its socket took, those without an owner, its leases."""
        if consumer not in self.all:
            return [], [], []
        sent, rest, leased = self.roundrobin.leave(consumer)
        self.all.remove(consumer)
        self.broadcast.on_left(consumer, self._places.pop(consumer))
        return sent, rest, leased

    def waits(self) -> bool:
        """Whether something is still to be confirmed."""
        return self.broadcast.waits() or self.roundrobin.waits()

    def drop(self) -> None:
        """Forget the elements in flight: other instances have them now."""
        self.roundrobin.drop()
        self.broadcast.drop()

    def on_new_epoch(self) -> None:
        """The queue has a new epoch: positions of the old one mean nothing any more."""
        self.broadcast.on_new_epoch()
        self.drop()
        self.roundrobin.end_all_leases()
