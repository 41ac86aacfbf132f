"""Round-robin: each element of a queue goes to the next consumer that takes one.

Owns the turn, the elements in flight to each consumer, and the leases of each. Knows no socket, no Redis and no
reactor. Read live/consumer.py next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from restmq.delivery.batch import Batch
from restmq.delivery.consumer import Consumer, Place, flushed, offer
from restmq.model.element import Element, Lease

AHEAD = 64  # elements in flight to one consumer that takes them
AHEAD_BYTES = 1 << 20  # and about as many bytes of them: of large elements fewer are in flight


def _partly(consumer: Consumer, held: deque[tuple[int, Element, int]]) -> list[Element]:
    """The socket took a part of the first share. Take out the elements that it took wholly."""
    if not held or flushed(consumer) <= held[0][2]:
        return []
    mark = held[0][0]
    share = [element for end, element, _ in held if end == mark]
    sizes = [len(consumer.frame(Batch(one.queue, [one], 0, one.epoch))) for one in share]
    size = mark - sum(sizes)  # the transport's framing stands in front
    sent: list[Element] = []
    for length in sizes:
        size += length
        if size > flushed(consumer):
            break
        sent.append(held.popleft()[1])
    return sent


class RoundRobin:
    """The turn among the consumers of a queue, and the elements that each holds and leases."""

    def __init__(self, consumers: list[Consumer], places: Mapping[Consumer, Place]) -> None:
        self._all, self._places = consumers, places
        self._pointer = 0
        self._ahead_most = AHEAD  # the most elements in flight to one consumer

    # -- which consumers take

    def takes(self, consumer: Consumer) -> bool:
        """Whether a consumer would take an element now."""
        if consumer.full:
            return False
        return not consumer.lease or len(self._places[consumer].leased) < consumer.prefetch

    @property
    def ready(self) -> int:
        """The number of consumers that take elements."""
        return sum(1 for consumer in self._all if self.takes(consumer))

    @property
    def room(self) -> int:
        """The number of elements that may be in flight here in all, including those that wait in full buffers."""
        room = 0
        for consumer in self._all:
            place = self._places[consumer]
            held = len(place.held)
            if not self.takes(consumer):
                room += held
            elif consumer.lease:
                most = held + consumer.prefetch - len(place.leased)
                room += most if self._ahead_most == AHEAD else min(most, max(held, self._ahead_most))
            else:
                room += max(held, self._ahead_most)
        return room

    def _sized(self, elements: list[Element]) -> None:
        """Elements came. Their size decides how many may be in flight, in powers of two."""
        largest = max((len(element.value) for element in elements), default=0)
        fit = AHEAD
        while fit > 1 and fit * largest > AHEAD_BYTES:
            fit //= 2
        # The limit falls at once and rises in steps: one small element between large ones says little.
        self._ahead_most = min(fit, 2 * self._ahead_most)

    # -- handing over

    def give(self, queue: bytes, elements: list[Element], epoch: bytes) -> list[Element]:
        """Give each element to the next consumer that takes one; answers those that nobody takes."""
        self._sized(elements)
        shares: dict[Consumer, list[Element]] = {}
        refused: list[Element] = []
        for element in elements:
            consumer = self._next()
            if consumer is None:
                refused.append(element)
                continue
            if consumer.lease:
                self._places[consumer].leased[element.number] = element
            shares.setdefault(consumer, []).append(element)
        for consumer, share in shares.items():
            start = consumer.written
            offer(consumer, Batch(queue, share, 0, epoch))
            self._places[consumer].held.extend((consumer.written, element, start) for element in share)
        return refused

    def _next(self) -> Consumer | None:
        for _ in range(len(self._all)):
            if self._pointer >= len(self._all):
                self._pointer = 0
            consumer = self._all[self._pointer]
            self._pointer += 1
            if self.takes(consumer):
                return consumer
        return None

    @property
    def held(self) -> set[int]:
        """Numbers of the elements that are in some consumer's buffer."""
        return {element.number for place in self._places.values() for _, element, _ in place.held}

    def settled(self, consumer: Consumer) -> list[Element]:
        """The elements that a consumer held and its socket has taken. Those that it leases are still noted here."""
        held = self._places[consumer].held
        sent: list[Element] = []
        if held:
            mark = flushed(consumer)
            while held and held[0][0] <= mark:
                sent.append(held.popleft()[1])
        return sent

    def leave(self, consumer: Consumer) -> tuple[list[Element], list[Element], list[Element]]:
        """A consumer leaves. Answers elements: those that its socket took, those without an owner, its leases."""
        place = self._places[consumer]
        sent = self.settled(consumer)
        sent += _partly(consumer, place.held)
        rest = [element for _, element, _ in place.held]
        for element in rest:
            place.leased.pop(element.number, None)
        if self._all.index(consumer) < self._pointer:
            self._pointer -= 1
        return sent, rest, list(place.leased.values())

    def waits(self) -> bool:
        """Whether something is still to be confirmed."""
        return any(place.held for place in self._places.values())

    def drop(self) -> None:
        """Forget the elements in flight: other instances have them now."""
        for place in self._places.values():
            for _, element, _ in place.held:
                place.leased.pop(element.number, None)
            place.held.clear()

    # -- leases

    @property
    def leased(self) -> list[Element]:
        """All elements that are leased here."""
        return [element for place in self._places.values() for element in place.leased.values()]

    def leases(self, consumer: Consumer, lease: Lease) -> bool:
        """Whether a consumer has this lease now."""
        place = self._places.get(consumer)
        element = place.leased.get(lease.number) if place is not None else None
        return element is not None and element.lease == lease

    def leasing(self) -> list[Consumer]:
        """Consumers that lease."""
        return [consumer for consumer in self._all if consumer.lease]

    def end_leases(self, numbers: set[int]) -> None:
        """These leases are over, here or at another instance. Consumers that had them may have as many more."""
        for place in self._places.values():
            for number in numbers & place.leased.keys():
                del place.leased[number]

    def end_lease_of(self, elements: list[Element]) -> None:
        """The leases of these elements are over, but not newer leases of the same elements."""
        for place in self._places.values():
            for element in elements:
                if place.leased.get(element.number) is element:
                    del place.leased[element.number]

    def end_all_leases(self) -> None:
        """The queue was emptied: nobody leases anything of it."""
        for place in self._places.values():
            place.leased.clear()
