"""Broadcast: every consumer of a queue gets every element, in one order, each at its own pace.

Owns which consumer gets new elements and which still reads history, and by which consumer's socket a broadcast counts
as taken. Knows no socket, no Redis and no reactor. Read delivery/roundrobin.py next. docs/decisions/pace.md
says why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from restmq.delivery.batch import Batch
from restmq.delivery.consumer import Consumer, Place, flushed, offer


class _Witness(NamedTuple):
    """The consumer whose socket shows that broadcasts up to a position were taken.

    A broadcast counts as taken when the socket has taken the stream up to `end`. While `consumer` is None, no consumer
    shows it yet. The consumer was given `batch`, from byte `start` on. Any consumer that has everything after position
    `after` may become the witness.
    """

    after: int
    position: int
    consumer: Consumer | None = None
    end: int = 0
    batch: Batch | None = None
    start: int = 0

    def partly(self) -> int:
        """The position of the last element that its socket took wholly; 0 for none."""
        if self.consumer is None or self.batch is None:
            return 0
        batch, out = self.batch, flushed(self.consumer) - self.start
        parts = [Batch(batch.queue, [one], batch.first + at, batch.epoch) for at, one in enumerate(batch.elements)]
        sizes = [len(self.consumer.frame(part)) for part in parts]
        if sum(sizes) != len(batch.frames.get(self.consumer.framing, b"")):
            return 0  # its ids have positions of other queues in them, which have grown since
        size = self.end - self.start - sum(sizes)  # the transport's framing, which stands in front
        position = 0
        for part, length in zip(parts, sizes):
            size += length
            if size > out:
                break
            position = part.last
        return position


class Broadcast:
    """The broadcasts to the consumers of a queue, and how far their sockets have taken them."""

    def __init__(self, consumers: list[Consumer], places: Mapping[Consumer, Place]) -> None:
        self._all, self._places = consumers, places
        self._witnesses: deque[_Witness] = deque()
        self.behind = 0  # how many read from history

    # -- handing over

    def give(self, batch: Batch) -> list[tuple[Consumer, int]]:
        """Give a batch to all consumers, in one order.

        Answers the consumers that fall behind: more waits for them than fits. Each comes with the position that it has
        reached. Such a consumer gets nothing new until end_history() says that it caught up.
        """
        witness = _Witness(batch.first - 1, batch.last)
        behind: list[tuple[Consumer, int]] = []
        for consumer in list(self._all):
            place = self._places.get(consumer)
            if place is None:
                continue  # it left while others were written to
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
        if self._all:  # while all consumers read history, they find it there
            self._witness(witness)
        return behind

    def give_nobody(self, batch: Batch) -> None:
        """A batch was broadcast, but no consumer was there."""
        self._witness(_Witness(batch.first - 1, batch.last))

    def _mine(self, consumer: Consumer, place: Place, batch: Batch) -> Batch | None:
        """The part of a batch for a consumer that reads history, or that has some of the batch already."""
        if place.kept is not None:
            if consumer.full:  # it will be read again from history, and does not pile up here
                place.kept.clear()
            else:
                place.kept.append(batch)
            return None
        ahead = place.ahead
        if batch.last >= ahead:
            place.ahead = 0
        return batch.beyond(ahead)

    # -- consumers that read history first

    @property
    def current(self) -> list[Consumer]:
        """Consumers that get new elements, and do not read history."""
        return [consumer for consumer in self._all if self._places[consumer].kept is None]

    def begin_history(self, consumer: Consumer) -> None:
        """This consumer reads history first. From now on new batches are kept for it."""
        place = self._places[consumer]
        self.behind += place.kept is None
        place.kept = []

    def set_start(self, consumer: Consumer, position: int) -> int:
        """Set the position after which a consumer gets everything; answers the position until now."""
        place = self._places.get(consumer)
        if place is None:  # it has left
            return position
        before, place.since = place.since, position
        return before

    def first_kept(self, consumer: Consumer) -> int:
        """The first position that is kept for a consumer; 0 when nothing is."""
        place = self._places.get(consumer)
        return place.kept[0].first if place is not None and place.kept else 0

    def on_history_given(self, consumer: Consumer, position: int) -> None:
        """A consumer was given history up to a position. It may be the only one that has some of it."""
        for at, one in enumerate(self._witnesses):
            if one.consumer is None and self._has(consumer, one):
                if one.position > position:
                    if position > one.after:
                        self._witnesses[at] = one._replace(after=position)
                        self._witnesses.insert(at, _Witness(one.after, position, consumer, consumer.written))
                    return
                self._witnesses[at] = _Witness(one.after, one.position, consumer, consumer.written)

    def end_history(self, consumer: Consumer, position: int) -> None:
        """A consumer has everything up to a position. It gets the batches that were kept for it, then new ones."""
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
        """Throw away the batches that were kept for a consumer. It will read them from history."""
        place = self._places.get(consumer)
        if place is not None and place.kept is not None:
            place.kept = []

    def on_skipped(self) -> None:
        """Positions were passed over. Batches kept so far end before the hole. Consumers read them from history."""
        for place in self._places.values():
            if place.kept is not None:
                place.kept.clear()

    # -- what was taken

    def _witness(self, new: _Witness) -> None:
        """Add a witness. Two without a consumer become one, while the same consumers may become either."""
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
        """A consumer has left. Another consumer becomes the witness of broadcasts that its socket did not take."""
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
        """Whether a consumer was given, or will be given, the broadcasts of a witness."""
        place = self._places.get(consumer)
        return place is not None and place.since <= one.after

    @property
    def untaken(self) -> int:
        """The position up to which no consumer here has got, or will get, the unconfirmed broadcasts; 0 for none.

        Redis must take back earlier broadcasts. It must not take back those that a later consumer was given.
        """
        if self.behind:
            return 0
        return max((one.position for one in self._witnesses if one.consumer is None), default=0)

    @property
    def ready_after(self) -> int:
        """The position after which some consumer is ready for more, though an earlier element is stuck; 0 for none.

        This consumer has taken all that it was given, even if that was nothing. So a newcomer does not wait for a slow
        consumer.
        """
        last = self._witnesses[-1] if self._witnesses else None
        if last is not None and any(not each.unsent for each in self.current):
            return last.position
        return next(
            (one.position for one in reversed(self._witnesses) if one.consumer and flushed(one.consumer) >= one.end), 0
        )

    def confirmed(self, position: int) -> int:
        """The highest position that some consumer's socket has taken, from `position` on."""
        while self._witnesses:
            if not self._taken(self._witnesses[0]):
                break
            position = max(position, self._witnesses.popleft().position)
        return position

    def _taken(self, one: _Witness) -> bool:
        """Whether a socket took it: that of its witness, or that of another consumer that took everything it was given.

        A consumer that does not read delays no consumer with the same elements.
        """
        if one.consumer is None:
            return False
        return flushed(one.consumer) >= one.end or any(
            not each.unsent and self._places[each].kept is None and self._has(each, one) for each in self._all
        )

    def abandon(self, position: int) -> None:
        """Redis took back the broadcasts up to a position that no socket had taken."""
        self._witnesses = deque(
            one
            for one in self._witnesses
            if one.consumer in self._all or (one.consumer is None and one.position > position)
        )

    def waits(self) -> bool:
        """Whether something is still to be confirmed."""
        return bool(self._witnesses)

    def drop(self) -> None:
        """Forget what was broadcast: nothing of it is to be confirmed here."""
        self._witnesses.clear()

    def on_new_epoch(self) -> None:
        """The queue has a new epoch: positions of the old one mean nothing any more."""
        for place in self._places.values():
            place.ahead = place.since = 0
        self.on_skipped()
