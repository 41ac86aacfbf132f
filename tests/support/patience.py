"""How long a test waits: for an event, with a generous end."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds until what has to come counts as missing. It is the end of a wait for an event, never a measure of speed:
#: on a busy machine a process may stand still for many seconds, and PyPy runs slowly until it is warm.
PATIENCE = 60.0
#: The same for what starts a Python of its own, or runs a program to its end.
LONG = 4 * PATIENCE


def until(
    done: Callable[..., object],
    what: Callable[..., object] = lambda: "it did not come",
    seconds: float = PATIENCE,
    step: float = 0.02,
) -> None:
    """Wait until something is so. Raises AssertionError with `what` when it does not come.

    Both are called without arguments. Their types admit arguments with defaults: in a loop, a lambda binds the loop's
    variables so.
    """
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, what()
        time.sleep(step)
