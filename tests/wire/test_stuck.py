"""A live consumer that does not read disturbs nobody, and what it did not take comes to others, once."""

from __future__ import annotations

import time
from typing import Any

from tests.support.patience import until
from tests.support.requests import add, batch_add, stats, texts


def test_one_that_does_not_read_starves_nobody_and_only_what_it_did_not_take_comes_again(
    start: Any, listen: Any, queue: str
) -> None:
    one = start("[live]\nmax_waiting = 64MiB\n")
    stuck = listen(one, f"/c/{queue}", buffer=4096)

    def stays() -> bool:
        """Whether something is on its way, and not only for a moment, as everything is at first."""
        for _ in range(10):
            if not stats(one, queue)["leased"]:
                return False
            time.sleep(0.02)
        return True

    for _ in range(400):
        add(one, queue, "x" * 50_000)
        if stays():
            break
    assert stats(one, queue)["leased"] > 0
    late = listen(one, f"/c/{queue}")  # it has nothing of what the first did not take
    values = texts(2500)
    for at in range(0, 2500, 500):
        batch_add(one, queue, *values[at : at + 500])
    late.until(lambda c: len(c.elements) >= 2500)
    left = stats(one, queue)["leased"] - 2500
    assert left >= 1
    stuck.close()
    late.until(lambda c: len(c.elements) >= 2500 + left)
    until(lambda: stats(one, queue)["leased"] == 0)
    got = late.quiet().values
    assert got[:2500] == values
    assert set(got[2500:]) == {"x" * 50_000} and len(got) <= 2500 + left + 1
    assert stats(one, queue)["len"] == 0
