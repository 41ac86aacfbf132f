"""/metrics: Prometheus reads it, it tells what happened, and clients cannot make it grow."""

from __future__ import annotations

import json
import re
import signal
import socket
from typing import Any

from restmq.api.metrics import COUNTERS, GAUGES
from restmq.http.counts import Counts, route_name
from restmq.web import ROUTES
from tests import ROOT
from tests.support.listener import Listener
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer
from tests.support.requests import scrape
from tests.support.stream import as_request
from tests.support.websocket import HANDSHAKE


def test_it_tells_the_numbers_of_a_queue(instance: Any, queue: str) -> None:
    for _ in range(3):
        instance.form(f"/q/{queue}", "value=abc")
    instance.http("GET", f"/q/{queue}")
    found = scrape(instance, f"?match={queue}")
    shown = {name: value for (name, *labels), value in found.items() if labels == [queue]}
    gauges = {f"restmq_queue_{'waiting' if word == 'len' else word}": 0.0 for word in GAUGES}
    counters = {f"restmq_queue_{word}_total": 0.0 for word in COUNTERS}
    told = {"restmq_queue_waiting": 2, "restmq_queue_bytes": 6, "restmq_queue_status": 1}
    assert shown == {**gauges, **counters, **told, "restmq_queue_added_total": 3, "restmq_queue_taken_total": 1}


def test_it_tells_of_at_most_so_many_queues_and_whether_there_are_more(instance: Any, queue: str) -> None:
    names = [f"{queue}.{letter}" for letter in "abcd"]
    for name in names:
        instance.form(f"/q/{name}", "value=x")

    def shown(query: str) -> tuple[list[str], float]:
        found = scrape(instance, f"?match={queue}.&{query}")
        return [key[1] for key in found if key[0] == "restmq_queue_waiting"], found["restmq_queues_left_off",]

    assert shown("") == (names, 0)
    assert shown("max=2") == (names[:2], 1)
    assert shown(f"max=2&after={names[1]}") == (names[2:], 0)
    for query in ("max=0", "max=1001", "mach=x"):
        assert instance.http("GET", f"/metrics?{query}")[0] == 400


def test_names_that_need_escaping_are_read_as_they_are(instance: Any, queue: str) -> None:
    name = queue + "é'=+;#é"
    instance.http("POST", "/", json.dumps({}), {})
    instance.form("/", f"queue={queue}%C3%A9'%3D%2B%3B%23%C3%A9&value=x")
    assert scrape(instance, f"?match={queue}")["restmq_queue_waiting", name] == 1


def test_requests_are_counted_by_route_method_and_status(instance: Any, queue: str) -> None:
    before = scrape(instance)
    asked = [
        ("POST", f"/q/{queue}", "/q/NAME", "400"),
        ("GET", f"/q/{queue}", "/q/NAME", "204"),
        ("GET", f"/q/{queue}", "/q/NAME", "204"),
        ("DELETE", f"/q/{queue}/7", "/q/NAME/N", "200"),
        ("POST", f"/q/{queue}/take", "/q/NAME/take", "204"),
        ("GET", "/q/", "/q/", "200"),
        ("GET", f"/stats/{queue}", "/stats/NAME", "200"),
        ("GET", "/stats", "/stats/", "200"),
        ("GET", "/nothing/at/all", "other", "404"),
        ("BREW", f"/q/{queue}", "/q/NAME", "501"),
    ]
    wanted: dict[tuple[str, ...], int] = {}
    for method, path, route, status in asked:
        assert instance.http(method, path)[0] == int(status)
        key = ("restmq_requests_total", "other" if method == "BREW" else method, route, status)
        wanted[key] = wanted.get(key, 0) + 1
    after = scrape(instance)
    grown = {key: after[key] - before.get(key, 0) for key in after if key[0] == "restmq_requests_total"}
    assert grown.pop(("restmq_requests_total", "GET", "/metrics", "200")) == 1
    assert {key: value for key, value in grown.items() if value} == wanted


def test_nothing_that_a_client_sends_makes_the_counts_grow() -> None:
    logged: list[Any] = []
    requests = Counts(ROUTES, lambda *words: logged.append(words))
    for number in range(5000):
        for path in (b"/q/%d", b"/%d/x", b"/q/a/%d", b"/q/a/b/%d", b"/static/%d", b"/c/%d"):
            for method in ("GET", f"M{number}"):
                requests(as_request(method, path % number), 200, 0)
    counts = requests.counts()
    assert counts["/q/NAME", "GET", 200] == counts["/q/NAME", "other", 200] == 5000
    assert counts["other", "GET", 200] == 10_000
    assert (len(counts), sum(counts.values()), len(logged)) == (10, 60_000, 60_000)


def test_every_route_has_the_name_that_the_protocol_gives_it() -> None:
    text = (ROOT / "docs/protocol.txt").read_text("utf-8")
    for pattern, _ in ROUTES:
        assert re.search(rf"(?:GET|POST|HEAD|DELETE) {re.escape(route_name(pattern))}(?![\w/])", text), pattern


def test_who_listens_is_told_by_transport(start: Any, queue: str) -> None:
    one = start()
    listeners = [Listener(one.port, path) for path in (f"/c/{queue}", f"/sse/{queue}", f"/c/{queue}.x")]
    ws = socket.create_connection(("127.0.0.1", one.port))
    ws.sendall(f"GET /ws/{queue} HTTP/1.1\r\nHost: localhost\r\n{HANDSHAKE}\r\n".encode())
    assert ws.recv(1 << 16).startswith(b"HTTP/1.1 101")
    found = scrape(one, f"?match={queue}")
    transports = {transport: found["restmq_live_consumers", transport] for transport in ("comet", "sse", "websocket")}
    assert transports == {"comet": 2, "sse": 1, "websocket": 1}
    assert (found["restmq_live_queues",], found["restmq_connections",]) == (2, 5)
    assert "restmq_queue_waiting" not in {name for name, *_ in found}  # listening makes no queue
    for listener in listeners:
        listener.close()
    ws.close()
    until(lambda: not scrape(one)["restmq_live_consumers", "comet"])


def test_the_process_and_redis_are_told(instance: Any) -> None:
    found = scrape(instance)
    assert found["process_resident_memory_bytes",] > 1 << 20 and found["process_cpu_seconds_total",] > 0
    assert found["restmq_redis_up",] == 1 and 0 < found["restmq_redis_ping_seconds",] < PATIENCE
    assert found["restmq_redis_link_up", "commands"] == found["restmq_redis_link_up", "messages"] == 1
    assert found["restmq_waiting_gets",] == 0


def test_it_answers_while_redis_is_away(own: RedisServer, start: Any) -> None:
    one = start("[redis]\ndeadline = 3s\n", own.address)
    one.form("/q/x", "value=x")
    assert scrape(one)["restmq_queue_waiting", "x"] == 1
    own.process.send_signal(signal.SIGSTOP)  # it does not answer
    found = scrape(one)
    assert found["restmq_redis_up",] == 0 and ("restmq_queue_waiting", "x") not in found
    own.process.send_signal(signal.SIGCONT)
    own.stop()  # it is not there
    until(lambda: not scrape(one)["restmq_redis_link_up", "commands"])
    assert scrape(one)["restmq_redis_up",] == 0
