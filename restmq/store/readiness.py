"""Readiness: what keeps Redis from serving well.

Owns asking for it, and saying so in the log, once each time that it changes; what it may be stands in
replies.health(). Read api/health.py next.
"""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger

from restmq.runtime.future import drive, fault, nothing
from restmq.store.core import Core

EVERY = 10  # seconds between two questions to Redis

log = Logger()


class Readiness:
    """Asks Redis how it is, now and then and whenever /readyz does; a change is a line in the log."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.told: list[str] = []
        self._ticks = 0

    def tick(self) -> None:
        """Called every second."""
        if self._ticks % EVERY == 0:
            drive(self.ask(), nothing, partial(fault, "asking Redis how it is"))
        self._ticks += 1

    async def ask(self) -> list[str]:
        """What keeps Redis from serving well, in sentences. Raises Unavailable when it does not answer."""
        reasons = await self.core.ready()
        before, self.told = self.told, reasons
        for reason in reasons:
            if reason not in before:
                log.warn("Redis at {redis}: {reason}", redis=self.core.redis_name, reason=reason)
        if before and not reasons:
            log.info("Redis at {redis} serves well again", redis=self.core.redis_name)
        return reasons
