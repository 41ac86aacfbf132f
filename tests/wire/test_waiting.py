"""Waiting without polling, and what is due at its time: real instances, a real Redis."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from restmq.delivery.waiters import Waiters
from restmq.runtime.future import Slot
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer
from tests.support.requests import BATCH, stats
from tests.support.websocket import Talker

WAITS, EACH = 10_000, 1_000  # takes, and how many on one connection


def ask(queue: str, query: str) -> bytes:
    """A GET, for a connection of its own or one after others."""
    return f"GET /q/{queue}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def answers(link: socket.socket, many: int) -> bytes:
    """What comes until so many answers are there."""
    link.settimeout(PATIENCE)
    got = b""
    while len(re.findall(rb"HTTP/1\.1 \d\d\d ", got)) < many or not got.endswith((b"}\r\n", b"\r\n\r\n")):
        data = link.recv(1 << 20)
        assert data, got[-300:]
        got += data
    return got


def commands(server: RedisServer, beats: int) -> int:
    """How many commands Redis executes in so many beats of the one instance there is."""
    with server.client() as client:

        def now() -> tuple[int, int]:  # beats, and commands but for this question's own
            stats = client.info("commandstats")
            mine = ("cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello")
            return stats["cmdstat_set"]["calls"], sum(told["calls"] for name, told in stats.items() if name not in mine)

        def between(beat: int) -> tuple[int, int]:  # halfway to the next one, so that none is cut in two
            until(lambda: now()[0] >= beat)
            time.sleep(0.4)
            return now()

        first, before = between(now()[0] + 1)
        last, after = between(first + beats)
        return (after - before) * beats // (last - first)


def test_ten_thousand_that_wait_cost_no_command_and_are_served_in_their_order(start: Any, tmp_path: Any) -> None:
    (tmp_path / "own").mkdir()
    server = RedisServer(tmp_path / "own")
    links: list[Talker] = []
    try:
        instance = start("", server.address)
        for _ in range(WAITS // EACH):  # over HTTP it is one a connection, and so many files
            links.append(Talker(instance.port, "/ws/elsewhere"))
        idle = commands(server, 4)
        for link in links:
            for number in range(EACH):
                link.send(json.dumps({"cmd": "take", "queue": "waited", "wait": 60, "id": number}))
        until(lambda: stats(instance, "waited")["waiters"] == WAITS)
        waiting = commands(server, 4)
        print(f"in four beats: {idle} commands with nobody, {waiting} with {WAITS} that wait")
        assert waiting <= idle + 100  # what happens once a second may happen more often: not for each that waits
        lines = "\n".join(f"v{number}" for number in range(WAITS // 2))
        assert instance.http("POST", "/q/waited", lines, BATCH)[0] == 200
        assert instance.http("POST", "/q/waited", lines, BATCH)[0] == 200
        numbers = []
        for link in links:
            answers = [json.loads(link.recv()) for _ in range(EACH)]
            served = [int(answer["key"].rpartition(":")[2]) for answer in answers]
            assert [answer["id"] for answer in answers] == list(range(EACH)), "who asked first is served first"
            assert served == sorted(served)
            numbers += served
        assert sorted(numbers) == list(range(1, WAITS + 1))
        after = stats(instance, "waited")
        assert (after["taken"], after["len"], after["waiters"]) == (WAITS, 0, 0)
    finally:
        for link in links:
            link.close()
        server.stop()


class Asks:
    """Stands for the core and the inbox: what is asked waits until the test answers it."""

    def __init__(self) -> None:
        self.presence, self.link_ups = SimpleNamespace(instance=b"i"), 0
        self.asked: list[tuple[int, bool, Slot[Any]]] = []  # for how many, whether it stands in line then, the answer

    def take_many(self, queue: bytes, most: int, waiter: Any) -> Slot[Any]:
        self.asked.append((most, waiter is not None, Slot()))
        return self.asked[-1][2]

    def open(self, queue: bytes, owner: object, kinds: bytes) -> Slot[Any]:
        self.opened: Slot[Any] = Slot()
        return self.opened


def test_nobody_who_comes_when_the_wake_ups_are_heard_overtakes_who_came_a_moment_before() -> None:
    asks: Any = Asks()
    waiting = Waiters(asks, asks, Clock())
    waiting.enter(b"q", 1, 60)
    asks.asked[0][2].resolve([])
    waiting.enter(b"q", 2, 60)  # looks whether there is a need to wait
    asks.opened.resolve(None)
    waiting.enter(b"q", 3, 60)
    answered = 1
    while answered < len(asks.asked):  # Redis answers in its order; who stands in line gets no answer yet
        _, stands, slot = asks.asked[answered]
        answered += 1
        if not stands:
            slot.resolve([])
    assert [most for most, stands, _ in asks.asked if stands] == [1, 2, 3]


def test_who_waits_is_woken_over_instances_in_the_order_of_arrival(instance: Any, other: Any, queue: str) -> None:
    one, two = instance, other
    links = []
    for number, instance in enumerate((one, two, one, two)):
        link = socket.create_connection(("127.0.0.1", instance.port))
        link.sendall(ask(queue, "wait=30"))
        links.append(link)
        until(lambda number=number: stats(one, queue)["waiters"] == number + 1)
    for number in range(4):
        one.form(f"/q/{queue}", f"value={number}")
        found = answers(links[number], 1)
        assert f'"value": "{number}"'.encode() in found
    for link in links:
        link.close()


@pytest.mark.parametrize("query", ["wait=30", "wait=30&lease=60", "wait=30&max=5"])
def test_a_client_that_leaves_while_it_waits_loses_nothing(instance: Any, other: Any, queue: str, query: str) -> None:
    one, two = instance, other
    gone = socket.create_connection(("127.0.0.1", one.port))
    gone.sendall(ask(queue, query))
    until(lambda: stats(two, queue)["waiters"] == 1)
    gone.close()
    until(lambda: stats(two, queue)["waiters"] == 0)
    two.form(f"/q/{queue}", "value=kept")
    assert stats(two, queue)["len"] == 1
    assert b'"kept"' in two.http("GET", f"/q/{queue}")[2]


def test_clients_that_come_and_leave_at_random_lose_nothing_and_strand_nobody(
    instance: Any, other: Any, queue: str
) -> None:
    instances = [instance, other]
    got: list[bytes] = []
    left: list[int] = []
    cut = threading.Event()

    def client(number: int) -> None:
        turn = number
        while not cut.is_set():
            turn += 1
            with socket.create_connection(("127.0.0.1", instances[turn % 2].port)) as link:
                link.sendall(ask(queue, "wait=1"))
                link.settimeout(0.01 * (1 + turn * 7 % 11) if turn % 3 == 0 else PATIENCE)
                try:
                    got.append(link.recv(4096))
                except socket.timeout:
                    left.append(turn)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    for number in range(300):
        instances[number % 2].form(f"/q/{queue}", f"value={number}")
        time.sleep(0.005)
    until(lambda: stats(instances[0], queue)["len"] == 0)
    cut.set()
    for thread in threads:
        thread.join(PATIENCE)
    seen = [int(n) for one in got for n in re.findall(rb":(\d+)\", \"value", one)]
    books = json.loads(instances[0].http("GET", f"/ledger/{queue}")[2])
    assert len(seen) == len(set(seen))
    assert (books["added"], books["imbalance"], books["waiting"]) == (300, 0, 0)
    assert books["taken"] == 300
    # What was on its way to one who left in that moment is gone, and counted as taken; all others arrived.
    assert 300 - len(left) <= len(seen)


def test_an_instance_that_ends_answers_who_waits(start: Any, queue: str) -> None:
    instance = start()
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.sendall(ask(queue, "wait=50"))
        until(lambda: stats(instance, queue)["waiters"] == 1)
        instance.process.terminate()
        assert answers(link, 1).startswith(b"HTTP/1.1 204 ")
    instance.process.wait(PATIENCE)


def test_redis_comes_back_and_who_waited_waits_on(own: RedisServer, start: Any) -> None:
    instance = start("", own.address)
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.sendall(ask("through", "wait=50"))
        until(lambda: stats(instance, "through")["waiters"] == 1)
        own.stop()
        until(lambda: instance.http("GET", "/readyz")[0] == 503)
        own.start()
        until(lambda: instance.http("GET", "/readyz")[0] == 200)
        until(lambda: instance.form("/q/through", "value=late")[0] == 200)
        assert b'"late"' in answers(link, 1)


def sweeps(server: RedisServer, queue: str, timers: str) -> int:
    """How many functions run from the last of a queue's timers until it has none."""
    key = f"restmq:{{{queue}}}:{timers}"
    with server.client() as client:

        def calls() -> int:
            return int(client.info("commandstats")["cmdstat_fcall"]["calls"])

        def since() -> float:  # a look at the queue would end what is due
            seconds, micros = client.time()
            return float(seconds * 1000 + micros / 1000 - end)

        end = client.zrange(key, -1, -1, withscores=True)[0][1]
        until(lambda: since() >= 0, step=0.002)
        before, at = calls(), time.monotonic()
        until(lambda: client.zcard(key) == 0, step=0.002)
        beats = 4 * int(time.monotonic() - at + 1)  # of every instance there is, functions for what is due too
        return calls() - before - beats * len(client.zrange("restmq:{inst}:alive", 0, -1))


#: Each ends some hundreds. The batch is stored by 20 calls, and on a busy machine each of these has a time of its own.
ENOUGH = 10_000 // 250 + 20


def test_ten_thousand_delays_that_end_together_end_in_a_few_steps(own: RedisServer, start: Any, queue: str) -> None:
    instance = start("", own.address)  # where nothing else is due
    lines = "\n".join(f"v{number}" for number in range(10_000))
    assert instance.http("POST", f"/q/{queue}?delay=2s", lines, BATCH)[0] == 200
    assert sweeps(own, queue, "d") <= ENOUGH
    assert stats(instance, queue)["len"] == 10_000


def test_ten_thousand_leases_that_end_together_end_in_a_few_steps(own: RedisServer, start: Any, queue: str) -> None:
    instance = start("", own.address)  # where nothing else is due
    lines = "\n".join(f"v{number}" for number in range(10_000))
    assert instance.http("POST", f"/q/{queue}", lines, BATCH)[0] == 200
    for _ in range(10):
        assert instance.http("GET", f"/q/{queue}?lease=3s&max=1000")[0] == 200
    assert sweeps(own, queue, "l") <= ENOUGH
    assert stats(instance, queue)["len"] == 10_000


@pytest.mark.parametrize("what", ["delay", "lease"])
def test_what_is_due_when_its_instance_is_dead_is_ended_by_another(
    start: Any, instance: Any, queue: str, what: str
) -> None:
    one, two = start(), instance
    if what == "delay":
        assert one.form(f"/q/{queue}?delay=2s", "value=later")[0] == 200
    else:
        one.form(f"/q/{queue}", "value=later")
        assert one.http("GET", f"/q/{queue}?lease=2s")[0] == 200
    one.process.kill()
    one.process.wait()
    until(lambda: stats(two, queue)["len"] == 1)
    assert b'"later"' in two.http("GET", f"/q/{queue}")[2]


def test_a_claim_of_an_instance_that_died_before_it_swept_ends(
    start: Any, instance: Any, redis_server: RedisServer, queue: str
) -> None:
    one, two = start(), instance
    assert one.form(f"/q/{queue}?delay=2s", "value=later")[0] == 200
    one.process.kill()
    one.process.wait()
    with redis_server.client() as client:  # as the function due claims it
        due = client.zscore("restmq:{due}:at", queue)
        assert client.zrem("restmq:{due}:at", queue) == 1
        client.zadd("restmq:{due}:claimed", {queue: due + 2000})
        until(lambda: client.zcard(f"restmq:{{{queue}}}:d") == 0)
    assert b'"later"' in two.http("GET", f"/q/{queue}")[2]


def test_the_timers_of_a_queue_cost_one_sweep_however_many_they_are(start: Any, tmp_path: Any) -> None:
    (tmp_path / "own").mkdir()
    server = RedisServer(tmp_path / "own")
    try:
        instance = start("", server.address)
        idle = commands(server, 9)
        for number in range(200):
            instance.form("/q/timed", f"value={number}")
        words = []
        for _ in range(200):
            words.append(json.loads(instance.http("GET", "/q/timed?lease=8s")[2])["lease"])
        done = json.loads(instance.http("POST", "/q/timed/ack", json.dumps({"ack": words}))[2])
        assert done["acked"] == 200
        spent = commands(server, 9)  # in it all of these leases would have ended
        assert spent < idle + 100, spent  # an idle instance's beats, and a few sweeps: half of one for each
    finally:
        server.stop()


def test_what_is_brought_back_still_has_its_ttl(start: Any, queue: str) -> None:
    one = start()
    for _ in range(8):  # some of them leave in the moment between the take and its answer
        gone = socket.create_connection(("127.0.0.1", one.port))
        gone.sendall(ask(queue, "wait=30"))
        until(lambda: stats(one, queue)["waiters"] == 1)
        one.form(f"/q/{queue}?ttl=300ms", "value=short")
        gone.close()
        until(lambda: [stats(one, queue)[word] for word in ("waiters", "len")] == [0, 0])
    books = json.loads(one.http("GET", f"/ledger/{queue}")[2])
    assert (books["added"], books["taken"] + books["expired"], books["imbalance"]) == (8, 8, 0)
