"""The services that handlers of queues use.

Owns only their names and types, so that no other module adds attributes to the application. broker.py makes them.
http/server.py has what all connections share. Read api/queue.py next.
"""

from __future__ import annotations

from dataclasses import dataclass

from restmq.api.frontend import Frontend
from restmq.api.rates import Rates
from restmq.config import Config
from restmq.delivery.service import Delivery
from restmq.delivery.waiters import Waiters
from restmq.http.counts import Counts
from restmq.http.handler import Handler
from restmq.store.core import Core
from restmq.store.readiness import Readiness


@dataclass(frozen=True)
class Services:
    """The parts of a broker that its handlers call."""

    config: Config
    core: Core
    delivery: Delivery
    waiting: Waiters
    frontend: Frontend
    rates: Rates
    readiness: Readiness
    counts: Counts


class BrokerHandler(Handler):
    """A handler that uses the services."""

    services: Services
