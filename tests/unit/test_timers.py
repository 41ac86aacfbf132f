"""The timer of what is due, and how often it asks."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock

from restmq.runtime.future import Slot, drive
from restmq.store.pipeline import Turn
from restmq.store.timers import Timers


class Index:
    """Stands for Redis: something is always due in 300 ms, and nothing now."""

    def __init__(self) -> None:
        self.asked = 0

    def call_now(self, name: str, keys: list[bytes], *args: bytes) -> Slot[Any]:
        """The index, asked once more."""
        self.asked += 1
        slot: Slot[Any] = Slot()
        slot.resolve([300])
        return slot


def timer(index: Index, clock: Clock) -> Timers:
    """A Timers whose calls an Index answers. The cast is needed because a real Turn calls a real Redis."""
    return Timers(cast(Turn, index), b"0", clock)


def test_however_long_there_is_always_something_due_soon_the_index_is_asked_no_more_often() -> None:
    clock, index = Clock(), Index()
    due = timer(index, clock)

    def beats(many: int) -> int:
        before = index.asked
        for _ in range(many):
            drive(due.sweep_due(), lambda _: None, lambda error: None)
            clock.pump([0.01] * 100)
        return index.asked - before

    first = beats(10)
    beats(100)
    assert beats(10) <= first + 2
    due.stop()
    assert not clock.getDelayedCalls()


class Queue(Index):
    """Stands for Redis: a queue in which so many thousands are due, of which a sweep ends one."""

    def __init__(self, clock: Clock, thousands: int) -> None:
        super().__init__()
        self.clock, self.left = clock, thousands
        self.swept: list[float] = []  # when, in seconds

    def call(self, name: str, queue: bytes, *args: bytes) -> Slot[Any]:
        """A step of the sweep: it tells the ms until something is due next, 0 for at once, None for never."""
        assert name == "sweep"
        self.swept.append(self.clock.seconds())
        self.left -= 1
        slot: Slot[Any] = Slot()
        slot.resolve([0 if self.left else None, 0])
        return slot


def test_what_is_due_is_swept_at_its_time_in_one_go() -> None:
    clock = Clock()
    redis = Queue(clock, 10)
    due = timer(redis, clock)
    due.schedule_here(b"q", 2000)
    clock.pump([0.001] * 1999)
    assert redis.swept == []
    clock.pump([0.001] * 10)
    assert len(redis.swept) == 10
    assert 2 <= min(redis.swept) == max(redis.swept) <= 2.01
    due.stop()
