"""Confirmations: elements that sockets of a queue's consumers have taken, and that Redis still counts as in flight.

Owns these notes, and the parts in which they are sent. delivery/subscription.py sends them. delivery/broadcast.py finds
out that a socket took a broadcast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from restmq.delivery.consumer import Consumer
from restmq.delivery.consumers import Consumers
from restmq.model.element import Element
from restmq.store.instances import Confirmed

MERGED = 500  # elements in one call


class Pending(NamedTuple):
    """A confirmation under way. `before` is the position that Redis had been told until then."""

    before: int
    position: int
    ready_after: int
    written: list[int]
    leased: list[tuple[Element, int]]

    def calls(self) -> Iterator[Confirmed]:
        """The same in parts, one for each call; at least one."""
        for at in range(0, max(len(self.written), len(self.leased), 1), MERGED):
            leases = [(element.number, ms) for element, ms in self.leased[at : at + MERGED]]
            yield Confirmed(self.position, self.ready_after, self.written[at : at + MERGED], leases)


class Confirmations:
    """The elements that consumers of one queue have taken. Sockets took all broadcasts up to `position`."""

    def __init__(self, consumers: Consumers) -> None:
        self._consumers = consumers
        self.position = 0
        self._reported = 0  # the position that Redis was told
        self._ready_after = 0  # the position, told Redis, after which some consumer is ready for more
        self._written: list[int] = []  # numbers of round-robin elements
        self._leased: list[tuple[Element, int]] = []  # those of consumers that lease, with ms

    def begin_at(self, position: int) -> None:
        """Nothing was known of the queue before it was joined: all up to this position is not for this instance."""
        self.position = self._reported = position

    def on_new_epoch(self) -> None:
        """Redis has another epoch of the queue: nothing of the old one can be confirmed."""
        self.position = self._reported = self._ready_after = 0
        self.drop()

    def drop(self) -> None:
        """Other instances have taken over the elements that were in flight here."""
        self._written, self._leased = [], []

    def add(self, consumer: Consumer, elements: list[Element]) -> None:
        """A consumer's socket took these round-robin elements."""
        if consumer.lease:
            self._leased += [(element, consumer.lease) for element in elements]
        else:
            self._written += [element.number for element in elements]

    def drop_leases(self, elements: list[Element]) -> None:
        """These elements are given back, so their leases must not be confirmed."""
        self._leased = [pair for pair in self._leased if pair[0] not in elements]

    @property
    def numbers(self) -> set[int]:
        """Numbers of the round-robin elements that are not confirmed yet."""
        return set(self._written) | {element.number for element, _ in self._leased}

    def collect(self) -> Pending | None:
        """Take out all that Redis should be told now; None when there is nothing new."""
        broadcast, roundrobin = self._consumers.broadcast, self._consumers.roundrobin
        for consumer in self._consumers.all:
            self.add(consumer, roundrobin.settled(consumer))
        position = self.position = broadcast.confirmed(self.position)
        ready_after = broadcast.ready_after
        if not (self._written or self._leased or position > self._reported or ready_after > self._ready_after):
            return None
        pending = Pending(self._reported, position, ready_after, self._written, self._leased)
        self._reported, self._ready_after = position, ready_after
        self._written, self._leased = [], []
        return pending

    def put_back(self, pending: Pending) -> None:
        """Redis did not answer, so tell it again. Otherwise the window could stay full for ever.

        Leases of a consumer that has left meanwhile are not confirmed again. Their elements go back, and other
        consumers get them.
        """
        self._written += pending.written
        here = self._consumers.roundrobin.leased
        self._leased += [pair for pair in pending.leased if pair[0] in here]
        self._reported, self._ready_after = min(self._reported, pending.before), 0
