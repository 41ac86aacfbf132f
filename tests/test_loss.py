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
import redis
from conftest import Instance, RedisServer
from wire import Listener, until

pytestmark = pytest.mark.wire


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may lose everything."""
    (tmp_path / "own").mkdir()
    server = RedisServer(tmp_path / "own", "--appendfsync always")
    yield server
    server.stop()


def lose(server: RedisServer, before: Path | None, *instances: Instance) -> None:
    """It stops, and comes back empty, or with what it had when `before` was copied."""
    server.stop()
    shutil.rmtree(server.folder / "appendonlydir")
    if before is not None:
        shutil.copytree(before, server.folder / "appendonlydir")
    for instance in instances:
        until(lambda instance=instance: instance.http("GET", "/readyz")[0] == 503)  # type: ignore[misc]
    server.start()
    for instance in instances:
        until(lambda instance=instance: instance.http("GET", "/readyz")[0] == 200)  # type: ignore[misc]


def add(instance: Instance, queue: str, value: str = "x") -> str:
    """Its key."""
    status, body = instance.form(f"/q/{queue}", f"value={value}")
    assert status == 200, body
    return body.decode().strip()


def books(instance: Instance) -> dict[str, int]:
    """Those of the queue `jobs`."""
    told: dict[str, int] = json.loads(instance.http("GET", "/ledger/jobs")[2])
    assert told["imbalance"] == 0
    return told


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


@pytest.mark.parametrize("both", [False, True], ids=["Redis", "Redis and RestMQ"])
def test_no_lease_ends_for_five_seconds_after_redis_was_away(own: RedisServer, start: Any, both: bool) -> None:
    one = start("", own.address)
    for _ in range(2):
        add(one, "jobs")
    answers = [one.http("GET", "/q/jobs?lease=500ms") for _ in range(2)]
    assert [answer[0] for answer in answers] == [200, 200], answers
    mine, others = (json.loads(answer[2])["lease"] for answer in answers)
    if both:
        one.stop()
    own.stop()
    time.sleep(0.6)
    own.start()
    if both:
        one = start("", own.address)
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    back = time.monotonic()
    assert json.loads(one.http("POST", "/q/jobs/ack", json.dumps({"ack": [mine]}))[2])["acked"] == 1
    answer = one.http("GET", "/q/jobs?lease=1h&wait=30")
    assert answer[0] == 200, answer
    again = json.loads(answer[2])["lease"]
    assert again.partition(".")[0] == others.partition(".")[0]
    assert 4 < time.monotonic() - back < 20


def rules(instance: Instance) -> tuple[str, dict[str, Any]]:
    """The policy and the settings of the queue `jobs`."""
    policy = json.loads(instance.http("GET", "/p/jobs")[2])["value"]
    return policy, json.loads(instance.http("GET", "/settings/jobs")[2])["settings"]


def epoch(server: RedisServer) -> bytes | None:
    """Which life of the queue `jobs` this is."""
    with redis.Redis(unix_socket_path=str(server.socket)) as link:
        found: bytes | None = link.hget("restmq:{jobs}:a", "ep")
        return found


@pytest.mark.parametrize("query", [None, "", "?max=9", "?max=9&wait=9", "?max=9&lease=1h"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_loss_shows_to_who_used_a_queue_before_it_was_born(
    own: RedisServer, start: Any, tmp_path: Path, empty: bool, query: str | None
) -> None:
    """It learns the epoch as it adds, or with a query as it takes or leases what another added."""
    one = start("", own.address)
    two = one if query is None else start("", own.address)
    assert one.http("GET", "/q/jobs")[0] in (204, 404)
    add(two, "jobs")
    before = tmp_path / "before"
    shutil.copytree(own.folder / "appendonlydir", before)
    two.form("/p/jobs", "policy=roundrobin")
    assert two.form("/settings/jobs", "max_deliveries=7")[0] == 200
    told = rules(one)
    for _ in range(4):
        add(two, "jobs")
    for _ in range(0 if query is None else 5 if query == "" else 1):
        assert one.http("GET", f"/q/jobs{query}")[0] == 200
    was = epoch(own)
    if two is not one:
        two.stop()
    lose(own, None if empty else before, one)
    assert add(one, "jobs") == "jobs:6"
    assert epoch(own) not in (None, was)
    assert rules(one) == told
    assert (told[0], told[1]["max_deliveries"]) == ("roundrobin", 7)
    assert books(one)["added"] == (1 if empty else 2)
    assert add(one, "jobs") == "jobs:7"


@pytest.mark.parametrize("first", ["before", "after"])
def test_settings_are_back_also_when_only_a_producer_notices_the_loss(own: RedisServer, start: Any, first: str) -> None:
    """Settings that were told before and after it used the queue first: these only whoever told them knows."""
    one, two = start("", own.address), start("", own.address)
    if first == "after":
        add(two, "jobs")
    one.form("/p/jobs", "policy=roundrobin")
    assert one.form("/settings/jobs", "max_deliveries=7&history=5")[0] == 200
    told = rules(one)
    if first == "before":
        add(two, "jobs")
    was = epoch(own)
    lose(own, None, one, two)
    assert add(two, "jobs") == "jobs:2"
    if first == "after":
        assert one.http("GET", "/q/jobs")[0] == 200
    assert epoch(own) not in (None, was)
    assert rules(two) == told
    assert (told[0], told[1]["max_deliveries"], told[1]["history"]) == ("roundrobin", 7, 5)
    add(two, "jobs")
    books(two)


@pytest.mark.parametrize("since", [False, True], ids=["", "told others since"])
@pytest.mark.parametrize("born", [False, True], ids=["told first", "used first"])
def test_who_knows_later_settings_and_comes_second_is_heard_unless_the_queue_was_told_others_since(
    own: RedisServer, start: Any, born: bool, since: bool
) -> None:
    one, two = start("", own.address), start("", own.address)
    if born:
        add(one, "jobs")
    one.form("/p/jobs", "policy=roundrobin")
    assert one.form("/settings/jobs", "max_deliveries=7")[0] == 200
    add(two, "jobs")
    early = rules(two)
    one.form("/p/jobs", "policy=broadcast")
    assert one.form("/settings/jobs", "max_deliveries=&history=5")[0] == 200
    late = rules(two)
    assert early != late
    lose(own, None, one, two)
    assert add(two, "jobs") == f"jobs:{2 + born}"
    assert rules(two) == early
    if since:
        assert two.form("/settings/jobs", "max_deliveries=3")[0] == 200
        late = rules(two)
    assert add(one, "jobs") == f"jobs:{3 + born}"
    assert rules(one) == rules(two) == late
    assert two.form("/settings/jobs", "max_deliveries=4")[0] == 200
    late = rules(two)
    lose(own, None, one, two)
    add(two, "jobs")
    assert rules(one) == late
    books(one)


def test_what_a_queue_was_told_before_anything_was_added_is_back(own: RedisServer, start: Any) -> None:
    one = start("", own.address)
    one.form("/p/jobs", "policy=roundrobin")
    assert one.form("/settings/jobs", "max_deliveries=7")[0] == 200
    told = rules(one)
    lose(own, None, one)
    assert add(one, "jobs") == "jobs:1"
    assert rules(one) == told
    books(one)
