"""A queue that is heard or looked at and never written to: nobody misses anything by it, however often one joins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.listener import Listener
from tests.support.patience import until
from tests.support.requests import add, batch_add, stats, texts

WARNING = "has another epoch"


def joins(where: Any, target: str, count: int) -> None:
    """Join and leave again and again: at once, after its leaving was told, and with another in between."""
    queue = target.partition("?")[0].rpartition("/")[2].partition(",")[0]
    for turn in range(count):
        listener = Listener(where.port, target)
        if turn % 3 == 1:
            listener.close()
            until(lambda: stats(where, queue)["consumers"] == 0)
        elif turn % 3 == 2:
            with_it = Listener(where.port, target)
            listener.close()
            listener = with_it
        listener.close()


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
@pytest.mark.parametrize("target", ["/c/{}", "/sse/{}", "/c/{}?since=all", "/c/{},{}.too"])
def test_joining_it_again_and_again_warns_of_nothing(start: Any, queue: str, target: str, policy: str) -> None:
    one = start(f"[queues]\npolicy = {policy}\n")
    joins(one, target.format(queue, queue), 60)
    for _ in range(60):  # what only looks is no more
        one.http("GET", f"/peek/{queue}?state=history"), one.http("GET", f"/stats/{queue}")
        Listener(one.port, target.format(queue, queue)).close()
    assert WARNING not in one.stop()


def test_joining_it_at_two_instances_warns_of_nothing(start: Any, queue: str) -> None:
    pair = start(), start()
    for turn in range(40):
        there = [Listener(one.port, f"/sse/{queue}") for one in pair]
        there[turn % 2].close()
        Listener(pair[turn % 2].port, f"/c/{queue}").close()
        there[1 - turn % 2].close()
    assert [WARNING in one.stop() for one in pair] == [False, False]


@pytest.mark.parametrize("transport", ["c", "sse", "ws"])
def test_who_comes_back_to_it_hears_of_no_reset_and_then_what_is_written(
    instance: Any, listen: Any, queue: str, transport: str
) -> None:
    last = "now"
    for _ in range(5):
        there = listen(instance, f"/{transport}/{queue}?since={last}").until(lambda c: c.ids)
        last = there.ids[0]
        assert last.startswith("0@")
        assert there.quiet(0.05).told == []
        there.close()
        until(lambda: stats(instance, queue)["consumers"] == 0)
    there = listen(instance, f"/{transport}/{queue}?since={last}")
    batch_add(instance, queue, *texts(3))
    assert there.until(lambda c: len(c.values) == 3).told == []
    assert [one.partition("@")[0] for one in there.ids] == ["0", "1", "2", "3"]
    back = listen(instance, f"/{transport}/{queue}?since={there.ids[1]}").until(lambda c: len(c.values) == 2)
    assert (back.values, back.told) == (texts(2, 1), [])


def test_who_comes_back_when_it_was_written_to_has_all_that_is_kept(instance: Any, listen: Any, queue: str) -> None:
    there = listen(instance, f"/sse/{queue}").until(lambda c: c.ids)
    (last,) = there.ids
    there.close()
    until(lambda: stats(instance, queue)["consumers"] == 0)
    other = listen(instance, f"/c/{queue}")
    batch_add(instance, queue, *texts(3))
    other.until(lambda c: len(c.values) == 3)
    back = listen(instance, f"/sse/{queue}", headers=f"Last-Event-ID: {last}\r\n").until(lambda c: len(c.values) == 3)
    assert back.values == texts(3)


def test_an_id_that_is_none_is_a_reset_there_too(instance: Any, listen: Any, queue: str) -> None:
    there = listen(instance, f"/sse/{queue}", headers="Last-Event-ID: 0\r\n").until(lambda c: c.told)
    assert [one["queue"] for one in there.told] == [queue]


def test_its_first_element_is_leased_and_acknowledged_in_its_own_epoch(instance: Any, listen: Any, queue: str) -> None:
    instance.form(f"/p/{queue}", "policy=roundrobin")
    there = listen(instance, f"/c/{queue}?lease=30s")
    add(instance, queue, "a")
    (lease,) = [one["lease"] for one in there.until(lambda c: c.values).elements]
    answer = instance.http("POST", f"/q/{queue}/ack", json.dumps({"ack": [lease]}))[2]
    assert json.loads(answer)["acked"] == 1


def test_it_leaves_no_key(instance: Any, queue: str, redis_server: Any) -> None:
    with redis_server.client() as link:
        joins(instance, f"/sse/{queue}", 3)
        until(lambda: not list(link.scan_iter(f"restmq:{{{queue}}}*")))


def test_what_was_known_of_it_is_told_to_a_redis_that_comes_back_with_less(start: Any, own: Any, listen: Any) -> None:
    """Its epoch went with who heard it; that of its birth is learnt with its first number, or a loss is not noticed."""
    one, other = start(redis=own.address), start(redis=own.address)
    there = listen(other, "/c/q")
    one.http("GET", "/q/q")  # its first use here: an epoch is there that will go
    there.close()
    until(lambda: stats(one, "q")["consumers"] == 0)
    other.stop()
    add(one, "q", "a", "b")
    with own.client() as link:
        until(lambda: link.hget("restmq:{q}:a", "ep"))
        kept = {key: link.dump(key) for key in link.scan_iter("restmq:{q}*")}
        add(one, "q", "c")
        for key, value in kept.items():  # Redis lost what came last
            link.restore(key, 0, value, replace=True)
        link.client_kill_filter(_type="normal", skipme=True)
    until(lambda: one.http("GET", "/readyz")[0] == 200)
    answer = one.http("POST", "/q/q", b"d", {"Content-Type": "text/plain"})
    assert answer[2] == b"q:4\r\n"
