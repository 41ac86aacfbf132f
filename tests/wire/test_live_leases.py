"""Leases of live consumers: what they get stays theirs until acknowledged, or goes to another."""

from __future__ import annotations

import json
import signal
import threading
import time
from functools import partial
from typing import Any

import pytest

from restmq.store.library import Library
from tests.support.listener import Listener, have
from tests.support.patience import PATIENCE, until
from tests.support.proxy import Between
from tests.support.redis_server import RedisServer
from tests.support.requests import add, batch_add, stats, texts
from tests.support.websocket import Socket

TRANSPORTS = ("c", "sse", "ws")


@pytest.fixture
def shared(instance: Any, queue: str) -> str:
    """A queue that deals its elements out in turn."""
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    return queue


def leases(listener: Listener) -> list[str]:
    """The leases of its elements so far."""
    return [one["lease"] for one in listener.elements]


def ack(instance: Any, queue: str, *words: str) -> dict[str, Any]:
    """Acknowledge leases over HTTP."""
    status, _, body = instance.http("POST", f"/q/{queue}/ack", json.dumps({"ack": words}))
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def look(instance: Any, queue: str, number: int) -> dict[str, Any]:
    """Look at one element."""
    status, _, body = instance.http("GET", f"/q/{queue}/{number}")
    found: dict[str, Any] = json.loads(body)
    return found if status == 200 else {"state": "gone"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_element_carries_its_lease_and_stays_in_the_queue_until_acknowledged(
    instance: Any, listen: Any, shared: str, transport: str
) -> None:
    consumer = listen(instance, f"/{transport}/{shared}?lease=60")
    add(instance, shared, "work")
    (element,) = consumer.until(have(1)).elements
    assert list(element) == ["key", "value", "lease"]
    assert element["lease"].startswith("1.1@")
    assert consumer.ids == []
    until(lambda: look(instance, shared, 1)["state"] == "leased")
    assert instance.http("GET", f"/q/{shared}")[0] == 204
    assert ack(instance, shared, element["lease"])["acked"] == 1
    assert look(instance, shared, 1)["state"] == "gone"
    assert stats(instance, shared)["leased"] == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("prefetch", "out"), [("", 1), ("&prefetch=3", 3)])
def test_prefetch_bounds_what_is_out_and_an_acknowledgement_anywhere_makes_room(
    instance: Any, other: Any, listen: Any, shared: str, transport: str, prefetch: str, out: int
) -> None:
    consumer = listen(instance, f"/{transport}/{shared}?lease=60{prefetch}")
    batch_add(instance, shared, *texts(10))
    assert consumer.until(have(out)).quiet().values == texts(out)
    ack(other, shared, leases(consumer)[0])
    assert consumer.until(have(out + 1)).quiet().values == texts(out + 1)
    status, _, body = (
        other.http("DELETE", f"/q/{shared}/2", headers={"If-Match": f'"{leases(consumer)[1]}"'})
        if out > 1
        else other.http("DELETE", f"/q/{shared}/2")
    )
    assert status == 200 and b'"deleted": true' in body
    assert consumer.until(have(out + 2)).quiet().values == texts(out + 2)


def test_prefetch_is_for_each_queue_and_each_consumer(instance: Any, listen: Any, queue: str) -> None:
    east, west = f"{queue}.east", f"{queue}.west"
    for name in (east, west):
        assert instance.form(f"/p/{name}", "policy=roundrobin")[0] == 200
    one, two = (listen(instance, f"/c/{east},{west}?lease=60&prefetch=2") for _ in range(2))
    batch_add(instance, east, *texts(20))
    batch_add(instance, west, *texts(20))
    for consumer in (one, two):
        keys = [item["key"].rpartition(":")[0] for item in consumer.until(have(4)).quiet().elements]
        assert sorted(keys) == [east, east, west, west]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_lease_that_ends_brings_it_again_with_one_more_delivery(
    instance: Any, listen: Any, shared: str, transport: str
) -> None:
    consumer = listen(instance, f"/{transport}/{shared}?lease=500ms")
    add(instance, shared, "again")
    consumer.until(have(2))
    assert consumer.values[:2] == ["again", "again"]
    assert [word.partition("@")[0] for word in leases(consumer)[:2]] == ["1.1", "1.2"]
    lost = ack(instance, shared, leases(consumer)[0])
    assert (lost["acked"], lost["lost"]) == (0, leases(consumer)[:1])


def test_a_lease_given_back_comes_again_and_one_that_was_prolonged_holds(
    instance: Any, listen: Any, shared: str
) -> None:
    consumer = listen(instance, f"/c/{shared}?lease=60&prefetch=2")
    add(instance, shared, "a", "b")
    consumer.until(have(2))
    body = json.dumps({"nack": [{"lease": leases(consumer)[0]}]})
    assert instance.http("POST", f"/q/{shared}/ack", body)[0] == 200
    assert consumer.until(have(3)).values == ["a", "b", "a"]
    longer = {"If-Match": f'"{leases(consumer)[1]}"'}
    assert instance.http("POST", f"/q/{shared}/2?lease=90", headers=longer)[0] == 200
    assert ack(instance, shared, *leases(consumer)[1:])["acked"] == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_closing_gives_back_what_is_not_acknowledged_and_the_oldest_counts_as_a_failed_try(
    start: Any, listen: Any, queue: str, transport: str
) -> None:
    one = start("[queues]\nmax_deliveries = 1\n")
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumer = listen(one, f"/{transport}/{queue}?lease=60&prefetch=4")
    batch_add(one, queue, *texts(6))
    consumer.until(have(4))
    ack(one, queue, leases(consumer)[0])
    consumer.until(have(5))
    consumer.close()
    until(lambda: look(one, queue, 2)["state"] == "dead", lambda: look(one, queue, 2))
    assert look(one, queue, 2)["errors"] == ["its consumer closed"]
    until(lambda: stats(one, queue)["len"] == 4, lambda: stats(one, queue))
    found = listen(one, f"/{transport}/{queue}?lease=60&prefetch=10").until(have(4)).elements
    assert [(item["value"], item["lease"].partition("@")[0]) for item in found] == [
        ("v2", "3.2"), ("v3", "4.2"), ("v4", "5.2"), ("v5", "6.1"),
    ]  # fmt: skip


def test_the_end_of_an_instance_gives_back_without_a_failed_try(
    start: Any, instance: Any, listen: Any, queue: str
) -> None:
    one = start("[queues]\nmax_deliveries = 1\n")
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumers = [listen(one, f"/{transport}/{queue}?lease=60&prefetch=2") for transport in TRANSPORTS]
    batch_add(one, queue, *texts(6))
    for consumer in consumers:
        consumer.until(have(2))
    one.process.send_signal(signal.SIGTERM)
    for consumer in consumers:
        consumer.until_end()
    until(lambda: stats(instance, queue)["len"] == 6, lambda: stats(instance, queue))
    assert [look(instance, queue, number)["state"] for number in range(1, 7)] == ["waiting"] * 6


def test_the_death_of_an_instance_gives_back_what_its_consumers_leased(
    start: Any, instance: Any, listen: Any, shared: str
) -> None:
    one = start("[server]\nsilence = 3s\n")  # it may die before it has told that they went out
    consumer = listen(one, f"/c/{shared}?lease=2s&prefetch=5")
    batch_add(instance, shared, *texts(5))
    consumer.until(have(5))
    one.process.kill()
    rest = listen(instance, f"/c/{shared}?lease=60&prefetch=10").until(have(5))
    assert sorted(rest.values) == texts(5)
    assert [word.split(".")[1][0] for word in leases(rest)] == ["2"] * 5


def test_a_lease_given_back_that_comes_to_the_same_consumer_counts_for_it(
    instance: Any, listen: Any, shared: str
) -> None:
    consumer = listen(instance, f"/c/{shared}?lease=60&prefetch=2")
    add(instance, shared, "a")
    consumer.until(have(1))
    assert instance.form(f"/q/{shared}/1", "lease=0")[0] == 200
    consumer.until(have(2))
    add(instance, shared, "b", "c")
    assert consumer.until(have(3)).quiet().values == ["a", "a", "b"], "two at a time"
    consumer.close()
    until(lambda: stats(instance, shared)["len"] == 3, lambda: stats(instance, shared))


def test_what_cannot_be_given_back_now_is_when_redis_takes_it(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    one = start("", own.address)
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumer = listen(one, f"/c/{queue}?lease=10m")
    add(one, queue, "a")
    consumer.until(have(1))
    with own.client() as link:
        link.config_set("min-replicas-to-write", 1)  # NOREPLICAS: the link stays, and nothing may be written
        consumer.close()
        until(lambda: "left comet" in one.log.read_text())
        time.sleep(0.5)
        link.config_set("min-replicas-to-write", 0)
    until(lambda: stats(one, queue)["len"] == 1, lambda: stats(one, queue))


def test_a_confirmation_that_fails_when_its_consumer_has_left_leases_nothing(
    own: RedisServer, start: Any, listen: Any, queue: str
) -> None:
    between, held, confirm = Between(own.folder, own), threading.Event(), Library().functions["confirm"]

    def asked(data: bytes) -> None:
        if confirm in data and not held.is_set():
            between.flows.clear()
            held.set()

    one = start("", f"unix:{between.path}")
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumer = listen(one, f"/c/{queue}?lease=10m")
    between.asked = asked
    add(one, queue, "a")
    assert consumer.until(have(1)) and held.wait(PATIENCE)
    consumer.close()
    until(lambda: "left comet" in one.log.read_text())
    with own.client() as link:
        link.config_set("min-replicas-to-write", 1)
        between.flows.set()
        refused = partial(link.info, "errorstats")
        until(lambda: refused().get("errorstat_NOREPLICAS", {"count": 0})["count"] >= 2)  # that, and the giving back
        link.config_set("min-replicas-to-write", 0)
    until(lambda: stats(one, queue)["len"] == 1, lambda: stats(one, queue))
    time.sleep(1)
    assert stats(one, queue)["len"] == 1, "nobody has it"
    between.stop()


@pytest.mark.parametrize("how", ["http", "ws"])
def test_an_acknowledgement_at_once_is_taken_however_fast_it_comes(
    instance: Any, other: Any, listen: Any, shared: str, how: str
) -> None:
    consumer: Socket = listen(instance, f"/ws/{shared}?lease=60&prefetch=1")
    batch_add(instance, shared, *texts(100))
    for number in range(100):
        element = consumer.until(have(number + 1)).elements[number]
        assert element["value"] == f"v{number}"
        if how == "ws":
            consumer.send(cmd="del", queue=shared, key=element["key"], match=element["lease"])
        else:
            assert ack(other, shared, element["lease"])["acked"] == 1
    until(lambda: stats(instance, shared)["leased"] == 0, lambda: stats(instance, shared))
    assert stats(instance, shared)["len"] == 0


def test_two_consumers_of_different_prefetch_share_as_they_acknowledge(
    instance: Any, other: Any, listen: Any, shared: str
) -> None:
    many = listen(instance, f"/c/{shared}?lease=60&prefetch=8")
    few = listen(other, f"/c/{shared}?lease=60&prefetch=2")
    until(lambda: stats(instance, shared)["consumers"] == 2)
    batch_add(instance, shared, *texts(50))
    many.until(have(8)), few.until(have(2))
    assert (len(many.quiet().values), len(few.quiet().values)) == (8, 2)
    done = 0
    while done < 50:
        for consumer in (many, few):
            fresh = leases(consumer)[consumer.__dict__.setdefault("acked", 0) :]
            consumer.__dict__["acked"] += len(fresh)
            if fresh:
                done += ack(instance, shared, *fresh)["acked"]
            consumer.read(0.05)
    assert sorted([*many.values, *few.values]) == sorted(texts(50))
    assert len(few.values) >= 5


def test_leasing_and_plain_consumers_take_strict_turns(instance: Any, listen: Any, shared: str) -> None:
    leasing, plain = listen(instance, f"/c/{shared}?lease=60&prefetch=100"), listen(instance, f"/sse/{shared}")
    batch_add(instance, shared, *texts(20))
    leasing.until(have(10)), plain.until(have(10))
    assert "lease" not in plain.elements[0]
    leasing.close()
    plain.until(have(20))
    assert sorted(plain.values[10:]) == sorted(leasing.values)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_broadcast_queue_refuses_with_the_reason(instance: Any, listen: Any, queue: str, transport: str) -> None:
    answer = listen(instance, f"/{transport}/{queue}?lease=60").until_end()
    assert answer.status == 400
    assert b"broadcasts, and what everybody gets nobody can lease" in answer.body
    until(lambda: stats(instance, queue)["consumers"] == 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_broadcast_queue_among_several_refuses_all(instance: Any, listen: Any, shared: str, transport: str) -> None:
    assert listen(instance, f"/{transport}/{shared},{shared}.plain?lease=60").until_end().status == 400
    until(lambda: stats(instance, shared)["consumers"] == 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_queue_made_broadcast_closes_who_leases_and_counts_no_try(
    instance: Any, other: Any, listen: Any, shared: str, transport: str
) -> None:
    leasing = listen(instance, f"/{transport}/{shared}?lease=60&prefetch=2")
    add(instance, shared, "a", "b")
    leasing.until(have(2))
    assert other.form(f"/p/{shared}", "policy=broadcast")[0] == 200
    leasing.until_end()
    reason = "the queue broadcasts now, and what everybody gets nobody can lease"
    if transport == "sse":
        assert f": {reason}\n".encode() in leasing.body
    if transport == "ws":
        assert leasing.reason == reason
    assert reason in instance.log.read_text()
    until(lambda: stats(instance, shared)["len"] == 2)
    assert "errors" not in look(instance, shared, 1)
    assert listen(instance, f"/c/{shared}").until(have(2)).values == ["a", "b"]


def test_a_purge_makes_room_for_what_comes_after(instance: Any, listen: Any, shared: str) -> None:
    consumer = listen(instance, f"/c/{shared}?lease=60&prefetch=2")
    batch_add(instance, shared, *texts(5))
    consumer.until(have(2))
    assert instance.http("DELETE", f"/q/{shared}")[0] == 200
    batch_add(instance, shared, "new", "newer", "newest")
    assert consumer.until(have(4)).quiet().values[2:] == ["new", "newer"]


@pytest.mark.parametrize(
    "query",
    ["prefetch=2", "lease=0", "lease=25h", "lease=x", "lease=60&prefetch=0", "lease=60&prefetch=1001",
     "lease=60&prefetch=1.5", "lease=60&since=all", "lease=60&tap=1", "tap=1&since=all", "tap=2", "tap=yes"],
)  # fmt: skip
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_options_that_make_no_sense_are_refused(
    instance: Any, listen: Any, shared: str, transport: str, query: str
) -> None:
    assert listen(instance, f"/{transport}/{shared}?{query}").status == 400


def test_an_event_source_that_leases_comes_back_whatever_id_it_has(instance: Any, listen: Any, shared: str) -> None:
    again = listen(instance, f"/sse/{shared}?lease=60", headers="Last-Event-ID: 3@abc\r\n")
    assert again.status == 200
    assert again.until(lambda c: b"retry" in c.body).ids == []


# On the WebSocket


@pytest.fixture
def narrow(start: Any, queue: str) -> Any:
    """An instance that lets nobody but WebSocket consumers consume, with a queue that deals in turn."""
    conf = "[rest:consumer]\nhosts_deny = all\n[websocket:consumer]\nhosts_allow = all\n"
    one = start(conf + "[admin]\nhosts_allow = all\n")
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    return one


def test_who_leases_on_a_websocket_ends_and_prolongs_its_leases_with_websocket_consumer_alone(
    narrow: Any, listen: Any, queue: str
) -> None:
    ws: Socket = listen(narrow, f"/ws/{queue}?lease=60&prefetch=3")
    add(narrow, queue, *texts(3))
    first, second, third = ws.until(have(3)).elements
    longer = ws.ask(cmd="touch", queue=queue, key=first["key"], match=first["lease"], lease=90)
    assert longer["lease"] == first["lease"]
    assert ws.ask(cmd="del", queue=queue, key=first["key"], match=first["lease"])["deleted"] is True
    given = ws.ask(cmd="touch", queue=queue, key=second["key"], match=second["lease"], lease=0)
    assert given["lease"] is None
    again = ws.until(lambda c: c.values.count("v1") == 2).elements[-1]
    assert again["lease"].startswith("2.2@")
    late = ws.ask(cmd="del", queue=queue, key=second["key"], match=second["lease"])
    assert "lease" in late["error"]
    assert "status" not in late
    assert ws.ask(cmd="del", queue=queue, key=third["key"], match=third["lease"])["deleted"] is True


def test_other_commands_and_the_leases_of_others_need_rest_consumer(narrow: Any, listen: Any, queue: str) -> None:
    mine: Socket = listen(narrow, f"/ws/{queue}?lease=60")
    theirs: Socket = listen(narrow, f"/ws/{queue}?lease=60")
    add(narrow, queue, "a", "b")
    mine.until(have(1)), theirs.until(have(1))
    element = theirs.elements[0]
    for command in (
        {"cmd": "del", "key": element["key"], "match": element["lease"]},
        {"cmd": "touch", "key": element["key"], "match": element["lease"], "lease": 9},
        {"cmd": "del", "key": mine.elements[0]["key"]},
        {"cmd": "get"}, {"cmd": "take"},
    ):  # fmt: skip
        assert mine.ask(queue=queue, **command)["status"] == 403, command


def test_del_requires_match_where_elements_are_leased_and_nowhere_else(instance: Any, listen: Any, shared: str) -> None:
    leasing: Socket = listen(instance, f"/ws/{shared}?lease=60")
    add(instance, shared, "a")
    (element,) = leasing.until(have(1)).elements
    assert "'match' is missing" in leasing.ask(cmd="del", queue=shared, key=element["key"])["error"]
    assert look(instance, shared, 1)["state"] in ("leased", "live")
    plain: Socket = listen(instance, f"/ws/{shared}.other")
    assert plain.ask(cmd="del", queue=shared, key=element["key"])["deleted"] is True


def test_a_take_that_waits_is_answered_when_it_is_served_while_others_go_on(
    instance: Any, listen: Any, queue: str
) -> None:
    ws: Socket = listen(instance, f"/ws/{queue}.elsewhere")
    ws.send(cmd="take", queue=queue, wait=30)
    assert "needs an 'id'" in ws.until(lambda c: c.objects).objects[0]["error"]
    ws.send(cmd="take", queue=queue, wait=30, id="later")
    ws.send(cmd="take", queue=queue, wait="300ms", id="never")
    assert ws.ask(cmd="get", queue=queue)["error"] == "Null resultset"
    assert ws.until(lambda c: b'"never"' in c.body).objects[-1] == {"error": "empty queue", "id": "never"}
    add(instance, queue, "served")
    served = ws.until(lambda c: b'"later"' in c.body).objects[-1]
    assert served == {"queue": queue, "value": "served", "key": f"{queue}:1", "id": "later"}


@pytest.mark.parametrize("lease", [{}, {"lease": 60}])
def test_a_socket_that_closes_while_it_waits_loses_nothing(
    instance: Any, listen: Any, queue: str, lease: dict[str, int]
) -> None:
    ws: Socket = listen(instance, f"/ws/{queue}.elsewhere")
    for number in range(20):
        ws.send(cmd="take", queue=queue, wait=60, id=number, **lease)
    assert ws.ask(cmd="get", queue=queue)["error"] == "Null resultset"
    ws.close()
    add(instance, queue, *texts(20))
    found: list[str] = []
    for _ in range(20):
        status, _, body = instance.http("GET", f"/q/{queue}?wait=10")
        assert status == 200
        found.append(json.loads(body)["value"])
    assert sorted(found) == sorted(texts(20))


def test_a_socket_may_have_a_thousand_takes_that_wait_and_no_more(instance: Any, listen: Any, queue: str) -> None:
    ws: Socket = listen(instance, f"/ws/{queue}.elsewhere")
    for number in range(1001):
        ws.send(cmd="take", queue=queue, wait=60, id=number)
    refused = ws.until(lambda c: c.objects, 20).objects[0]
    assert refused["id"] == 1000
    assert "1000 takes wait on this connection" in refused["error"]
    batch_add(instance, queue, *texts(1000))
    ws.until(lambda c: c.body.count(b'"value"') == 1000)
    assert sorted(one["value"] for one in ws.objects[1:]) == sorted(texts(1000))
