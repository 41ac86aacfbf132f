"""A Redis that does not answer for a while, and then does what it was asked: nothing may be forgotten over it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.task import Clock, LoopingCall

from restmq.model.errors import Unavailable
from restmq.runtime.future import begun
from tests.support import reactor
from tests.support.instance import Instance
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer
from tests.support.requests import TEXT, add

SHORT = "[redis]\ndeadline = 3s\n"


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """It answers nothing meanwhile; what it was asked it does afterwards."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def ready(instance: Instance) -> bool:
    """Whether it serves."""
    return instance.http("GET", "/readyz")[0] == 200


def test_a_lease_whose_answer_was_lost_ends_by_itself(own: RedisServer, start: Any, queue: str) -> None:
    one = start(SHORT, own.address)
    add(one, queue, "a")
    with frozen(own):
        status, _, answer = one.http("GET", f"/q/{queue}?lease=1")
        assert (status, json.loads(answer)["stored"]) == (503, "maybe")
    until(lambda: ready(one))
    assert one.http("GET", f"/q/{queue}?wait=40")[2].count(b'"a"') == 1  # it did not touch the queue meanwhile


@pytest.mark.parametrize("how", ["delay=2", "error=no"])
def test_what_was_given_back_for_later_comes_though_the_answer_was_lost(
    own: RedisServer, start: Any, queue: str, how: str
) -> None:
    one = start(SHORT + "[queues]\nbackoff = fixed:2s\n", own.address)
    add(one, queue, "a")
    lease = json.loads(one.http("GET", f"/q/{queue}?lease=1h")[2])["lease"]
    with frozen(own):
        headers = {"If-Match": f'"{lease}"'}
        assert one.http("POST", f"/q/{queue}/1?lease=0&{how}", None, headers)[0] == 503
    until(lambda: ready(one))
    assert one.http("GET", f"/q/{queue}?wait=40")[2].count(b'"a"') == 1


def test_who_is_not_answered_hears_so(own: RedisServer, start: Any, queue: str) -> None:
    one = start(SHORT, own.address)
    with frozen(own):
        status, headers, answer = one.http("POST", f"/q/{queue}", b"x", TEXT)
        assert (status, json.loads(answer)["stored"], "retry-after" in headers) == (503, "maybe", True)
        assert [one.http("GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 503]


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.7, 0.99])
def test_who_is_not_answered_hears_so_in_less_than_the_deadline(
    redis_server: RedisServer, phase: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that the test turns: the watch looks once a second, and something is asked between two looks."""
    with reactor.core(redis_server.address, 12, deadline=3.0) as core:
        until(lambda: core.redis.link is not None)
        clock, redis = Clock(), core.redis
        redis.now, redis.clock = clock.seconds, clock
        watch = LoopingCall(redis.watch)
        errors: list[BaseException | None] = []
        after: list[float] = []
        watch.clock = clock
        cut = redis.cut

        def ask() -> None:
            watch.start(1.0)
            clock.pump([0.01] * round(phase * 100))
            asked = clock.seconds()

            def noted(why: str) -> None:
                after.append(clock.seconds() - asked)
                cut(why)

            monkeypatch.setattr(redis, "cut", noted)
            redis.call(b"PING").then(lambda reply, error: errors.append(error))
            clock.pump([0.01] * 500)  # all in one turn of the reactor: nothing is read meanwhile
            watch.stop()

        reactor.call(ask)
        until(lambda: errors)
        assert isinstance(errors[0], Unavailable) and errors[0].maybe and "did not answer within 3 s" in errors[0].text
        assert 2 < after[0] < 3


def test_no_lease_ends_for_five_seconds_when_redis_did_not_answer_at_first(
    own: RedisServer, start: Any, queue: str
) -> None:
    one = start(SHORT, own.address)
    add(one, queue, "a")
    time.sleep(5)  # this Redis is no new one
    for number in range(1, 10):
        lease = json.loads(one.http("GET", f"/q/{queue}?lease=1")[2])["lease"]
        one.stop()
        with frozen(own):
            one.launch()
            until(lambda number=number: one.log.read_text().count("cannot be used") == number)
            back = time.monotonic()
        until(lambda: one.http("GET", "/readyz")[0] == 200)
        acked = json.loads(one.http("POST", f"/q/{queue}/ack", json.dumps({"ack": [lease]}))[2])["acked"]
        if time.monotonic() - back < 4:  # else the machine was late, and this says nothing
            break
        assert one.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
        add(one, queue, "a")
    assert acked == 1


def test_who_waits_while_an_instance_ends_is_told_though_its_answer_is_on_the_way(
    own: RedisServer, start: Any, queue: str
) -> None:
    one = start("", own.address)
    with frozen(own):
        link = socket.create_connection(("127.0.0.1", one.port), timeout=PATIENCE)
        link.sendall(b"GET /q/%b?wait=60 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % queue.encode())
        time.sleep(0.3)
        one.process.terminate()
        time.sleep(0.3)
    assert link.recv(65536).startswith(b"HTTP/1.1 204 ")


def test_what_a_client_that_left_did_not_get_is_brought_back_when_redis_answers_again(
    own: RedisServer, queue: str
) -> None:
    name = queue.encode()
    with reactor.core(own.address) as core:
        until(lambda: core.redis.link is not None)
        for value in (b"a", b"b", b"c"):
            reactor.wait(core.add, name, value)
        taken = reactor.wait(core.take_many, name, 3)
        own.stop()
        bringing = reactor.call(lambda: begun(core.untake(taken)))
        time.sleep(0.5)
        own.start()
        reactor.wait(lambda: bringing)
        books = reactor.wait(core.inspection.ledger, name)
        assert (books["waiting"], books["delayed"], books["leased"], books["imbalance"]) == (3, 0, 0, 0)
