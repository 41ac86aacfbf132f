"""Answers that clients do not read: what is not begun is not taken, and all of them have a bound together."""

from __future__ import annotations

import json
import re
import socket
import sys
from typing import Any

from tests.support.bodies import head
from tests.support.memory import memory
from tests.support.patience import until
from tests.support.requests import TEXT, scrape, stats

MIB = 1 << 20


def filled(instance: Any, queue: str, many: int) -> None:
    """So many elements of a MiB."""
    for _ in range(many):
        assert instance.http("POST", f"/q/{queue}", "x" * MIB, TEXT)[0] == 200


def asking(port: int, data: bytes) -> socket.socket:
    """A client with a small buffer, that does not read."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", port))
    link.settimeout(60)
    link.sendall(data)
    return link


def settled(instance: Any, queue: str) -> int:
    """How many were taken, when that changes no more."""
    seen: list[int] = []

    def same() -> bool:
        seen.append(stats(instance, queue)["taken"])
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    until(same)
    return seen[-1]


def test_what_is_asked_ahead_is_not_taken_while_nobody_reads(start: Any, queue: str) -> None:
    one = start()
    filled(one, queue, 128)
    before = memory(one.process.pid, "VmRSS")
    with asking(one.port, head("GET", f"/q/{queue}") * 128) as link:
        until(lambda: stats(one, queue)["taken"] > 0)
        taken = settled(one, queue)
        assert taken <= 32
        if sys.implementation.name == "cpython":  # PyPy gives memory back later
            assert memory(one.process.pid, "VmRSS") - before < 4 * (taken + 1) * MIB
        data = 0
        found: list[bytes] = []
        while len(found) < 128:  # who reads on gets all, in their order
            more = link.recv(1 << 20)
            assert more
            data += len(more)
            found += re.findall(rb'"key": "[^"]+:(\d+)"', more)
            if data >= 128 * MIB:
                break
    until(lambda: stats(one, queue)["taken"] == 128)


def test_refused_gets_leave_no_room_for_more_that_are_asked_ahead(start: Any, queue: str) -> None:
    one = start()
    filled(one, queue, 128)
    with asking(one.port, b"") as link, link.makefile("rb") as answers:
        for _ in range(112):
            link.sendall(head("GET", f"/q/{queue}", None, "Content-Length: 70000") + b"x" * 70000)
            assert answers.readline().startswith(b"HTTP/1.1 413 ")
            while answers.readline() != b"\r\n":
                pass
            assert b"too-large" in answers.readline()
        link.sendall(head("GET", f"/q/{queue}") * 128)
        until(lambda: stats(one, queue)["taken"] > 0)
        assert settled(one, queue) <= 32


def test_who_does_not_read_leaves_room_for_others_or_is_cut_off(start: Any, queue: str) -> None:
    one = start("[limits]\nmax_answers = 8MiB\n")
    filled(one, queue, 60)
    filled(one, f"{queue}.other", 1)
    links = [asking(one.port, head("GET", f"/q/{queue}") * 8) for _ in range(8)]
    said = one.http("GET", f"/q/{queue}.other")

    def refused() -> bool:
        nonlocal said
        if stats(one, f"{queue}.other")["len"] == 0:
            filled(one, f"{queue}.other", 1)
        said = one.http("GET", f"/q/{queue}.other")
        status: int = said[0]
        return status == 503

    until(refused)
    assert json.loads(said[2])["type"] == "urn:restmq:crowded" and said[1]["retry-after"]
    assert stats(one, queue)["taken"] < 60 and stats(one, f"{queue}.other")["len"] == 1
    assert one.http("POST", f"/q/{queue}.small", "x", TEXT)[0] == 200  # what brings nothing goes on
    held = scrape(one)
    assert held["restmq_held_bytes", "answers"] > 0 and held["restmq_held_most_bytes", "answers"] == 8 * MIB
    assert held["restmq_crowded_refused_total", "answers"] >= 1
    until(lambda: one.http("GET", f"/q/{queue}.other")[0] == 200)  # those who read nothing were cut off
    assert scrape(one)["restmq_crowded_cut_total",] >= 1
    for link in links:
        link.close()
    until(lambda: b"restmq_connections 1.0" in one.http("GET", "/metrics")[2])
    assert one.http("GET", f"/q/{queue}")[0] in (200, 204)


def test_merged_takes_bring_a_mib_at_a_time_and_lose_nothing(start: Any, queue: str) -> None:
    one = start()
    for size in [200_000] * 30 + [10] * 100:
        assert one.http("POST", f"/q/{queue}", "x" * size, TEXT)[0] == 200
    links = [socket.create_connection(("127.0.0.1", one.port), timeout=60) for _ in range(140)]
    for link in links:
        link.sendall(head("GET", f"/q/{queue}", None, "Connection: close"))
    found = []
    empty = 0
    for link in links:
        with link:
            data = b"".join(iter(lambda: link.recv(1 << 20), b""))  # noqa: B023
        empty += data.startswith(b"HTTP/1.1 204")
        found += [int(number) for number in re.findall(rb'"key": "[^"]+:(\d+)"', data)]
    assert (sorted(found), empty) == (list(range(1, 131)), 10)
    assert one.http("GET", f"/ledger/{queue}")[2].count(b'"imbalance": 0') == 1
