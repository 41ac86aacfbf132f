"""Slots: one answer, and one who is called with it."""

from __future__ import annotations

from typing import Any

import pytest

from restmq.runtime.future import Slot, drive


def answers(slot: Slot[Any], *what: object) -> None:
    """Each of them in turn, errors as such."""
    for one in what:
        if isinstance(one, BaseException):
            slot.fail(one)
        else:
            slot.resolve(one)


@pytest.mark.parametrize(
    "what", [("first", "second"), ("first", OSError()), (OSError(), "second"), (OSError(), OSError())]
)
def test_who_waits_is_called_once_however_often_the_slot_is_answered(what: tuple[object, object]) -> None:
    slot: Slot[Any] = Slot()
    told: list[object] = []
    slot.then(lambda value, error: told.append(value if error is None else error))
    answers(slot, *what)
    assert told == [what[0]]


def test_a_coroutine_that_goes_on_to_wait_for_something_else_is_not_woken_by_an_old_answer() -> None:
    first: Slot[str] = Slot()
    second: Slot[str] = Slot()
    done: list[object] = []

    async def both() -> list[str]:
        return [await first, await second]

    drive(both(), done.append, done.append)
    answers(first, "a", "b", OSError())
    assert done == []
    answers(second, "c", "d", OSError())
    assert done == [["a", "c"]]


@pytest.mark.parametrize("one", ["value", OSError()])
def test_an_answer_that_is_here_already_is_told_at_once(one: object) -> None:
    slot: Slot[Any] = Slot()
    answers(slot, one)
    told: list[object] = []
    slot.then(lambda value, error: told.append(value if error is None else error))
    assert told == [one]
