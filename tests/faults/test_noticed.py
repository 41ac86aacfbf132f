"""Redis came back with less than was there: whoever notices first, numbers go on and all settings are back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.instance import Instance
from tests.support.loss import add, books, lose
from tests.support.patience import until
from tests.support.redis_server import RedisServer


def rules(instance: Instance) -> tuple[str, dict[str, Any]]:
    """The policy and the settings of the queue `jobs`."""
    policy = json.loads(instance.http("GET", "/p/jobs")[2])["value"]
    return policy, json.loads(instance.http("GET", "/settings/jobs")[2])["settings"]


def epoch(server: RedisServer) -> bytes | None:
    """Which life of the queue `jobs` this is."""
    with server.client() as link:
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
    with own.client() as link:  # its writes may wait for an fsync that is going on
        until(lambda: link.info("persistence")["aof_buffer_length"] == 0)
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
def test_later_settings_that_come_second_are_heard_unless_the_queue_was_told_others_since(
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
