"""The live consumers of one queue in this instance, and whose turn it is.

Owns the list and the round-robin pointer, what is on its way to whom, and what
each leases; pure Python: knows no socket, no Redis and no reactor. A consumer is
anything with the attributes of Consumer in delivery/batch.py. Read delivery/taps.py next.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from restmq.delivery.batch import Batch, Consumer, flushed, offer
from restmq.model.element import Element, Lease

AHEAD = 64  # round-robin elements on their way to one consumer that takes them
AHEAD_BYTES = 1 << 20  # and as many bytes of them as a rule: of large elements fewer are on their way


class _Witness(NamedTuple):
    """Who shows by its socket that broadcasts up to a position are out: when it took its bytes up to `mark`.

    Nobody yet: `who` is None. `batch` is what it was given, from `start` on. Who has all that came after
    `after` may take its place.
    """

    after: int
    position: int
    who: Consumer | None = None
    mark: int = 0
    batch: Batch | None = None
    start: int = 0

    def partly(self) -> int:
        """The position of the last element whose bytes its socket took wholly; 0 for none."""
        if self.who is None or self.batch is None:
            return 0
        batch, out = self.batch, flushed(self.who) - self.start
        parts = [Batch(batch.queue, [one], batch.first + at, batch.epoch) for at, one in enumerate(batch.elements)]
        sizes = [len(self.who.frame(part)) for part in parts]
        if sum(sizes) != len(batch.frames.get(self.who.framing, b"")):
            return 0  # its ids have other queues' positions in them, which have grown since
        size = self.mark - self.start - sum(sizes)  # of the transport's framing, which stands in front
        position = 0
        for part, length in zip(parts, sizes):
            size += length
            if size > out:
                break
            position = part.last
        return position


def _partly(consumer: Consumer, held: deque[tuple[int, Element, int]]) -> list[Element]:
    """Take out those of the foremost share whose bytes the socket took wholly, though not all of the share's."""
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


class Consumers:
    """The consumers of one queue, in order of joining, with the pointer and what each holds."""

    def __init__(self) -> None:
        self.all: list[Consumer] = []
        self._pointer = 0
        self._held: dict[int, deque[tuple[int, Element, int]]] = {}  # id(consumer) -> mark, element, its share's start
        self._leased: dict[int, dict[int, Element]] = {}  # id(consumer) -> number -> element, oldest first
        self._witnesses: deque[_Witness] = deque()
        self._replaying: dict[int, list[Batch]] = {}  # id(consumer) -> what came while it gets the past
        self._since: dict[int, int] = {}  # id(consumer) -> position after which it gets everything
        self._ahead: dict[int, int] = {}  # id(consumer) -> position that it has, though not heard here yet
        self._ahead_most = AHEAD  # how many round-robin elements one consumer may have on their way

    def __len__(self) -> int:
        return len(self.all)

    def takes(self, consumer: Consumer) -> bool:
        """Whether it would take an element now."""
        if consumer.full:
            return False
        return not consumer.lease or len(self._leased.get(id(consumer), ())) < consumer.prefetch

    @property
    def ready(self) -> int:
        """How many take elements."""
        return sum(1 for consumer in self.all if self.takes(consumer))

    @property
    def room(self) -> int:
        """How many round-robin elements may be on their way here in all, those that wait in full buffers included."""
        room = 0
        for consumer in self.all:
            held = len(self._held.get(id(consumer), ()))
            if not self.takes(consumer):
                room += held
            elif consumer.lease:
                most = held + consumer.prefetch - len(self._leased.get(id(consumer), ()))
                room += most if self._ahead_most == AHEAD else min(most, max(held, self._ahead_most))
            else:
                room += max(held, self._ahead_most)
        return room

    def _sized(self, elements: list[Element]) -> None:
        """Round-robin elements came: how many may be on their way follows from how large they are, in powers of two."""
        largest = max((len(element.value) for element in elements), default=0)
        fit = AHEAD
        while fit > 1 and fit * largest > AHEAD_BYTES:
            fit //= 2
        # Fewer at once, and more again in steps: one small element between large ones says little.
        self._ahead_most = min(fit, 2 * self._ahead_most)

    @property
    def held(self) -> set[int]:
        """Numbers of the round-robin elements that are in some consumer's buffer."""
        return {element.number for held in self._held.values() for _, element, _ in held}

    def join(self, consumer: Consumer, position: int = 0) -> None:
        """The newest consumer stands last in the ring; it gets what is broadcast after a position."""
        self.all.append(consumer)
        self._since[id(consumer)] = position

    def leave(self, consumer: Consumer) -> tuple[list[Element], list[Element], list[Element]]:
        """Take a consumer out; answers what its socket took, what is now without an owner, and what it leases."""
        if consumer not in self.all:
            return [], [], []
        at = self.all.index(consumer)
        sent = self.settled(consumer)
        held = self._held.pop(id(consumer), deque())
        sent += _partly(consumer, held)
        rest = [element for _, element, _ in held]
        leased = self._leased.pop(id(consumer), {})
        for element in rest:
            leased.pop(element.number, None)
        del self.all[at]
        if at < self._pointer:
            self._pointer -= 1
        self._replaying.pop(id(consumer), None)
        self._ahead.pop(id(consumer), None)
        self._since.pop(id(consumer), None)
        kept, self._witnesses = self._witnesses, deque()
        for one in kept:
            if one.who is consumer and flushed(consumer) < one.mark:
                other = next((each for each in self.current if self._has(each, one)), None)
                partly = one.partly() if other is None and flushed(consumer) > one.start else 0
                if partly:
                    self._witnesses.append(_Witness(one.after, partly, consumer))
                # Another vouches, for all that it was given till now.
                one = _Witness(max(one.after, partly), one.position, other, other.written if other else 0)
            self._witnesses.append(one)
        return sent, rest, list(leased.values())

    def _has(self, consumer: Consumer, one: _Witness) -> bool:
        """Whether it was given, or will be, what that witness speaks of."""
        return self._since.get(id(consumer), one.after + 1) <= one.after

    @property
    def deaf(self) -> int:
        """Up to which position nobody who is here got, or will get, what is not confirmed; 0 for none.

        It must go back. Who came later got what came later, so that is not meant.
        """
        if self._replaying:
            return 0
        return max((one.position for one in self._witnesses if one.who is None), default=0)

    @property
    def out(self) -> int:
        """Up to which position somebody is ready for what follows, while one before it is stuck; 0 for none.

        That is who took all that it was given, and be it nothing: a newcomer need not wait for a slow one.
        """
        last = self._witnesses[-1] if self._witnesses else None
        if last is not None and any(not each.unsent for each in self.current):
            return last.position
        return next((one.position for one in reversed(self._witnesses) if one.who and flushed(one.who) >= one.mark), 0)

    # -- broadcast

    def everyone(self, batch: Batch) -> list[tuple[Consumer, int]]:
        """Broadcast: all of them, in one order.

        Answers who falls behind by this, as more waits for it than its buffer may hold, and up to which position it
        has everything. It is given no more of what comes until replayed() says that it caught up.
        """
        witness = _Witness(batch.first - 1, batch.last)
        behind: list[tuple[Consumer, int]] = []
        for consumer in list(self.all):
            if consumer.full and consumer.overfull and id(consumer) not in self._replaying:
                behind.append((consumer, max(batch.first - 1, self._ahead.pop(id(consumer), 0))))
                self._replaying[id(consumer)] = []
            mine: Batch | None = batch
            if self._replaying or self._ahead:
                mine = self._mine(consumer, batch)
            start = consumer.written
            if mine is not None:
                offer(consumer, mine)
            if id(consumer) not in self._replaying and (
                witness.who is None or (witness.who.full and not consumer.full)
            ):
                witness = _Witness(batch.first - 1, batch.last, consumer, consumer.written, mine, start)
        if self.all:  # while all of them get the past first, this is nowhere but in history
            self._witness(witness)
        return behind

    def _witness(self, new: _Witness) -> None:
        """One more. Two that nobody has yet become one, as long as the same consumers may vouch for both."""
        last = self._witnesses[-1] if self._witnesses else new
        if (
            new.who is None
            and last.who is None
            and last.position == new.after
            and not any(last.after < since <= new.after for since in self._since.values())
        ):
            self._witnesses[-1] = _Witness(last.after, new.position)
        else:
            self._witnesses.append(new)

    def nobody(self, batch: Batch) -> None:
        """Broadcast, but nobody was there."""
        self._witness(_Witness(batch.first - 1, batch.last))

    def _mine(self, consumer: Consumer, batch: Batch) -> Batch | None:
        """What of a batch a consumer should get now."""
        kept = self._replaying.get(id(consumer))
        if kept is not None:
            if consumer.full:  # it will be read again with the past, and does not pile up here
                kept.clear()
            else:
                kept.append(batch)
            return None
        ahead = self._ahead.get(id(consumer))
        if ahead is None:
            return batch
        if batch.last >= ahead:
            del self._ahead[id(consumer)]
        return batch.beyond(ahead)

    def replaying(self, consumer: Consumer) -> None:
        """From now on what comes is kept for this consumer: it gets the past first."""
        self._replaying[id(consumer)] = []

    def begins(self, consumer: Consumer, position: int) -> int:
        """What it gets begins after a position; answers after which it did till now."""
        before = self._since.get(id(consumer), position)
        if consumer in self.all:  # else it has left, and nothing of it may stay
            self._since[id(consumer)] = position
        return before

    @property
    def current(self) -> list[Consumer]:
        """Those that get what comes, not the past."""
        return [consumer for consumer in self.all if id(consumer) not in self._replaying]

    def replayed(self, consumer: Consumer, position: int) -> None:
        """It has everything up to a position; now it gets what came meanwhile, and then what comes."""
        self._ahead[id(consumer)] = position
        for batch in self._replaying.pop(id(consumer), ()):
            mine = self._mine(consumer, batch)
            if mine is not None:
                offer(consumer, mine)
        for place, one in enumerate(self._witnesses):
            if one.who is None and self._has(consumer, one):
                self._witnesses[place] = _Witness(one.after, one.position, consumer, consumer.written)

    def reached(self, consumer: Consumer, position: int) -> None:
        """It was given the past up to a position, which may be what nobody else has heard."""
        for place, one in enumerate(self._witnesses):
            if one.who is None and self._has(consumer, one):
                if one.position > position:
                    if position > one.after:
                        self._witnesses[place] = one._replace(after=position)
                        self._witnesses.insert(place, _Witness(one.after, position, consumer, consumer.written))
                    return
                self._witnesses[place] = _Witness(one.after, one.position, consumer, consumer.written)

    def read_again(self, consumer: Consumer) -> None:
        """What came meanwhile is too old to be kept: it will be read with the past."""
        if id(consumer) in self._replaying:
            self._replaying[id(consumer)] = []

    def skipped(self) -> None:
        """Positions were passed over: what is kept ends before them, and is read again with the past."""
        for kept in self._replaying.values():
            kept.clear()

    @property
    def behind(self) -> int:
        """How many read from history."""
        return len(self._replaying)

    def renewed(self) -> None:
        """The queue has begun another life: positions of the old one say nothing any more."""
        self._ahead.clear()
        self._since = dict.fromkeys(self._since, 0)
        self.skipped()
        self.drop()
        self.forget()

    def abandon(self, position: int) -> None:
        """What was left up to a position without any socket having taken it has been given back."""
        self._witnesses = deque(
            one for one in self._witnesses if one.who in self.all or (one.who is None and one.position > position)
        )

    def kept(self, consumer: Consumer) -> int:
        """The first position that is kept for it, 0 when nothing is."""
        batches = self._replaying.get(id(consumer))
        return batches[0].first if batches else 0

    def confirmed(self, position: int) -> int:
        """The highest position that some consumer's socket took, from `position` on."""
        while self._witnesses:
            if not self._taken(self._witnesses[0]):
                break
            position = max(position, self._witnesses.popleft().position)
        return position

    def _taken(self, one: _Witness) -> bool:
        """Whether a socket took it: its witness's, or another's that took all it was given.

        So one that does not read holds nobody up who has the same.
        """
        if one.who is None:
            return False
        return flushed(one.who) >= one.mark or any(
            not each.unsent and id(each) not in self._replaying and self._has(each, one) for each in self.all
        )

    def again(self, position: int) -> None:
        """A confirmation was not heard: the next must say it again."""
        if self.all:
            self._witnesses.appendleft(_Witness(position - 1, position, self.all[0]))

    # -- round-robin

    def give(self, queue: bytes, elements: list[Element], epoch: bytes) -> list[Element]:
        """Round-robin: each element to the next that takes; answers those nobody could take."""
        self._sized(elements)
        shares: dict[int, tuple[Consumer, list[Element]]] = {}
        refused: list[Element] = []
        for element in elements:
            consumer = self._next()
            if consumer is None:
                refused.append(element)
                continue
            if consumer.lease:
                self._leased.setdefault(id(consumer), {})[element.number] = element
            shares.setdefault(id(consumer), (consumer, []))[1].append(element)
        for consumer, share in shares.values():
            held = self._held.setdefault(id(consumer), deque())
            start = consumer.written
            offer(consumer, Batch(queue, share, 0, epoch))
            held.extend((consumer.written, element, start) for element in share)
        return refused

    def _next(self) -> Consumer | None:
        for _ in range(len(self.all)):
            if self._pointer >= len(self.all):
                self._pointer = 0
            consumer = self.all[self._pointer]
            self._pointer += 1
            if self.takes(consumer):
                return consumer
        return None

    def settled(self, consumer: Consumer) -> list[Element]:
        """What the consumer held and its socket has taken; it is forgotten here, but for what it leases."""
        held = self._held.get(id(consumer))
        sent: list[Element] = []
        if held:
            mark = flushed(consumer)
            while held and held[0][0] <= mark:
                sent.append(held.popleft()[1])
        return sent

    def freed(self, numbers: set[int]) -> None:
        """These leases are over, wherever they ended: whoever had them may have as many more."""
        for leased in self._leased.values():
            for number in numbers & leased.keys():
                del leased[number]

    @property
    def leased(self) -> list[Element]:
        """All that is leased here."""
        return [element for leased in self._leased.values() for element in leased.values()]

    def over(self, elements: list[Element]) -> None:
        """These leases are over, but not newer ones of the same elements."""
        for leased in self._leased.values():
            for element in elements:
                if leased.get(element.number) is element:
                    del leased[element.number]

    def leases(self, consumer: Consumer, lease: Lease) -> bool:
        """Whether a consumer has this lease now."""
        element = self._leased.get(id(consumer), {}).get(lease.number)
        return element is not None and element.lease == lease

    def leasing(self) -> list[Consumer]:
        """Those that lease."""
        return [consumer for consumer in self.all if consumer.lease]

    # -- both

    def waits(self) -> bool:
        """Whether something is still to be confirmed."""
        return bool(self._witnesses) or any(self._held.values())

    def drop(self) -> None:
        """Forget what is on its way: it is another's now."""
        for consumer, held in self._held.items():
            for _, element, _ in held:
                self._leased.get(consumer, {}).pop(element.number, None)
        self._held.clear()
        self._witnesses.clear()

    def forget(self) -> None:
        """The queue was emptied: nobody leases anything of it."""
        self._leased.clear()
