"""What is logged, where a test looks at it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer


@implementer(ILogObserver)
class Observer:
    """Hands every event of the log to a function."""

    def __init__(self, keep: Callable[[LogEvent], object]) -> None:
        self._keep = keep

    def __call__(self, event: LogEvent) -> None:
        """An event was logged."""
        self._keep(event)
