"""The pace of live consumers: one that reads slowly and steadily is never dropped, and loses nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from restmq.delivery.pace import Pace
from tests.support.instance import Instance
from tests.support.listener import Listener
from tests.support.memory import memory
from tests.support.patience import until
from tests.support.requests import add, batch_add, stats

DEEP = "[queues]\nhistory = 10000\nhistory_bytes = 256MiB\n"


def fill(instance: Instance, queue: str, count: int, size: int) -> None:
    """Add so many elements of that size; each begins with its number."""
    values = [f"{number}-".ljust(size, "x") for number in range(1, count + 1)]
    many = max(1, (4 << 20) // size)
    for at in range(0, count, many):
        batch_add(instance, queue, *values[at : at + many])


def numbers(values: list[str]) -> list[int]:
    """The number that each value begins with."""
    return [int(value.partition("-")[0]) for value in values]


SMALL = 65536  # bytes of a receive buffer: of some megabytes most must wait at the server


def slowly(one: Listener, count: int) -> Listener:
    """Read until so many elements have come, steadily: a piece of 256 kB at a time, with a pause between two."""
    one.socket.settimeout(60)
    came = 0
    while one.body.count(b'"key"') < count or not one.body.endswith(b"\n"):
        data = one.socket.recv(1 << 16)
        assert data, f"it was ended after {one.body.count(b'key')} elements"
        one.take(data)
        came += len(data)
        if came > 1 << 18:
            came = 0
            time.sleep(0.01)
    return one


# One consumer alone sets the pace


def test_curl_at_a_limited_rate_reads_a_whole_backlog(instance: Instance, queue: str, tmp_path: Any) -> None:
    fill(instance, queue, 200, 100_000)
    url = f"http://127.0.0.1:{instance.port}/c/{queue}"
    with open(tmp_path / "got", "wb") as out:
        curl = subprocess.Popen(["curl", "-sN", "--limit-rate", "8M", url], stdout=out)
    try:
        until(lambda: (tmp_path / "got").read_bytes().count(b"\r\n") >= 200, seconds=100, step=0.2)
        until(lambda: stats(instance, queue)["delivered"] == 200)
        assert curl.poll() is None
    finally:
        curl.kill()
        curl.wait()
    got = [json.loads(line)["value"] for line in (tmp_path / "got").read_bytes().splitlines() if line]
    assert numbers(got) == list(range(1, 201))
    assert stats(instance, queue)["len"] == 0


@pytest.mark.parametrize("target", ["/c/{}", "/sse/{}", "/ws/{}", "/c/{}?since=all"])
def test_a_steady_reader_of_a_small_buffer_gets_everything_once(
    instance: Instance, listen: Any, queue: str, target: str
) -> None:
    fill(instance, queue, 120, 100_000)
    slow = slowly(listen(instance, target.format(queue), buffer=SMALL), 120)
    assert numbers(slow.values) == list(range(1, 121))
    until(lambda: stats(instance, queue)["delivered"] == 120)


def test_a_resume_of_thousands_of_elements_is_read_to_the_end(start: Any, listen: Any, queue: str) -> None:
    one = start(DEEP)
    first = listen(one, f"/sse/{queue}")
    fill(one, queue, 5000, 1500)
    first.until(lambda c: c.body.count(b'"key"') >= 5000, 60)
    begins = first.ids[0]
    again = listen(one, f"/sse/{queue}", headers=f"Last-Event-ID: {begins}\r\n", buffer=SMALL)
    assert numbers(slowly(again, 5000).values) == list(range(1, 5001))
    assert again.told == []


def test_a_page_of_history_is_no_longer_than_what_may_wait_though_values_grow_on_the_wire(
    start: Any, listen: Any, queue: str
) -> None:
    one = start(DEEP)
    first = listen(one, f"/c/{queue}")
    for number in range(1, 25):  # 2.4 MB, and 14 MB on the wire
        add(one, queue, f"{number}-".ljust(100_000, "\1"))
    first.until(lambda c: c.body.count(b'"key"') >= 24, 60)
    before = memory(one.process.pid, "VmRSS")
    slow = [listen(one, f"/c/{queue}?since=all", buffer=4096) for _ in range(30)]
    until(lambda: b"restmq_live_behind 30" in one.http("GET", "/metrics")[2])
    time.sleep(1)  # each has a page by then, or gets it later: the bound holds at any time
    if sys.implementation.name == "cpython":  # PyPy gives memory back later
        assert memory(one.process.pid, "VmRSS") - before < 30 * (2500 << 10), "bytes for 30 that read nothing"
    assert numbers(slowly(slow[0].hurry(), 24).values) == list(range(1, 25))


def test_round_robin_never_has_more_on_its_way_than_a_few_large_elements(
    instance: Instance, listen: Any, queue: str
) -> None:
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    slow = listen(instance, f"/c/{queue}", buffer=SMALL)
    for at in range(60):
        add(instance, queue, f"{at + 1}-".ljust(200_000, "x"))
    until(lambda: stats(instance, queue)["leased"] > 0)
    held = stats(instance, queue)
    assert held["leased"] <= 16, held  # of 64 small ones that might be; the first came before their size was known
    slowly(slow, 60)
    assert sorted(numbers(slow.values)) == list(range(1, 61))


# One that falls behind the others goes on from history


def test_one_that_falls_behind_goes_on_from_history_and_hears_live_again(start: Any, listen: Any, queue: str) -> None:
    one = start(DEEP)
    fast, slow = listen(one, f"/c/{queue}"), listen(one, f"/c/{queue}", buffer=4096)
    fill(one, queue, 150, 100_000)
    fast.until(lambda c: c.body.count(b'"key"') >= 150, 60)
    assert stats(one, queue)["delivered"] == 150  # it holds nobody up
    until(lambda: "reads comet of" in one.log.read_text())
    slowly(slow.hurry(), 150)
    assert numbers(slow.values) == list(range(1, 151))
    add(one, queue, "151-live")
    slow.until(lambda c: "151-live" in c.values, 60)
    assert slow.told == []
    assert "dropped" not in one.log.read_text()


@pytest.mark.parametrize(
    ("target", "words"), [("/c/{}", {}), ("/c/{}", {"version": "1.0"}), ("/sse/{}", {}), ("/ws/{}", {})]
)
@pytest.mark.parametrize(
    "settings", ["[queues]\nhistory = 20\n", "[queues]\nhistory = 0\n", "[live]\nmax_waiting = 64KiB\n"]
)
def test_what_history_no_longer_holds_is_told_to_one_that_fell_behind(
    start: Any, listen: Any, queue: str, target: str, words: dict[str, str], settings: str
) -> None:
    one = start(settings)
    fast, slow = listen(one, f"/c/{queue}"), listen(one, target.format(queue), buffer=4096, **words)
    for number in range(1, 61):
        add(one, queue, f"{number}-".ljust(100_000, "x"))
        fast.until(lambda c, number=number: c.body.count(b'"key"') >= number, 60)
    slow.hurry().until(lambda c: c.knows(60), 60)
    got, gaps = numbers(slow.values), [each["gap"] for each in slow.told]
    assert gaps
    missed = {number for low, high in gaps for number in range(low, high + 1)}
    assert sorted([*got, *missed]) == list(range(1, 61))  # each came, or was told as missed, once
    assert got == sorted(got)
    add(one, queue, "61-live")
    slow.until(lambda c: "61-live" in c.values, 60)


@pytest.mark.parametrize("target", ["/c/{}", "/sse/{}", "/ws/{}"])
def test_one_that_is_behind_when_the_queue_is_forgotten_is_told_of_another_life(
    start: Any, listen: Any, queue: str, target: str
) -> None:
    one = start(DEEP)
    fast, slow = listen(one, f"/c/{queue}"), listen(one, target.format(queue), buffer=4096)
    fill(one, queue, 60, 100_000)
    fast.until(lambda c: c.body.count(b'"key"') >= 60, 60)
    until(lambda: "reads " in one.log.read_text())
    assert one.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    add(one, queue, "1-anew")
    slow.hurry().until(lambda c: "1-anew" in c.values, 60)
    got = numbers(slow.values)
    assert len(got) < 61
    assert [sorted(told) for told in slow.told] == [["epoch", "queue"]]
    assert fast.until(lambda c: "1-anew" in c.values, 60).told == []


@pytest.mark.rare
def test_one_connection_behind_on_many_queues_reads_a_page_at_a_time(start: Any, listen: Any, queue: str) -> None:
    one = start(DEEP)
    names = [f"{queue}.{number}" for number in range(8)]
    slow = listen(one, f"/c/{','.join(names)}", buffer=4096)
    others = [listen(one, f"/c/{name}") for name in names]
    for name in names:
        fill(one, name, 60, 100_000)
    for each in others:
        each.until(lambda c: c.body.count(b'"key"') >= 60, 60)
    most = 400_000 if sys.implementation.name == "pypy" else 250_000  # PyPy takes twice as much for itself
    found = memory(one.process.pid, "VmRSS") >> 10
    assert found < most, f"{found} kB for 48 MB of which one consumer reads nothing"
    slow.hurry().until(lambda c: c.body.count(b'"key"') >= 480, 90)
    for name in names:
        got = [each["value"] for each in slow.elements if each["key"].startswith(f"{name}:")]
        assert numbers(got) == list(range(1, 61))


@pytest.mark.parametrize("apart", [False, True])
def test_who_comes_later_does_not_wait_for_a_slow_one(
    instance: Instance, other: Instance, listen: Any, queue: str, apart: bool
) -> None:
    slow = listen(instance, f"/c/{queue}", buffer=4096)
    fill(instance, queue, 120, 100_000)  # more than may be on its way
    until(lambda: stats(instance, queue)["leased"] > 30)
    assert stats(instance, queue)["len"] > 0
    fast = listen(other if apart else instance, f"/c/{queue}")
    fast.until(lambda c: c.knows(120))
    got = numbers(fast.values)
    assert got == list(range(got[0], 121))  # the rest, from the moment when it came
    slow.hurry().until(lambda c: c.knows(120))  # history may no longer hold all that it missed
    missed = {number for each in slow.told for number in range(each["gap"][0], each["gap"][1] + 1)}
    assert sorted([*numbers(slow.values), *missed]) == list(range(1, 121))
    until(lambda: stats(instance, queue)["delivered"] == 120)


# The end of a stream


def ended(slow: Listener) -> Listener:
    """Read to the end; a reset, which throws away what was on its way, must not come."""
    slow.hurry().until_end(60)
    assert not slow.cut
    slow.body += slow.rest
    return slow


def test_what_counts_as_delivered_to_one_that_is_dropped_for_a_stall_can_still_be_read(
    start: Any, listen: Any, queue: str
) -> None:
    one = start("[live]\nstall = 2s\nheartbeat = 500ms\n")
    slow = listen(one, f"/c/{queue}", buffer=4096)
    fill(one, queue, 100, 50_000)
    until(lambda: "does not read: dropped" in one.log.read_text())
    until(lambda: stats(one, queue)["consumers"] == 0)
    found = stats(one, queue)
    assert found["delivered"] and found["len"] + found["delivered"] == 100
    got = numbers(ended(slow).values)
    assert got == list(range(1, found["delivered"] + 1))


@pytest.mark.parametrize("kind", ["c", "sse", "ws"])
def test_round_robin_elements_that_a_stuck_consumer_got_go_to_nobody_else(
    start: Any, listen: Any, queue: str, kind: str
) -> None:
    one = start("[live]\nstall = 2s\nheartbeat = 500ms\n")
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    slow = listen(one, f"/{kind}/{queue}", buffer=4096)
    fill(one, queue, 64, 8000)  # dealt in one piece, of which the kernel takes a part
    until(lambda: "does not read: dropped" in one.log.read_text())
    until(lambda: stats(one, queue)["consumers"] == 0)
    delivered = stats(one, queue)["delivered"]
    mine = numbers(ended(slow).values)
    assert mine == list(range(1, delivered + 1))
    assert 0 < delivered < 64
    fast = listen(one, f"/c/{queue}").until(lambda c: c.body.count(b'"key"') >= 64 - delivered)
    assert sorted(mine + numbers(fast.quiet().values)) == list(range(1, 65))


def test_what_counts_as_delivered_when_an_instance_ends_can_still_be_read(start: Any, listen: Any, queue: str) -> None:
    one, two = start(), start()
    slow = [listen(one, f"/{kind}/{queue}.{kind}", buffer=4096) for kind in ("c", "sse", "ws")]
    for kind in ("c", "sse", "ws"):
        fill(one, f"{queue}.{kind}", 60, 50_000)
        until(lambda kind=kind: stats(one, f"{queue}.{kind}")["leased"] > 0)
    one.process.terminate()
    for kind, each in zip(("c", "sse", "ws"), slow):
        until(lambda kind=kind: stats(two, f"{queue}.{kind}")["consumers"] == 0)
        found = stats(two, f"{queue}.{kind}")
        assert found["len"] + found["delivered"] == 60
        assert numbers(ended(each).values) == list(range(1, found["delivered"] + 1))
    one.process.wait(60)


def test_a_websocket_that_still_answers_pings_when_its_instance_has_ended_reads_all(
    start: Any, listen: Any, queue: str
) -> None:
    """What it sends to a process that is gone must not make the kernel throw away what counts as delivered."""
    one, two = start("[server]\ndrain = 1s\n[live]\nheartbeat = 500ms\n"), start()
    slow = listen(one, f"/ws/{queue}", buffer=4096)
    pings = 0
    for number in range(1, 61):  # pings stand between them
        add(one, queue, f"{number}-".ljust(4000, "x"))
        time.sleep(0.03)
    one.process.terminate()
    one.process.wait(60)
    until(lambda: stats(two, queue)["consumers"] == 0)
    slow.socket.settimeout(60)
    while data := slow.socket.recv(4096):  # in small pieces: most of it is still at the other end
        pings += data.count(b"\x89\x00")
        slow.take(data)
    assert pings
    assert numbers(slow.values) == list(range(1, stats(two, queue)["delivered"] + 1))


def test_a_second_signal_throws_nothing_away_that_counts_as_delivered(start: Any, listen: Any, queue: str) -> None:
    one, two = start("[server]\ngrace = 60s\ndrain = 60s\n"), start()
    slow = listen(one, f"/c/{queue}", buffer=4096)
    fill(one, queue, 60, 50_000)
    until(lambda: stats(one, queue)["leased"] > 0)
    with socket.create_connection(("127.0.0.1", one.port)):  # an idle connection, for which it would wait
        one.process.terminate()
        until(lambda: "ending" in one.log.read_text())
        one.process.terminate()
        one.process.wait(60)
    until(lambda: stats(two, queue)["consumers"] == 0)
    assert numbers(ended(slow).values) == list(range(1, stats(two, queue)["delivered"] + 1))


def test_what_the_kernel_holds_unsent_is_bounded(start: Any, queue: str) -> None:
    one = start("[live]\nmax_waiting = 64MiB\n")
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", one.port))
        link.sendall(f"GET /c/{queue} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        fill(one, queue, 60, 100_000)
        until(lambda: stats(one, queue)["leased"] > 0)
        time.sleep(0.5)
        # 128 KiB unsent, the piece that passes it, and what a receiver of 4 kB takes in.
        assert stats(one, queue)["delivered"] * 100_000 <= 600_000


@pytest.mark.parametrize("target", ["/c/{}", "/sse/{}", "/ws/{}"])
def test_one_that_reads_some_kilobytes_a_second_is_not_dropped(
    start: Any, listen: Any, queue: str, target: str
) -> None:
    """The server's kernel takes some 100 kB at a time, which such a reader needs longer for than `stall`."""
    one = start("[live]\nstall = 2s\nheartbeat = 500ms\n")
    slow = listen(one, target.format(queue), buffer=4096)
    fill(one, queue, 40, 50_000)
    until(lambda: stats(one, queue)["leased"] > 0)
    slow.socket.settimeout(60)
    came = b""
    for _ in range(120):  # 12 s, 20 kB/s
        data = slow.socket.recv(2048)
        assert data, one.log.read_text()
        came += data
        time.sleep(0.1)
    assert "left" not in one.log.read_text()
    slow.take(came)
    assert numbers(slowly(slow.hurry(), 40).values) == list(range(1, 41))


@pytest.mark.parametrize("target", ["/c/{}", "/ws/{}"])
def test_what_the_kernel_holds_can_be_read_after_a_long_pause(start: Any, listen: Any, queue: str, target: str) -> None:
    """Nothing waits at RestMQ; the peer's window is shut for twice `stall`. A WebSocket answers pings as it reads."""
    one = start("[live]\nstall = 5s\nheartbeat = 1s\n")
    slow = listen(one, target.format(queue), buffer=4096)
    fill(one, queue, 60, 1000)
    until(lambda: stats(one, queue)["delivered"] == 60)
    until(lambda: stats(one, queue)["consumers"] == 0)  # it took nothing for so long
    time.sleep(0.0 if target.startswith("/ws") else 7)  # by then RestMQ has closed the socket
    assert numbers(ended(slow).values) == list(range(1, 61))


# Turns


def test_turns_come_in_order_one_at_a_time_and_only_while_there_is_room() -> None:
    pace, went = Pace(), []

    def wait(name: str) -> None:
        pace.turn().then(lambda value, error: went.append(name))

    for name in "abc":
        wait(name)
    assert went == ["a"]
    pace.full(True)
    pace.done()
    assert went == ["a"]
    pace.full(False)
    assert went == ["a", "b"]
    pace.end()
    assert went == ["a", "b", "c"]


def test_many_turns_that_are_done_at_once_need_no_deep_stack() -> None:
    pace, went = Pace(), []

    def done(value: object, error: object) -> None:
        went.append(1)
        pace.done()

    pace.full(True)
    for _ in range(5000):
        pace.turn().then(done)
    pace.full(False)
    assert len(went) == 5000
