"""Readiness: the reasons why Redis does not serve well.

Owns asking for them, and a line in the log each time that they change. replies.health() finds the reasons, and
api/health.py shows them.
"""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger

from restmq.runtime.future import drive, fault, nothing
from restmq.store.core import Core

EVERY = 10  # seconds between two questions to Redis

log = Logger()


class Readiness:
    """Asks Redis how it is, every ten seconds and whenever a client asks for /readyz. Logs each change."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._reasons: list[str] = []
        self._ticks = 0

    def tick(self) -> None:
        """Ask when it is time. Called every second."""
        if self._ticks % EVERY == 0:
            drive(self.ask(), nothing, partial(fault, "asking Redis how it is"))
        self._ticks += 1

    async def ask(self) -> list[str]:
        """The reasons why Redis does not serve well, in sentences. Raises Unavailable when it does not answer."""
        reasons = await self.core.ready()
        before, self._reasons = self._reasons, reasons
        for reason in reasons:
            if reason not in before:
                log.warn("Redis at {redis}: {reason}", redis=self.core.redis_name, reason=reason)
        if before and not reasons:
            log.info("Redis at {redis} serves well again", redis=self.core.redis_name)
        return reasons
