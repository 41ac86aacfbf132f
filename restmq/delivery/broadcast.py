"""Broadcast: every consumer of a queue gets every element, in one order, each at its own pace.

Owns who gets what comes and who still reads the past, and which consumer shows by its socket that a broadcast is out.
Knows no socket, no Redis and no reactor. Read delivery/roundrobin.py next, and docs/decisions/pace.md for why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from restmq.delivery.batch import Batch, Consumer, Place, flushed, offer


class _Witness(NamedTuple):
    """Who shows by its socket that broadcasts up to a position are out: when it took its bytes up to `mark`.

    Nobody yet: `who` is None. `batch` is what it was given, from `start` on. Who has all that came after
    `after` may take its place.
    """

    after: int
    position: int
    consumer: Consumer | None = None
    end: int = 0
    batch: Batch | None = None
    start: int = 0

    def partly(self) -> int:
        """The position of the last element whose bytes its socket took wholly; 0 for none."""
        if self.consumer is None or self.batch is None:
            return 0
        batch, out = self.batch, flushed(self.consumer) - self.start
        parts = [Batch(batch.queue, [one], batch.first + at, batch.epoch) for at, one in enumerate(batch.elements)]
        sizes = [len(self.consumer.frame(part)) for part in parts]
        if sum(sizes) != len(batch.frames.get(self.consumer.framing, b"")):
            return 0  # its ids have other queues' positions in them, which have grown since
        size = self.end - self.start - sum(sizes)  # of the transport's framing, which stands in front
        position = 0
        for part, length in zip(parts, sizes):
            size += length
            if size > out:
                break
            position = part.last
        return position


class Broadcast:
    """What the consumers of a queue are broadcast, and how far their sockets have taken it."""

    def __init__(self, consumers: list[Consumer], places: Mapping[Consumer, Place]) -> None:
        self._all, self._places = consumers, places
        self._witnesses: deque[_Witness] = deque()
        self.behind = 0  # how many read from history

    # -- handing over

    def give(self, batch: Batch) -> list[tuple[Consumer, int]]:
        """All of them, in one order.

        Answers who falls behind by this, as more waits for it than its buffer may hold, and up to which position it
        has everything. It is given no more of what comes until replayed() says that it caught up.
        """
        witness = _Witness(batch.first - 1, batch.last)
        behind: list[tuple[Consumer, int]] = []
        for consumer in list(self._all):
            place = self._places.get(consumer)
            if place is None:
                continue  # it has left while others were written to
            if consumer.full and consumer.overfull and place.kept is None:
                behind.append((consumer, max(batch.first - 1, place.ahead)))
                place.ahead = 0
                self.begin_history(consumer)
            mine = self._mine(consumer, place, batch) if place.kept is not None or place.ahead else batch
            start = consumer.written
            if mine is not None:
                offer(consumer, mine)
            if place.kept is None and (witness.consumer is None or (witness.consumer.full and not consumer.full)):
                witness = _Witness(batch.first - 1, batch.last, consumer, consumer.written, mine, start)
        if self._all:  # while all of them get the past first, this is nowhere but in history
            self._witness(witness)
        return behind

    def give_nobody(self, batch: Batch) -> None:
        """It was broadcast, but nobody was there."""
        self._witness(_Witness(batch.first - 1, batch.last))

    def _mine(self, consumer: Consumer, place: Place, batch: Batch) -> Batch | None:
        """What of a batch a consumer should get now, that reads the past or has some of this already."""
        if place.kept is not None:
            if consumer.full:  # it will be read again with the past, and does not pile up here
                place.kept.clear()
            else:
                place.kept.append(batch)
            return None
        ahead = place.ahead
        if batch.last >= ahead:
            place.ahead = 0
        return batch.beyond(ahead)

    # -- consumers that get the past first

    @property
    def current(self) -> list[Consumer]:
        """Those that get what comes, not the past."""
        return [consumer for consumer in self._all if self._places[consumer].kept is None]

    def begin_history(self, consumer: Consumer) -> None:
        """From now on what comes is kept for this consumer: it gets the past first."""
        place = self._places[consumer]
        self.behind += place.kept is None
        place.kept = []

    def set_start(self, consumer: Consumer, position: int) -> int:
        """What it gets begins after a position; answers after which it did till now."""
        place = self._places.get(consumer)
        if place is None:  # it has left
            return position
        before, place.since = place.since, position
        return before

    def first_kept(self, consumer: Consumer) -> int:
        """The first position that is kept for it, 0 when nothing is."""
        place = self._places.get(consumer)
        return place.kept[0].first if place is not None and place.kept else 0

    def on_history_given(self, consumer: Consumer, position: int) -> None:
        """It was given the past up to a position, which may be what nobody else has heard."""
        for at, one in enumerate(self._witnesses):
            if one.consumer is None and self._has(consumer, one):
                if one.position > position:
                    if position > one.after:
                        self._witnesses[at] = one._replace(after=position)
                        self._witnesses.insert(at, _Witness(one.after, position, consumer, consumer.written))
                    return
                self._witnesses[at] = _Witness(one.after, one.position, consumer, consumer.written)

    def end_history(self, consumer: Consumer, position: int) -> None:
        """It has everything up to a position; now it gets what came meanwhile, and then what comes."""
        place = self._places[consumer]
        self.behind -= place.kept is not None
        kept, place.kept, place.ahead = place.kept or [], None, position
        for batch in kept:
            mine = self._mine(consumer, place, batch) if place.ahead else batch
            if mine is not None:
                offer(consumer, mine)
        for at, one in enumerate(self._witnesses):
            if one.consumer is None and self._has(consumer, one):
                self._witnesses[at] = _Witness(one.after, one.position, consumer, consumer.written)

    def drop_kept(self, consumer: Consumer) -> None:
        """What came meanwhile is too old to be kept: it will be read with the past."""
        place = self._places.get(consumer)
        if place is not None and place.kept is not None:
            place.kept = []

    def on_skipped(self) -> None:
        """Positions were passed over: what is kept ends before them, and is read again with the past."""
        for place in self._places.values():
            if place.kept is not None:
                place.kept.clear()

    # -- what is out

    def _witness(self, new: _Witness) -> None:
        """One more. Two that nobody has yet become one, as long as the same consumers may vouch for both."""
        last = self._witnesses[-1] if self._witnesses else new
        if (
            new.consumer is None
            and last.consumer is None
            and last.position == new.after
            and not any(last.after < place.since <= new.after for place in self._places.values())
        ):
            self._witnesses[-1] = _Witness(last.after, new.position)
        else:
            self._witnesses.append(new)

    def on_left(self, consumer: Consumer, place: Place) -> None:
        """A consumer has left: another vouches for what its socket did not take, for all that it was given till now."""
        self.behind -= place.kept is not None
        kept, self._witnesses = self._witnesses, deque()
        for one in kept:
            if one.consumer is consumer and flushed(consumer) < one.end:
                other = next((each for each in self.current if self._has(each, one)), None)
                partly = one.partly() if other is None and flushed(consumer) > one.start else 0
                if partly:
                    self._witnesses.append(_Witness(one.after, partly, consumer))
                one = _Witness(max(one.after, partly), one.position, other, other.written if other else 0)
            self._witnesses.append(one)

    def _has(self, consumer: Consumer, one: _Witness) -> bool:
        """Whether it was given, or will be, what that witness speaks of."""
        place = self._places.get(consumer)
        return place is not None and place.since <= one.after

    @property
    def untaken(self) -> int:
        """Up to which position nobody who is here got, or will get, what is not confirmed; 0 for none.

        It must go back. A consumer that came later got what came later, so that is not meant.
        """
        if self.behind:
            return 0
        return max((one.position for one in self._witnesses if one.consumer is None), default=0)

    @property
    def ready_after(self) -> int:
        """Up to which position somebody is ready for what follows, while one before it is stuck; 0 for none.

        That is who took all that it was given, and be it nothing: a newcomer need not wait for a slow one.
        """
        last = self._witnesses[-1] if self._witnesses else None
        if last is not None and any(not each.unsent for each in self.current):
            return last.position
        return next(
            (one.position for one in reversed(self._witnesses) if one.consumer and flushed(one.consumer) >= one.end), 0
        )

    def confirmed(self, position: int) -> int:
        """The highest position that some consumer's socket took, from `position` on."""
        while self._witnesses:
            if not self._taken(self._witnesses[0]):
                break
            position = max(position, self._witnesses.popleft().position)
        return position

    def _taken(self, one: _Witness) -> bool:
        """Whether a socket took it: its witness's, or another's that took all it was given.

        So a consumer that does not read holds nobody up that has the same.
        """
        if one.consumer is None:
            return False
        return flushed(one.consumer) >= one.end or any(
            not each.unsent and self._places[each].kept is None and self._has(each, one) for each in self._all
        )

    def abandon(self, position: int) -> None:
        """What was left up to a position without any socket having taken it has been given back."""
        self._witnesses = deque(
            one
            for one in self._witnesses
            if one.consumer in self._all or (one.consumer is None and one.position > position)
        )

    def waits(self) -> bool:
        """Whether something is still to be confirmed."""
        return bool(self._witnesses)

    def drop(self) -> None:
        """Nothing that was broadcast is to be confirmed here any more."""
        self._witnesses.clear()

    def on_new_epoch(self) -> None:
        """The queue has begun another life: positions of the old one say nothing any more."""
        for place in self._places.values():
            place.ahead = place.since = 0
        self.on_skipped()
