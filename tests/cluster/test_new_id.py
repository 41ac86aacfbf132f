"""An instance that was given up lives on under a new id: the old one swallows nothing, and its rebirth is one."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.instance import Instance, Life
from tests.support.listener import have, numbers
from tests.support.patience import PATIENCE, until
from tests.support.proxy import Between
from tests.support.redis_server import RedisServer
from tests.support.requests import add, batch_add, joined, roundrobin, stats, texts

ALIVE, DOOMED = "restmq:{inst}:alive", "restmq:{inst}:doomed"


class Lives:
    """An instance behind a Between, what it asked of Redis, and the ids that it had."""

    def __init__(self, between: Between, store: Any, start: Any) -> None:
        self.between, self.store = between, store
        self.others = set(store.zrange(ALIVE, 0, -1))
        self.first = Life(store, lambda conf: start(conf, f"unix:{between.path}"))
        self.instance: Instance = self.first.instance
        self.commands: list[bytes] = []
        between.asked = self.commands.append

    def ids(self) -> set[bytes]:
        """Those under which it lives now: one."""
        return set(self.store.zrange(ALIVE, 0, -1)) - self.others

    def known(self, one: bytes, queue: str) -> list[str]:
        """Where Redis still knows an id."""
        life = object.__new__(Life)
        life.store, life.id = self.store, one
        return life.traces(queue)

    def stop(self, queue: str) -> None:
        """It stands still until it was given up, and taken out of this queue and all others."""
        self.instance.process.send_signal(signal.SIGSTOP)
        until(lambda: self.store.sismember(f"restmq:{{{queue}}}:gone", self.first.id))
        until(lambda: self.known(self.first.id, queue) == [], lambda: self.known(self.first.id, queue))

    def wake(self) -> None:
        """It goes on."""
        self.instance.process.send_signal(signal.SIGCONT)

    def give_up(self, one: bytes) -> None:
        """The others are told that it is dead; it learns it from its next beat."""
        self.store.zrem(ALIVE, one)
        self.store.zadd(DOOMED, {one: 0})

    def place(self, *words: bytes) -> int:
        """Which of its commands is the first that has all these words; -1 when none has."""
        return next((at for at, data in enumerate(self.commands) if all(word in data for word in words)), -1)

    def gone(self, queue: str) -> set[bytes]:
        """Ids that were reaped in a queue."""
        return set(self.store.smembers(f"restmq:{{{queue}}}:gone"))

    def reaped(self, one: bytes) -> int:
        """How often it asked for the queues of one of its former ids, to be taken out of them."""
        return b"".join(self.commands).count(b"SMEMBERS\r\n$%d\r\nrestmq:{inst}:q:%b\r\n" % (16 + len(one), one))


@pytest.fixture
def lives(redis_server: RedisServer, other: Instance, start: Any, tmp_path: Path) -> Iterator[Lives]:
    """One behind a Between; `other` gives it up when it stands still."""
    between = Between(tmp_path, redis_server)
    with redis_server.client() as store:
        made = Lives(between, store, start)
        yield made
        made.wake()
        between.slow, between.refuses = 0.0, False
        between.flows.set()
        made.instance.stop()
    between.stop()


def ledger(instance: Instance, queue: str) -> dict[str, int]:
    """A queue's books."""
    found: dict[str, int] = json.loads(instance.http("GET", f"/ledger/{queue}")[2])
    assert found["imbalance"] == 0
    return found


def untroubled(lives: Lives) -> None:
    """Its log tells of no fault."""
    text = lives.instance.log.read_text()
    assert "failed" not in text, text
    assert "Traceback" not in text, text


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside one that waits"])
def test_an_old_id_that_stood_in_line_once_more_is_taken_out_and_swallows_no_wake_up(
    lives: Lives, other: Instance, queue: str, beside: bool
) -> None:
    """The GET is read after the sleep, and asks under the old id, before the answer says that this was given up."""
    get = b"GET /q/%b?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n" % queue.encode()
    old, of, links = lives.first.id, f"restmq:{{{queue}}}:", []
    try:
        for _ in range(2):
            links.append(socket.create_connection(("127.0.0.1", lives.instance.port), timeout=PATIENCE))
        links[0].sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in links[0].recv(65536)  # this connection is accepted
        if beside:
            links[1].sendall(get)
            until(lambda: stats(other, queue)["waiters"] == 1)
        else:
            assert lives.instance.http("GET", f"/q/{queue}?wait=1")[0] == 204  # its wake-ups are heard for some seconds
        lives.stop(queue)
        assert stats(other, queue)["waiters"] == 0
        lives.commands.clear()
        lives.between.flows.clear()
        links[0].sendall(get)
        lives.wake()
        time.sleep(2)  # it has read the GET
        lives.between.flows.set()
        many = 2 if beside else 1
        until(lambda: len(lives.ids() - {old}) == 1)
        (new,) = lives.ids()
        until(lambda: new in lives.store.lrange(of + "wt", 0, -1))
        until(lambda: lives.store.lrange(of + "wt", 0, -1) == [new] * many, lambda: lives.known(old, queue))
        until(lambda: lives.store.pubsub_channels(f"restmq:*:{old.decode()}") == [])
        assert lives.place(b'"instance": "%b"' % old) >= 0, "it did not ask under its old id"
        assert lives.known(old, queue) == []
        assert stats(other, queue)["waiters"] == many
        for one in (links[1], links[0])[2 - many :]:  # who came first is served first
            add(other, queue, "a")
            assert b'"a"' in one.recv(65536)
        add(other, queue, "b")
        assert stats(other, queue)["len"] == 1
        assert ledger(other, queue)["taken"] == many
    finally:
        for one in links:
            one.close()
    assert lives.gone(queue) == {old}
    untroubled(lives)


def test_a_beat_that_is_answered_while_it_is_born_again_lets_nothing_out_that_was_taken_back(
    lives: Lives, other: Instance, listen: Any, queue: str
) -> None:
    hears = listen(lives.instance, f"/sse/{queue}")
    joined(other, queue, 1)
    add(other, queue, "a")
    hears.until(have(1))
    until(lambda: stats(other, queue)["leased"] == 0)
    lives.instance.process.send_signal(signal.SIGSTOP)
    add(other, queue, "b", "c")
    assert stats(other, queue)["leased"] == 2
    lives.stop(queue)
    assert lives.store.lrange(f"restmq:{{{queue}}}:void", 0, -1) == [b"2 3"]
    reader = listen(other, f"/sse/{queue}")
    reader.until(have(2))
    until(lambda: stats(other, queue)["leased"] == 0)
    lives.commands.clear()
    lives.between.slow = 0.4
    lives.wake()
    until(lambda: lives.place(b"LRANGE", f"restmq:{{{queue}}}:void".encode()) >= 0)
    lives.between.slow = 0
    joined(other, queue, 2)
    (new,) = lives.ids()
    reaped = lives.place(b"$4\r\nZREM\r\n", b"restmq:{inst}:doomed", lives.first.id)
    assert 0 <= lives.place(b"restmq:{inst}:alive", new) < reaped
    add(other, queue, "d")
    for one, came in ((hears, ["a", "b", "c", "d"]), (reader, ["b", "c", "d"])):
        assert one.until(lambda c: "d" in c.values).quiet().values == came
    until(lambda: stats(other, queue)["leased"] == 0)
    assert ledger(other, queue)["delivered"] == 4
    assert lives.gone(queue) == {lives.first.id}
    untroubled(lives)


@pytest.mark.parametrize("step", [b"SMEMBERS", b"LRANGE"])
def test_a_rebirth_that_fails_is_tried_again_under_the_same_id(
    lives: Lives, other: Instance, listen: Any, queue: str, step: bytes
) -> None:
    roundrobin(other, queue)
    here, there = listen(lives.instance, f"/c/{queue}"), listen(other, f"/c/{queue}")
    joined(other, queue, 2)
    batch_add(other, queue, *texts(10))
    for one in (here, there):
        one.until(have(5))
    until(lambda: stats(other, queue)["leased"] == 0)
    lives.instance.process.send_signal(signal.SIGSTOP)
    batch_add(other, queue, *texts(10, 10))
    lives.stop(queue)
    there.until(have(15))
    lives.commands.clear()

    def asked(data: bytes) -> None:
        if b"$%d\r\n%b\r\n" % (len(step), step) in data:
            lives.between.flows.clear()
        lives.commands.append(data)

    lives.between.asked = asked
    lives.wake()
    until(lambda: not lives.between.flows.is_set())
    lives.between.refuses, lives.between.asked = True, lives.commands.append
    lives.between.cut()
    time.sleep(2)
    lives.between.refuses = False
    joined(other, queue, 2)
    until(lambda: lives.instance.http("GET", "/readyz")[0] == 200)
    batch_add(other, queue, *texts(10, 20))
    for one, many in ((here, 10), (there, 20)):
        one.until(have(many))
    batch_add(other, queue, *texts(2, 30))
    came = numbers(here.until(have(11)).quiet()) + numbers(there.until(have(21)).quiet())
    assert sorted(came) == list(range(1, 33))
    assert lives.gone(queue) == {lives.first.id}
    assert len(lives.ids()) == 1
    until(lambda: stats(other, queue)["leased"] == 0)
    assert ledger(other, queue)["delivered"] == 32
    untroubled(lives)


def test_who_is_given_up_again_while_it_is_born_is_reaped_of_both_by_one_rebirth(
    lives: Lives, other: Instance, listen: Any, queue: str
) -> None:
    names = [f"{queue}-{number}" for number in range(8)]  # for each there is a round trip or two
    for name in names:
        roundrobin(other, name)
    here, there = listen(lives.instance, "/c/" + ",".join(names)), listen(other, "/c/" + ",".join(names))
    for name in names:
        joined(other, name, 2)
    lives.between.slow = 0.3
    old = lives.first.id
    lives.give_up(old)
    until(lambda: len(lives.ids() - {old}) == 1)
    (second,) = lives.ids() - {old}
    lives.give_up(second)
    until(lambda: len(lives.ids() - {old, second}) == 1)
    lives.between.slow = 0
    for name in names:
        joined(other, name, 2)
        until(lambda name=name: lives.gone(name) == {old, second})
        for one in (old, second):
            until(lambda one=one, name=name: lives.known(one, name) == [])
    (third,) = lives.ids()
    assert third not in (old, second)
    assert (lives.reaped(old), lives.reaped(second)) == (1, 1)
    assert b"".join(lives.commands).count(b"restmq:{inst}:q:" + second) == 2, "it joined under its second id"
    for name in names:
        batch_add(other, name, *texts(6))
    for one in (here, there):
        one.until(have(24))
    for name in names:
        until(lambda name=name: stats(other, name)["leased"] == 0)
    came = [one["key"] for listener in (here, there) for one in listener.quiet().elements]
    assert sorted(came) == sorted(f"{name}:{number}" for name in names for number in range(1, 7))
    assert lives.store.pubsub_channels(f"restmq:*:{old.decode()}") == []
    assert lives.store.pubsub_channels(f"restmq:*:{second.decode()}") == []
    assert lives.instance.log.read_text().count("was given up") == 2
    untroubled(lives)
