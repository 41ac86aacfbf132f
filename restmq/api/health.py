"""Health: whether the process answers, and whether its Redis serves well.

Owns /healthz and /readyz. store/readiness.py finds what keeps Redis from serving well.
"""

from __future__ import annotations

from restmq.api.services import BrokerHandler
from restmq.http.handler import Answer
from restmq.model.errors import Unavailable


class Health(BrokerHandler):
    """/healthz: the process answers."""

    def get(self) -> bytes:
        """Answer OK."""
        return b"OK\r\n"


class Ready(BrokerHandler):
    """/readyz: Redis answers too, over both connections."""

    async def get(self) -> Answer:
        """Answer 200 if Redis answers, with the reasons why it does not serve well. Answer 503 if it does not."""
        reasons = await self.services.readiness.ask()
        if not self.services.delivery.channels.connected:
            raise Unavailable("Redis answers, but the connection over which live elements come is not there yet")
        return Answer(b"".join(b"%b\r\n" % line.encode() for line in ["OK", *reasons]))
