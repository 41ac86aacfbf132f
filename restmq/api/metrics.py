"""/metrics: this instance and its queues, in Prometheus' text format.

Owns the names and texts of the metrics. The values are asked for when a client scrapes. Of the store and of delivery
it uses what their docstrings promise. Without Redis, it answers the metrics that need no Redis, because operators then
need them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.process_collector import ProcessCollector
from twisted.internet.task import deferLater

import restmq
from restmq.api.services import BrokerHandler
from restmq.api.stats import LOOK, NAMED, ListingOptions, listing_options, together
from restmq.http.handler import Answer
from restmq.live.consumer import Live
from restmq.model.errors import Unavailable

#: The numbers that /stats shows of a queue, with their texts. Numbers that only grow are counters.
GAUGES = {
    "len": "Elements that wait",
    "delayed": "Elements that wait for their time",
    "leased": "Elements that are leased or on their way to live consumers",
    "dead": "Dead elements",
    "bytes": "Bytes of all stored values",
    "consumers": "Live consumers on all instances",
    "waiters": "GETs that wait on all instances",
    "status": "1 while elements flow to live consumers",
}
COUNTERS = {
    "added": "Elements ever added",
    "taken": "Elements that GET or take removed",
    "delivered": "Elements that live consumers' sockets took",
    "acked": "Leased elements that were acknowledged",
    "deleted": "Elements deleted by their key, or dead",
    "expired": "Elements whose ttl ended",
    "purged": "Elements that a purge removed",
    "dropped": "Elements that made room for newer ones",
}


class _Families:
    """The metrics in the form that generate_latest() asks for."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"restmq_{name}", text, value=value)


class Metrics(BrokerHandler):
    """/metrics."""

    sections: ClassVar = {"GET": LOOK}
    process = ProcessCollector(registry=None)

    async def get(self) -> Answer:
        """Answer the metrics of this instance, and of at most 1000 queues."""
        asked = listing_options(self)
        families = [*self.process.collect(), *self._instance()]
        began = time.monotonic()
        try:
            await self.services.core.ping()
            spent = time.monotonic() - began
            families.append(_gauge("redis_ping_seconds", "How long Redis took to answer a PING", spent))
            families += await self._queues(asked)
        except Unavailable:
            families.append(_gauge("redis_up", "1 while Redis answers", 0))
        else:
            families.append(_gauge("redis_up", "1 while Redis answers", 1))
        parts = []
        for (
            family
        ) in families:  # each in its own turn: those of 1000 queues take 60 ms, in which no other client is served
            parts.append(generate_latest(_Families([family])))
            await deferLater(self.server.wheel.clock, 0)
        return Answer(b"".join(parts), 200, CONTENT_TYPE_PLAIN_0_0_4.encode("ascii"))

    def _instance(self) -> Iterator[Metric]:
        services, server = self.services, self.server
        info = GaugeMetricFamily("restmq_build_info", "Always 1; the labels tell", labels=("version", "redis"))
        info.add_metric((restmq.__version__, services.core.redis_name), 1)
        yield info
        requests = CounterMetricFamily(
            "restmq_requests", "Requests answered by this instance", labels=("route", "method", "status")
        )
        for (route, method, status), count in sorted(services.counts.counts().items()):
            requests.add_metric((route, method, str(status)), count)
        yield requests
        refused = CounterMetricFamily("restmq_refused", "Requests that access refused", labels=("reason",))
        for reason, count in server.refusals.counts.items():
            refused.add_metric((reason,), count)
        yield refused
        yield _gauge("connections", "Open connections to this instance", len(server.connections))
        yield _gauge("waiting_gets", "GETs of this instance that wait for an element", len(services.waiting))
        live = GaugeMetricFamily("restmq_live_consumers", "Live consumers of this instance", labels=("transport",))
        transports = Counter(
            one.section.partition(":")[0] for one in services.delivery.queues_of if isinstance(one, Live)
        )
        for transport in ("comet", "sse", "websocket"):
            live.add_metric((transport,), transports[transport])
        yield live
        queues = services.delivery.queues.values()
        yield _gauge("live_queues", "Queues that live consumers of this instance hear", len(queues))
        behind = sum(queue.consumers.broadcast.behind for queue in queues)
        yield _gauge("live_behind", "Live consumers that read a queue's history, for each of their queues", behind)
        links = GaugeMetricFamily("restmq_redis_link_up", "1 while this link to Redis is usable", labels=("link",))
        core, messages = services.core, services.delivery.messages
        for name, connected in (("commands", core.connected), ("messages", messages.connected)):
            links.add_metric((name,), int(connected))
        yield links
        waiting = core.unanswered + messages.unanswered
        yield _gauge("redis_unanswered", "Commands that Redis has not answered yet", waiting)
        yield from self._room()

    def _room(self) -> Iterator[Metric]:
        """The bytes of bodies and answers that this instance holds, and the requests that found no room."""
        bodies, answers = self.server.bodies, self.server.answers
        for made, name, text, values in (
            (GaugeMetricFamily, "held_bytes", "Bytes of bodies and answers in memory", (bodies.held, answers.unread)),
            (GaugeMetricFamily, "held_most_bytes", "The most that they may have", (bodies.most, answers.most)),
            (CounterMetricFamily, "crowded_waited", "Times there was no room at once", (bodies.waited, answers.waited)),
            (CounterMetricFamily, "crowded_refused", "Times room was refused", (bodies.refused, answers.refused)),
        ):
            family = made(f"restmq_{name}", text, labels=("of",))
            for of, value in zip(("bodies", "answers"), values):
                family.add_metric((of,), value)
            yield family
        text = "Clients that were cut off because they read nothing"
        yield CounterMetricFamily("restmq_crowded_cut", text, value=answers.cut)

    async def _queues(self, asked: ListingOptions) -> list[Metric]:
        core, wanted = self.services.core, asked.get("max", NAMED)
        after, match = asked.get("after", "").encode("utf-8"), asked.get("match", "").encode("utf-8")
        names = await core.inspection.queues(after, match, wanted + 1)
        numbers = await together([core.inspection.stats(queue) for queue in names[:wanted]])
        more = len(names) > wanted
        families: list[Metric] = [_gauge("queues_left_off", "1 when there are more queues than are shown", more)]
        for kinds, made in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
            for key, text in kinds.items():
                family = made(f"restmq_queue_{'waiting' if key == 'len' else key}", text, labels=("queue",))
                for stats in numbers:
                    family.add_metric((stats["name"],), stats[key])
                families.append(family)
        return families
