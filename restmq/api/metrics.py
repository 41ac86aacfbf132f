"""/metrics: this instance and its queues, in Prometheus' text format.

Owns what is counted of requests, and the names of what is told; everything else
is asked when somebody scrapes. Knows of core and delivery what their docstrings
promise. Without Redis it tells what it can: then somebody looks at it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.process_collector import ProcessCollector
from twisted.internet.task import deferLater

import restmq
from restmq.api.stats import LOOK, NAMED, most, together
from restmq.http.application import specification
from restmq.http.handler import METHODS, Answer, Handler
from restmq.model.errors import Unavailable

OTHER = "other"
#: What /stats tells of a queue, and what it is called here; those that only grow are counters.
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


def route_name(pattern: str) -> str:
    """A route as docs/protocol.txt writes it: /q/NAME/take of /q/([^/]+)/take."""
    path = pattern.replace("\\", "").replace("/([0-9]+)", "/N").replace("/?", "/")
    path = path.replace("(.+)", "FILE").replace("(.*)", "FILE")
    return path.replace("([^/]+)", "NAMES" if re.match(r"/(?:c|sse|ws)/", path) else "NAME")


class Requests:
    """Counts answers by route, method and status; it is the application's `access`, and passes on to the log's.

    What is bounded is counted by itself, a path that no route fits and a method
    that nobody knows as `other`: clients cannot make it grow.
    """

    def __init__(self, routes: Iterable[Any], log: Callable[[Any, int, int], object] | None = None) -> None:
        """`routes` as the application has them."""
        found = [(spec.regex.pattern.removesuffix("$"), spec.handler_class) for spec in map(specification, routes)]
        self._routes = [(re.compile(pattern.encode()), route_name(pattern)) for pattern, _ in found]
        self._log = log
        self._hot: dict[bytes, str] = {}
        for pattern, handler in found:
            simple = re.fullmatch(r"(/\w+)/\(\[\^/\]\+\)", pattern)
            if simple and getattr(handler, "hot", False):
                self._hot[simple[1].encode()] = route_name(pattern)
        self._fast: dict[tuple[bytes, str, int], int] = {}
        self._slow: Counter[tuple[str, str, int]] = Counter()

    def __call__(self, request: Any, status: int, size: int) -> None:
        """A request was answered. The hot ones cost a look into a dict."""
        prefix, _, last = request.raw_path.rpartition(b"/")
        try:
            self._fast[prefix if last else b"", request.method, status] += 1
        except KeyError:
            self._other(request, prefix if last else b"", status)
        if self._log is not None:
            self._log(request, status, size)

    def _other(self, request: Any, prefix: bytes, status: int) -> None:
        method = request.method if request.method in METHODS else OTHER
        if prefix in self._hot and method != OTHER:
            self._fast[prefix, method, status] = 1
            return
        fits = (name for pattern, name in self._routes if pattern.fullmatch(request.raw_path))
        self._slow[next(fits, OTHER), method, status] += 1

    def counts(self) -> Counter[tuple[str, str, int]]:
        """How many, by (route, method, status)."""
        counts = Counter(self._slow)
        for (prefix, method, status), count in self._fast.items():
            counts[self._hot[prefix], method, status] += count
        return counts


class _Families:
    """What generate_latest() asks for its metrics."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"restmq_{name}", text, value=value)


class Metrics(Handler):
    """/metrics."""

    sections: ClassVar = {"GET": LOOK}
    process = ProcessCollector(registry=None)

    async def get(self) -> Answer:
        """This instance, and at most 1000 queues."""
        asked = self.options({"after": str, "match": str, "max": most})
        families = [*self.process.collect(), *self._instance()]
        began = time.monotonic()
        try:
            await self.app.core.redis.call(b"PING")
            spent = time.monotonic() - began
            families.append(_gauge("redis_ping_seconds", "How long Redis took to answer a PING", spent))
            families += await self._queues(asked)
        except Unavailable:
            families.append(_gauge("redis_up", "1 while Redis answers", 0))
        else:
            families.append(_gauge("redis_up", "1 while Redis answers", 1))
        parts = []
        for family in families:  # a turn each: those of 1000 queues take 60 ms together, in which nobody else is served
            parts.append(generate_latest(_Families([family])))
            await deferLater(self.app.wheel.clock, 0)
        return Answer(b"".join(parts), 200, CONTENT_TYPE_PLAIN_0_0_4.encode("ascii"))

    def _instance(self) -> Iterator[Metric]:
        app = self.app
        info = GaugeMetricFamily("restmq_build_info", "Always 1; the labels tell", labels=("version", "redis"))
        info.add_metric((restmq.__version__, app.core.redis_name), 1)
        yield info
        requests = CounterMetricFamily(
            "restmq_requests", "Requests answered by this instance", labels=("route", "method", "status")
        )
        for (route, method, status), count in sorted(app.requests.counts().items()):
            requests.add_metric((route, method, str(status)), count)
        yield requests
        refused = CounterMetricFamily("restmq_refused", "Requests that access refused", labels=("reason",))
        for reason, count in app.refusals.counts.items():
            refused.add_metric((reason,), count)
        yield refused
        yield _gauge("connections", "Open connections to this instance", len(app.connections))
        yield _gauge("waiting_gets", "GETs of this instance that wait for an element", len(app.waiting))
        live = GaugeMetricFamily("restmq_live_consumers", "Live consumers of this instance", labels=("transport",))
        transports = Counter(consumer.section.partition(":")[0] for consumer in app.delivery.of)
        for transport in ("comet", "sse", "websocket"):
            live.add_metric((transport,), transports[transport])
        yield live
        queues = app.delivery.queues.values()
        yield _gauge("live_queues", "Queues that live consumers of this instance hear", len(queues))
        behind = sum(queue.consumers.broadcast.behind for queue in queues)
        yield _gauge("live_behind", "Live consumers that read a queue's history, for each of their queues", behind)
        links = GaugeMetricFamily("restmq_redis_link_up", "1 while this link to Redis is usable", labels=("link",))
        waiting = 0
        for name, redis in (("commands", app.core.redis), ("messages", app.delivery.messages)):
            links.add_metric((name,), int(redis.link is not None))
            waiting += len(redis.link.asked) if redis.link is not None else 0
        yield links
        yield _gauge("redis_unanswered", "Commands that Redis has not answered yet", waiting)
        yield from self._room()

    def _room(self) -> Iterator[Metric]:
        """What this instance holds of bodies and answers, and who came when there was no room."""
        bodies, answers = self.app.bodies, self.app.answers
        for made, word, text, values in (
            (GaugeMetricFamily, "held_bytes", "Bytes of bodies and answers in memory", (bodies.held, answers.unread)),
            (GaugeMetricFamily, "held_most_bytes", "The most that they may have", (bodies.most, answers.most)),
            (CounterMetricFamily, "crowded_waited", "Times there was no room at once", (bodies.waited, answers.waited)),
            (CounterMetricFamily, "crowded_refused", "Times room was refused", (bodies.refused, answers.refused)),
        ):
            family = made(f"restmq_{word}", text, labels=("of",))
            for of, value in zip(("bodies", "answers"), values):
                family.add_metric((of,), value)
            yield family
        text = "Clients that were cut off because they read nothing"
        yield CounterMetricFamily("restmq_crowded_cut", text, value=answers.cut)

    async def _queues(self, asked: dict[str, Any]) -> list[Metric]:
        core, wanted = self.app.core, asked.get("max", NAMED)
        after, match = (asked.get(word, "").encode("utf-8") for word in ("after", "match"))
        names = await core.queues(after, match, wanted + 1)
        told = await together([core.stats(queue) for queue in names[:wanted]])
        more = len(names) > wanted
        families: list[Metric] = [_gauge("queues_left_off", "1 when there are more queues than are shown", more)]
        for kinds, made in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
            for word, text in kinds.items():
                family = made(f"restmq_queue_{'waiting' if word == 'len' else word}", text, labels=("queue",))
                for stats in told:
                    family.add_metric((stats["name"],), stats[word])
                families.append(family)
        return families

    verbs: ClassVar[dict[str, Any]] = {"GET": get}
