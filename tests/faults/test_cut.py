"""Links to Redis that are cut at a bad moment: what was going on must not stay half done."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from typing import Any

import pytest

from restmq.store.library import Library
from tests.support.instance import Instance
from tests.support.listener import have
from tests.support.pair import Pair
from tests.support.patience import PATIENCE, until
from tests.support.requests import add, batch_add, stats, texts


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


def test_what_was_missed_comes_in_pages_but_for_what_has_expired_meanwhile(pair: Pair, listen: Any, queue: str) -> None:
    assert pair.there.form(f"/settings/{queue}", "history=3000")[0] == 200
    consumer = listen(pair.here, f"/c/{queue}?since=now")
    add(pair.there, queue, "first")
    consumer.until(have(1))  # now it has its past, if empty: who is cut off before that must come again
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
    assert (consumer.values, consumer.told) == (["first", *texts(1500), "later"], [])
    add(pair.there, queue, "end")
    assert consumer.until(lambda c: "end" in c.values).values[1501:] == ["later", "end"]
    until(lambda: stats(pair.there, queue)["leased"] == 0, lambda: stats(pair.there, queue))


@pytest.mark.parametrize("how", ["/c/{}", "/sse/{}"])
def test_what_another_life_of_a_queue_broadcast_while_links_were_cut_comes_from_its_beginning(
    pair: Pair, listen: Any, queue: str, how: str
) -> None:
    stays, other = listen(pair.here, how.format(queue)), listen(pair.there, f"/c/{queue}")
    add(pair.there, queue, "before")
    stays.until(have(1))
    with pair.stopped():
        for one in pair.links:
            pair.link.client_kill_filter(_id=one)
        assert pair.there.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
        add(pair.there, queue, "a", "b")
        other.until(have(3))
    add(pair.there, queue, "c")
    assert stays.until(have(4)).quiet().values == ["before", "a", "b", "c"]
    assert other.until(have(4)).values == stays.values
    if "sse" in how:
        assert [list(one) for one in stays.told] == [["queue", "epoch"]]


def test_the_last_consumer_that_leaves_a_queue_while_the_links_are_cut_leaves_nothing_behind(
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
        link = socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE)
        link.sendall(b"GET /q/%b?wait=%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (queue.encode(), seconds))
        until(lambda: stats(pair.there, queue)["waiters"] > before)
        return link

    left = enter(pair.here, 50)
    with pair.stopped():
        left.close()
    until(lambda: pair.here.http("GET", "/readyz")[0] == 200)
    until(lambda: stats(pair.there, queue)["waiters"] == 0)
    assert pair.here.http("GET", f"/q/{queue}?wait=1")[0] == 204  # now wake-ups are heard there
    until(lambda: stats(pair.there, queue)["waiters"] == 0)  # told a little after the answer
    with enter(pair.there, 50) as link:
        add(pair.there, queue, "a")
        assert b'"a"' in link.recv(65536)


class Heard:
    """A queue that broadcasts, heard at both, and one that does not, heard only where the links go wrong."""

    def __init__(self, pair: Pair, listen: Any, queue: str) -> None:
        self.pair, self.news, self.jobs = pair, f"{queue}-news", f"{queue}-jobs"
        assert pair.there.form(f"/p/{self.jobs}", "policy=roundrobin")[0] == 200
        self.job = listen(pair.here, f"/c/{self.jobs}")
        self.all = listen(pair.here, f"/sse/{self.news}"), listen(pair.there, f"/sse/{self.news}")
        until(lambda: stats(pair.there, self.news)["consumers"] == 2)
        until(lambda: stats(pair.there, self.jobs)["consumers"] == 1)
        self.count = 0

    def add(self) -> None:
        """One more to each, at the other instance."""
        for name in (self.news, self.jobs):
            add(self.pair.there, name, *texts(1, self.count))
        self.count += 1

    def everything(self) -> None:
        """All of it is heard, on the same connections and once; broadcasts in order, others may overtake."""
        for one in (self.job, *self.all):
            one.until(lambda c: len(c.elements) >= self.count)
        for name in (self.news, self.jobs):
            until(lambda name=name: stats(self.pair.there, name)["leased"] == 0)
        self.add()  # comes after all that might have come twice
        for one in (self.job, *self.all):
            one.until(lambda c: f"v{self.count - 1}" in c.values)
            assert one.told == []
        assert sorted(self.job.values) == sorted(texts(self.count))
        assert [one.values for one in self.all] == [texts(self.count)] * 2
        assert self.all[0].ids == self.all[1].ids


@pytest.mark.parametrize("pair", ["[redis]\ndeadline = 5s\n[server]\nsilence = 3s\n"], indirect=True, ids=[""])
@pytest.mark.parametrize("kind", ["commands", "messages"])
def test_a_link_that_goes_deaf_is_given_up_and_what_was_added_meanwhile_comes_once(
    pair: Pair, listen: Any, queue: str, kind: str
) -> None:
    heard = Heard(pair, listen, queue)
    heard.add()
    before = pair.one(kind)
    pair.between.deafen(kind)
    began = time.monotonic()
    heard.add()
    until(lambda: time.monotonic() - began > 1)
    heard.add()
    until(lambda: before not in {client["id"] for client in pair.link.client_list()})
    heard.add()
    heard.everything()
    pair.told(kind)
    print(f"{kind}: {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("kind", ["commands", "messages"])
@pytest.mark.parametrize("asleep", [False, True], ids=["awake", "asleep"])
def test_what_is_added_while_one_of_the_two_links_is_cut_comes_once(
    pair: Pair, listen: Any, queue: str, kind: str, asleep: bool
) -> None:
    heard = Heard(pair, listen, queue)
    heard.add()
    for _ in range(1 if asleep else 5):
        if asleep:
            pair.here.process.send_signal(signal.SIGSTOP)
        try:
            assert pair.link.client_kill_filter(_id=pair.one(kind)) == 1
            for _ in range(3):
                heard.add()
        finally:
            pair.here.process.send_signal(signal.SIGCONT)
        heard.everything()
    pair.told(kind)


def test_what_is_dealt_to_an_instance_while_it_joins_again_is_given_once(pair: Pair, listen: Any, queue: str) -> None:
    assert pair.there.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumer = listen(pair.here, f"/c/{queue}")
    until(lambda: stats(pair.there, queue)["consumers"] == 1)
    pair.between.holds = True  # it will hear again before it can tell that it is here
    for client in pair.own():
        pair.link.client_kill_filter(_id=client["id"])
    until(lambda: not pair.between.flows.is_set())
    until(lambda: pair.link.pubsub_numsub(f"restmq:{{{queue}}}:c0")[0][1] == 1)
    until(lambda: len(pair.link.pubsub_channels(f"restmq:{{{queue}}}:i0:*")) == 1)
    add(pair.there, queue, "a", "b", "c")
    pair.between.flows.set()
    consumer.until(have(3))
    add(pair.there, queue, "end")
    consumer.until(lambda c: "end" in c.values)
    assert sorted(consumer.quiet().values) == ["a", "b", "c", "end"]


@pytest.mark.parametrize("step", ["who waits", "what is heard"])
def test_who_leaves_while_all_that_wait_ask_anew_takes_nothing_from_the_others_when_that_fails(
    pair: Pair, queue: str, step: str
) -> None:
    """Both links are cut once more while they ask, and meanwhile some leave, in every way there is."""
    links = []

    def enter(seconds: int) -> socket.socket:
        before = stats(pair.there, queue)["waiters"]
        link = socket.create_connection(("127.0.0.1", pair.here.port), timeout=PATIENCE)
        link.sendall(b"GET /q/%b?wait=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (queue.encode(), seconds))
        until(lambda: stats(pair.there, queue)["waiters"] > before)
        links.append(link)
        return link

    key = f"restmq:{{{queue}}}:m" if step == "who waits" else "restmq:{inst}:q:"  # a script's first, or a note's

    def asked(data: bytes) -> None:
        if key.encode() in data and queue.encode() in data:
            pair.between.flows.clear()

    try:
        others = [enter(50) for _ in range(2)]
        half, left, late = enter(50), enter(50), enter(2)
        others += [enter(50) for _ in range(2)]
        pair.between.asked = asked
        pair.between.cut()
        until(lambda: not pair.between.flows.is_set())
        pair.between.asked = lambda data: None
        half.shutdown(socket.SHUT_WR)
        left.close()
        time.sleep(2)
        assert b" 204 " in half.recv(65536)
        assert half.recv(65536) == b""
        pair.between.cut()
        assert b" 204 " in late.recv(65536)
        until(lambda: pair.here.http("GET", "/readyz")[0] == 200)
        until(lambda: stats(pair.there, queue)["waiters"] == len(others), lambda: stats(pair.there, queue))
        came = []
        for one in others:
            add(pair.there, queue, "x")
            came.append(json.loads(one.recv(65536).partition(b"\r\n\r\n")[2])["key"])
        assert came == [f"{queue}:{number}" for number in range(1, 5)]
        add(pair.there, queue, "x")  # nobody is left whom it could be for
        until(lambda: stats(pair.there, queue)["waiters"] == 0)
        books = json.loads(pair.there.http("GET", f"/ledger/{queue}")[2])
        assert [books[word] for word in ("added", "taken", "waiting", "imbalance")] == [5, 4, 1, 0]
        assert "failed" not in pair.here.log.read_text()
    finally:
        for link in links:
            link.close()


def test_what_the_last_consumer_took_comes_to_nobody_again_though_its_confirmation_is_lost(
    pair: Pair, listen: Any, queue: str
) -> None:
    """It leaves while the confirmation is on its way, and the links are cut before that is there."""
    confirm, held = Library().functions["confirm"], threading.Event()
    consumer = listen(pair.here, f"/c/{queue}")
    until(lambda: stats(pair.there, queue)["consumers"] == 1)

    def asked(data: bytes) -> None:
        if confirm in data and not held.is_set():
            pair.between.flows.clear()
            held.set()

    pair.between.asked = asked
    add(pair.there, queue, "a")
    assert consumer.until(have(1)).values == ["a"] and held.wait(PATIENCE)
    consumer.close()
    until(lambda: "left comet" in pair.here.log.read_text())
    pair.between.refuses = True
    pair.between.cut()
    other = listen(pair.there, f"/c/{queue}")
    until(lambda: stats(pair.there, queue)["consumers"] == 2)  # as far as Redis knows
    pair.between.refuses = False
    until(lambda: stats(pair.there, queue)["consumers"] == 1)
    until(lambda: stats(pair.there, queue)["leased"] == 0)
    assert other.quiet().values == []
    assert stats(pair.there, queue)["delivered"] == 1
