"""Services that start in order and end in reverse order, one after the other.

Owns that order; knows nothing of what it starts. Twisted's MultiService ends all of them at once.
"""

from __future__ import annotations

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from restmq.runtime.future import deferred

log = Logger()


class Ordered(MultiService):
    """Ends the last service first, and the next one when that has ended. A failure does not stop the rest."""

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return deferred(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            ended = maybeDeferred(service.stopService)
            await ended.addErrback(lambda failure: log.failure("a part of RestMQ did not end well", failure))
