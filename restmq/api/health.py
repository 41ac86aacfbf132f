"""Health: whether the process answers, and whether its Redis serves well.

Owns /healthz and /readyz, and saying in the log what keeps Redis from serving
well, once each time that changes; what that may be stands in books.health().
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from twisted.logger import Logger

from restmq.http.handler import Answer, Handler
from restmq.model.errors import Unavailable
from restmq.runtime.future import drive, fault, nothing

EVERY = 10  # seconds between two questions to Redis

log = Logger()


class Watch:
    """Asks Redis how it is, now and then and whenever /readyz does; a change is a line in the log."""

    def __init__(self, core: Any) -> None:
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
        reasons: list[str] = await self.core.ready()
        before, self.told = self.told, reasons
        for reason in reasons:
            if reason not in before:
                log.warn("Redis at {redis}: {reason}", redis=self.core.redis_name, reason=reason)
        if before and not reasons:
            log.info("Redis at {redis} serves well again", redis=self.core.redis_name)
        return reasons


class Health(Handler):
    """/healthz: the process answers."""

    def get(self) -> bytes:
        """It does."""
        return b"OK\r\n"

    verbs: ClassVar[dict[str, Any]] = {"GET": get}


class Ready(Handler):
    """/readyz: Redis answers too, over both connections."""

    async def get(self) -> Answer:
        """200 when it does, with what is not well; 503 when it does not."""
        reasons = await self.app.health.ask()
        if not self.app.delivery.inbox.connected:
            raise Unavailable("Redis answers, but the connection over which live elements come is not there yet")
        return Answer(b"".join(b"%b\r\n" % line.encode() for line in ["OK", *reasons]))

    verbs: ClassVar[dict[str, Any]] = {"GET": get}
