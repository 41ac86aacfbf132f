"""Redis comes back with less than was acknowledged: numbers are not given twice, rules are not lost, and it shows."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.instance import Instance
from tests.support.listener import Listener
from tests.support.loss import add, books, lose
from tests.support.patience import until
from tests.support.redis_server import RedisServer


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may lose everything."""
    (tmp_path / "own").mkdir()
    server = RedisServer(tmp_path / "own", "--appendfsync always")
    yield server
    server.stop()


@pytest.mark.parametrize("empty", [True, False])
def test_numbers_and_rules_survive_a_redis_that_lost_them(
    own: RedisServer, start: Any, tmp_path: Path, empty: bool
) -> None:
    one = start("", own.address)
    add(one, "jobs")
    before = tmp_path / "before"
    own.stop()
    shutil.copytree(own.folder / "appendonlydir", before)
    own.start()
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    for _ in range(4):
        add(one, "jobs")
    one.form("/p/jobs", "policy=roundrobin")
    assert one.form("/settings/jobs", "max_deliveries=7")[0] == 200
    lease = json.loads(one.http("GET", "/q/jobs?lease=1h")[2])["lease"]
    lose(own, None if empty else before, one)
    assert add(one, "jobs") == "jobs:6"
    assert b'"roundrobin"' in one.http("GET", "/p/jobs")[2]
    assert json.loads(one.http("GET", "/settings/jobs")[2])["settings"]["max_deliveries"] == 7
    books = json.loads(one.http("GET", "/ledger/jobs")[2])
    assert (books["added"], books["imbalance"]) == (1 if empty else 2, 0), "not the numbers passed over"
    # An acknowledgement from before the loss is not taken for the element that has the number now.
    said = json.loads(one.http("POST", "/q/jobs/ack", json.dumps({"ack": [lease]}))[2])
    assert said["lost"] == [lease]
    again = json.loads(one.http("GET", "/q/jobs?lease=1h")[2])
    assert again["lease"].partition("@")[2] != lease.partition("@")[2]


def test_what_redis_again_thinks_on_its_way_to_nobody_comes_back(own: RedisServer, start: Any, tmp_path: Path) -> None:
    """A consumer that took little had left, and Redis lost that it did."""
    one = start("", own.address)
    one.form("/p/jobs", "policy=roundrobin")
    stuck = socket.create_connection(("127.0.0.1", one.port))
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.sendall(b"GET /c/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(lambda: json.loads(one.http("GET", "/stats/jobs")[2])["consumers"] == 1)
    for _ in range(40):
        assert one.http("POST", "/q/jobs", b"x" * 400_000, {"Content-Type": "text/plain"})[0] == 200
    until(lambda: books(one)["leased"])
    before = tmp_path / "before"
    own.stop()
    shutil.copytree(own.folder / "appendonlydir", before)
    own.start()
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    stuck.close()
    until(lambda: books(one)["leased"] == 0)
    add(one, "jobs")
    lose(own, before, one)
    add(one, "jobs")
    until(lambda: books(one)["leased"] == 0)
    came = 0
    while one.http("GET", "/q/jobs")[0] == 200:
        came += 1
    end = books(one)
    assert came > 1
    assert (end["taken"], end["waiting"], end["leased"]) == (came, 0, 0)


def test_who_listens_is_told_of_the_loss_and_stays(own: RedisServer, start: Any) -> None:
    one, two = start("", own.address), start("", own.address)
    sse, comet = Listener(one.port, "/sse/news"), Listener(two.port, "/c/news")
    for _ in range(3):
        add(two, "news")
    sse.until(lambda it: len(it.values) == 3)
    comet.until(lambda it: len(it.values) == 3)
    epoch = sse.ids[-1].partition("@")[2]
    lose(own, None, one, two)
    until(lambda: json.loads(one.http("GET", "/stats/news")[2])["consumers"] == 2)
    assert add(two, "news", "after") == "news:4"
    sse.until(lambda it: "after" in it.values)
    comet.until(lambda it: "after" in it.values)
    assert b"event: reset" in sse.body
    assert sse.ids[-1].partition("@")[2] != epoch
    assert sse.values.count("after") == comet.values.count("after") == 1
    sse.close()
    comet.close()


def test_a_queue_that_was_forgotten_stays_forgotten(own: RedisServer, start: Any) -> None:
    one, two = start("", own.address), start("", own.address)
    for _ in range(3):
        add(one, "gone")
    two.http("DELETE", "/q/gone?forget=1")
    own.stop()
    own.start()
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    assert add(one, "gone") == "gone:1"


class Early(Instance):
    """One that starts while Redis is away: it may take longer than leases rest, and is not waited for."""

    def start(self) -> None:
        self.launch()
        until(self.listens)

    def listens(self) -> bool:
        """Whether it answers at all."""
        try:
            return self.http("GET", "/healthz")[0] == 200
        except OSError:
            return False


@pytest.mark.parametrize("both", [False, True], ids=["Redis", "Redis and RestMQ"])
def test_no_lease_ends_for_five_seconds_after_redis_was_away(own: RedisServer, start: Any, both: bool) -> None:
    one = start("", own.address)
    for _ in range(2):
        add(one, "jobs")
    answers = [one.http("GET", "/q/jobs?lease=3s") for _ in range(2)]
    assert [answer[0] for answer in answers] == [200, 200], answers
    mine, others = (json.loads(answer[2])["lease"] for answer in answers)
    if both:
        one.stop()
    own.stop()
    time.sleep(3.1)
    if both:
        one = start("", own.address, Early)
    own.start()
    back = time.monotonic()
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    assert json.loads(one.http("POST", "/q/jobs/ack", json.dumps({"ack": [mine]}))[2])["acked"] == 1
    answer = one.http("GET", "/q/jobs?lease=1h&wait=60")
    assert answer[0] == 200, answer
    again = json.loads(answer[2])["lease"]
    assert again.partition(".")[0] == others.partition(".")[0]
    assert time.monotonic() - back > 4
