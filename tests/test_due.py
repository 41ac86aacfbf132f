"""The timer of what is due, and how often it asks."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from restmq.due import Due
from restmq.scripts import load
from restmq.slot import Slot, drive


class Index:
    """Stands for Redis: something is always due in 300 ms, and nothing now."""

    def __init__(self) -> None:
        self.scripts = load()
        self.asked = 0

    def whole(self, name: str, keys: list[bytes], *args: bytes) -> Slot[Any]:
        """The index, asked once more."""
        self.asked += 1
        slot: Slot[Any] = Slot()
        slot.resolve([300])
        return slot


def test_however_long_there_is_always_something_due_soon_the_index_is_asked_no_more_often() -> None:
    clock, index = Clock(), Index()
    due = Due(index, b"0", clock)  # type: ignore[arg-type]

    def beats(many: int) -> int:
        before = index.asked
        for _ in range(many):
            drive(due.look(), lambda _: None, lambda error: None)
            clock.pump([0.01] * 100)
        return index.asked - before

    first = beats(10)
    beats(100)
    assert beats(10) <= first + 2
    due.stop()
    assert not clock.getDelayedCalls()
