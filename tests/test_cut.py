"""Links to Redis that are cut at a bad moment: what was going on must not stay half done."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Instance, RedisServer
from wire import Listener, add, batch_add, stats, texts, until


def have(count: int) -> Callable[[Listener], bool]:
    """Whether so many elements came."""
    return lambda listener: len(listener.elements) >= count


class Pair:
    """Two instances on a Redis of their own; the links of the second can be cut while it is stopped."""

    def __init__(self, server: RedisServer, start: Any) -> None:
        self.link = redis.Redis(unix_socket_path=str(server.socket))
        self.there: Instance = start("", server.address)
        others = {client["id"] for client in self.link.client_list()}
        self.here: Instance = start("", server.address)
        self.links = [client["id"] for client in self.link.client_list() if client["id"] not in others]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """`here` does nothing meanwhile, and then finds its links cut."""
        self.here.process.send_signal(signal.SIGSTOP)
        try:
            yield
            for one in self.links:
                self.link.client_kill_filter(_id=one)
        finally:
            self.here.process.send_signal(signal.SIGCONT)


@pytest.fixture
def pair(start: Any, tmp_path: Path) -> Iterator[Pair]:
    """here and there."""
    server = RedisServer(tmp_path)
    try:
        made = Pair(server, start)
        yield made
        made.link.close()
    finally:
        server.stop()


def test_a_lease_acknowledged_while_the_links_are_cut_makes_room_all_the_same(
    pair: Pair, listen: Any, queue: str
) -> None:
    assert pair.there.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumer = listen(pair.here, f"/c/{queue}?lease=60")
    add(pair.there, queue, "a", "b")
    consumer.until(have(1))
    with pair.stopped():
        for one in pair.links:
            pair.link.client_kill_filter(_id=one)
        assert b'"deleted": true' in pair.there.http("DELETE", f"/q/{queue}/1")[2]
    assert consumer.until(have(2)).values == ["a", "b"]


def test_what_was_missed_comes_in_pages_but_for_what_has_expired_meanwhile(
    pair: Pair, listen: Any, queue: str
) -> None:
    assert pair.there.form(f"/settings/{queue}", "history=3000")[0] == 200
    consumer = listen(pair.here, f"/c/{queue}?since=now").until(lambda c: c.ids)
    other = listen(pair.there, f"/c/{queue}")
    with pair.stopped():
        for one in pair.links:
            pair.link.client_kill_filter(_id=one)
        add(pair.there, queue, "short", options="?ttl=200ms")
        batch_add(pair.there, queue, *texts(1500))  # more than a page of history
        other.until(have(1501))
        time.sleep(0.2)
        add(pair.there, queue, "later", options="?ttl=1h")
    consumer.until(lambda c: "later" in c.values)
    assert (consumer.values, consumer.told) == ([*texts(1500), "later"], [])
    add(pair.there, queue, "end")
    assert consumer.until(lambda c: "end" in c.values).values[1500:] == ["later", "end"]
    until(lambda: stats(pair.there, queue)["leased"] == 0, lambda: stats(pair.there, queue))


def test_the_last_consumer_of_a_queue_that_leaves_while_the_links_are_cut_leaves_nothing_behind(
    pair: Pair, listen: Any, queue: str
) -> None:
    consumer = listen(pair.here, f"/c/{queue}")
    until(lambda: stats(pair.there, queue)["consumers"] == 1)
    with pair.stopped():
        consumer.close()
        add(pair.there, queue, "a")
        assert stats(pair.there, queue)["leased"] == 1
    until(lambda: stats(pair.there, queue)["consumers"] == 0, lambda: stats(pair.there, queue))
    until(lambda: stats(pair.there, queue)["leased"] == 0, lambda: stats(pair.there, queue))


def test_a_wake_up_for_one_that_left_while_the_links_were_cut_goes_to_the_next(pair: Pair, queue: str) -> None:
    def enter(instance: Instance, seconds: int) -> socket.socket:
        before = stats(pair.there, queue)["waiters"]
        link = socket.create_connection(("127.0.0.1", instance.port), timeout=30)
        link.sendall(b"GET /q/%b?wait=%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (queue.encode(), seconds))
        until(lambda: stats(pair.there, queue)["waiters"] > before)
        return link

    left = enter(pair.here, 50)
    with pair.stopped():
        left.close()
    until(lambda: pair.here.http("GET", "/readyz")[0] == 200)
    until(lambda: stats(pair.there, queue)["waiters"] == 0)
    assert pair.here.http("GET", f"/q/{queue}?wait=1")[0] == 204  # now wake-ups are heard there
    with enter(pair.there, 50) as link:
        add(pair.there, queue, "a")
        assert b'"a"' in link.recv(65536)
