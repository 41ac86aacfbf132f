"""Several instances on one Redis are one: what is told to one holds on all, and who dies or stalls leaves nothing."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.instance import Instance, Life, shared
from tests.support.listener import Listener, have, numbers
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer
from tests.support.requests import TEXT, add, batch_add, joined, roundrobin, stats, texts

LARGE = "x" * 50_000


@pytest.fixture(scope="module")
def third(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One more."""
    yield from shared(tmp_path_factory.mktemp("third"), redis_server)


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Any]:
    """A client of the Redis that the instances share."""
    client = redis_server.client()
    yield client
    client.close()


def on_the_way(instance: Instance, queue: str) -> list[int]:
    """The numbers of the elements that no instance has confirmed yet."""
    found = json.loads(instance.http("GET", f"/peek/{queue}?state=leased&max=1000")[2])
    return [int(one["key"].rpartition(":")[2]) for one in found["elements"]]


# What is told to one holds on all


def test_a_policy_holds_on_all_for_what_is_added_after_its_answer(
    instance: Instance, other: Instance, listen: Any, queue: str
) -> None:
    both = listen(instance, f"/c/{queue}"), listen(other, f"/c/{queue}")
    joined(instance, queue, 2)
    got = 0
    for turn, (told, added) in enumerate([(instance, other), (other, instance)] * 4):
        roundrobin(told, queue)
        shared_out = texts(10, 100 * turn)
        add(added, queue, *shared_out)
        assert told.form(f"/p/{queue}", "policy=broadcast")[0] == 200
        to_all = texts(5, 100 * turn + 50)
        add(added, queue, *to_all)
        new = [one.until(have(got + 10)).values[got:] for one in both]
        assert sorted(new[0][:5] + new[1][:5]) == shared_out  # five to each, and none to both
        assert [one[5:] for one in new] == [to_all, to_all]
        got += 10


def test_a_stop_of_live_holds_on_all_and_any_may_start_again(
    instance: Instance, other: Instance, third: Instance, listen: Any, queue: str
) -> None:
    both = listen(instance, f"/c/{queue}"), listen(other, f"/c/{queue}")
    joined(third, queue, 2)
    for turn, (stops, adds, starts) in enumerate([(instance, other, third), (third, instance, other)]):
        assert stops.form(f"/control/{queue}", "status=stop")[0] == 200
        add(adds, queue, *texts(3, 3 * turn))
        found = stats(starts, queue)
        assert (found["len"], found["leased"], found["status"]) == (3, 0, 0)
        assert [one.quiet(0.1).values for one in both] == [texts(3 * turn)] * 2
        assert starts.form(f"/control/{queue}", "status=start")[0] == 200
        assert [one.until(have(3 * turn + 3)).values for one in both] == [texts(3 * turn + 3)] * 2
        until(lambda: stats(instance, queue)["len"] == 0)


def test_a_stop_of_taking_holds_on_all_and_who_waits_gets_it_after_the_start(
    instance: Instance, other: Instance, third: Instance, queue: str
) -> None:
    assert instance.form(f"/control/{queue}", "status=stop&what=pull")[0] == 200
    add(other, queue, "a", "b")
    answer = other.http("GET", f"/q/{queue}")
    assert (answer[0], "retry-after" in answer[1]) == (503, True)
    assert third.http("GET", f"/q/{queue}?max=2&lease=30")[0] == 503
    assert stats(third, queue)["len"] == 2
    with socket.create_connection(("127.0.0.1", other.port), timeout=PATIENCE) as waits:
        waits.sendall(b"GET /q/%b?wait=30 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % queue.encode())
        until(lambda: stats(instance, queue)["waiters"] == 1, lambda: stats(instance, queue))
        assert third.form(f"/control/{queue}", "status=start&what=pull")[0] == 200
        assert b'"a"' in waits.recv(65536)
    assert instance.http("GET", f"/q/{queue}")[0] == 200


def test_a_stop_of_adding_holds_on_all_until_another_starts(
    instance: Instance, other: Instance, third: Instance, queue: str
) -> None:
    for stops, adds, starts in ((instance, other, third), (other, third, instance)):
        before = stats(third, queue)["len"]
        assert stops.form(f"/control/{queue}", "status=stop&what=add")[0] == 200
        answer = adds.http("POST", f"/q/{queue}", b"no", TEXT)
        assert (answer[0], "retry-after" in answer[1]) == (503, True)
        assert stats(starts, queue)["len"] == before
        assert starts.form(f"/control/{queue}", "status=start&what=add")[0] == 200
        add(adds, queue, "yes")
        assert stats(stops, queue)["len"] == before + 1


# One that does not read


def count(listener: Listener) -> int:
    """How many elements came; large ones are not parsed."""
    return listener.body.count(b'"key"')


def passed_over(reader: Listener, many: int = 20) -> bool:
    """Whether the last so many all went to this one, though there are two."""
    last = [int(number) for number in re.findall(rb'"key": "[^"]*:(\d+)"', reader.body)][-many:]
    return len(last) == many and last[-1] - last[0] == many - 1


def test_a_full_consumer_of_one_instance_is_passed_over_until_it_reads(
    instance: Instance, other: Instance, listen: Any, queue: str
) -> None:
    roundrobin(instance, queue)
    lazy, reader = listen(instance, f"/c/{queue}", buffer=4096), listen(other, f"/c/{queue}")
    joined(other, queue, 2)
    added = 0
    while not passed_over(reader):
        assert added < 2000
        batch_add(other, queue, *[LARGE] * 20)
        reader.quiet(0.05)
        added += 20
    lazy.hurry()
    while b"again" not in lazy.body:  # once it is known that it takes again
        assert added < 3000
        add(other, queue, "again")
        added += 1
        lazy.quiet(0.02)
        reader.quiet(0.02)

    def came(many: int) -> None:
        while count(lazy) + count(reader) < many:
            either = select.select([lazy.socket, reader.socket], [], [], 30)[0]
            assert either, "something is missing"
            for one in (lazy, reader):
                if one.socket in either:
                    one.read(1)

    came(added)
    before = count(lazy), count(reader)
    add(other, queue, *texts(10))
    came(added + 10)
    assert (count(lazy) - before[0], count(reader) - before[1]) == (5, 5)
    assert sorted(numbers(lazy) + numbers(reader)) == list(range(1, added + 11))


# One that dies, or stands still


@pytest.mark.parametrize("policy", ["roundrobin", "broadcast"])
def test_what_a_killed_instance_had_not_confirmed_goes_to_another_and_nothing_of_it_is_left(
    other: Instance, start: Any, store: Any, listen: Any, queue: str, policy: str
) -> None:
    life, beside = Life(store, start, "[live]\nmax_waiting = 64MiB\n"), f"{queue}-beside"
    assert other.form(f"/p/{queue}", f"policy={policy}")[0] == 200
    lazy = listen(life.instance, f"/c/{queue}", buffer=4096)
    joined(other, queue, 1)
    before = [0]
    while not before or on_the_way(other, queue) != before:  # what no socket takes any more
        batch_add(other, queue, *[LARGE] * 20)
        before = on_the_way(other, queue)
        time.sleep(0.1)
    batch_add(other, queue, *[LARGE] * 80)  # the kernel may still make room for a few
    listen(life.instance, f"/c/{beside}")
    listen(life.instance, f"/c/{beside}?tap=1")
    with socket.create_connection(("127.0.0.1", life.instance.port), timeout=PATIENCE) as waits:
        waits.sendall(b"GET /q/%b-w?wait=50 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % queue.encode())
        until(lambda: stats(other, f"{queue}-w")["waiters"] == 1)
        reader = listen(other, f"/c/{queue}")
        joined(other, queue, 2)
        joined(other, beside, 1)
        assert {"alive", "queues", "live", "taps"} <= {*life.traces(queue), *life.traces(beside)}
        assert life.traces(f"{queue}-w") == ["alive", "queues", "wt"]
        life.instance.process.kill()
        life.instance.process.wait()
        died, unconfirmed = time.monotonic(), set(on_the_way(other, queue))
        assert unconfirmed
        reader.until(lambda c: count(c) >= len(unconfirmed) and unconfirmed <= set(numbers(c)))
        took = time.monotonic() - died
    print(f"{len(unconfirmed)} were taken over after {took:.1f} s")
    for name, left in ((queue, 1), (beside, 0), (f"{queue}-w", 0)):
        joined(other, name, left)
        until(lambda name=name: life.traces(name) == [], lambda name=name: life.traces(name))
        assert stats(other, name)["waiters"] == 0
    until(lambda: stats(other, queue)["leased"] == 0, lambda: stats(other, queue))
    assert len(set(numbers(reader))) == count(reader)
    books = json.loads(other.http("GET", f"/ledger/{queue}")[2])
    assert (books["delivered"], books["imbalance"]) == (books["added"], 0)
    assert count(lazy) == 0


def test_an_instance_that_stood_still_longer_than_its_beat_gives_nothing_twice_and_goes_on(
    other: Instance, start: Any, store: Any, listen: Any, queue: str
) -> None:
    life, news = Life(store, start), f"{queue}-news"
    roundrobin(other, queue)
    still = [listen(life.instance, f"/c/{queue}") for _ in range(2)]
    reader = listen(other, f"/c/{queue}")
    hearers = listen(life.instance, f"/sse/{news}"), listen(other, f"/sse/{news}")
    joined(other, queue, 3)
    joined(other, news, 2)
    batch_add(other, queue, *texts(9))
    for one in (*still, reader):
        one.until(have(3))
    until(lambda: stats(other, queue)["leased"] == 0, lambda: stats(other, queue))
    life.instance.process.send_signal(signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        batch_add(other, queue, *texts(12, 9))  # eight of these go to the one that stands still
        mine = set(on_the_way(other, queue))
        add(other, news, *texts(3))
        reader.until(have(15))
        took = time.monotonic() - stopped
        add(other, news, *texts(3, 3))
        time.sleep(max(0.0, 6 - took))
    finally:
        life.instance.process.send_signal(signal.SIGCONT)
    print(f"{len(mine)} were taken over after {took:.1f} s")
    assert mine
    joined(other, queue, 3)
    joined(other, news, 2)
    for name in (queue, news):
        until(lambda name=name: life.traces(name) == [], lambda name=name: life.traces(name))
    batch_add(other, queue, *texts(9, 21))
    add(other, news, *texts(3, 6))
    for one, many in ((still[0], 6), (still[1], 6), (reader, 18)):
        one.until(have(many))
    batch_add(other, queue, *texts(3, 30))  # comes after all that might have come twice
    came = [numbers(one.until(have(many))) for one, many in ((still[0], 7), (still[1], 7), (reader, 19))]
    assert sorted(number for numbers in came for number in numbers) == list(range(1, 34))
    assert [one.until(have(9)).values for one in hearers] == [texts(9)] * 2
    assert hearers[0].ids == hearers[1].ids


def test_who_stands_still_holds_up_nobody_however_much_is_broadcast_meanwhile(
    other: Instance, start: Any, store: Any, listen: Any, queue: str
) -> None:
    """What it joined before and has not heard is unsure until it is given up: thousands, here."""
    life = Life(store, start)
    still = listen(life.instance, f"/sse/{queue}")
    joined(other, queue, 1)
    life.instance.process.send_signal(signal.SIGSTOP)
    try:
        add(other, queue, "first")  # who comes after this can't say that all of it was heard
        reader = listen(other, f"/sse/{queue}")
        joined(other, queue, 2)
        began = time.monotonic()
        for at in range(0, 12_000, 1000):
            batch_add(other, queue, *texts(1000, at))
        print(f"added in {time.monotonic() - began:.1f} s")
        reader.until(have(12_001))
        until(lambda: stats(other, queue)["leased"] == 0, lambda: stats(other, queue))
    finally:
        life.instance.process.send_signal(signal.SIGCONT)
    joined(other, queue, 2)
    add(other, queue, "last")
    still.until(lambda c: "last" in c.values)
    reader.until(lambda c: "last" in c.values)
    assert sorted(reader.values) == sorted(["first", *texts(12_000), "last"])
    assert len(set(still.ids)) == len(still.ids)
    books = json.loads(other.http("GET", f"/ledger/{queue}")[2])
    assert (books["delivered"], books["imbalance"]) == (12_002, 0)
