"""Taps: a stream that sees every element as it is added, and takes none."""

from __future__ import annotations

import json
import signal
import socket
import time
from typing import Any

import pytest

from tests.support.listener import Listener, have
from tests.support.patience import until
from tests.support.redis_server import RedisServer
from tests.support.requests import add, batch_add, stats, texts

TRANSPORTS = ("c", "sse", "ws")


def tapped(listener: Listener) -> Listener:
    """The tap is open when its head is; SSE says so in its first bytes, too."""
    assert listener.status in (101, 200)
    return listener


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tap_sees_every_add_on_every_instance_and_takes_none(
    instance: Any, other: Any, listen: Any, queue: str, transport: str
) -> None:
    taps = [tapped(listen(where, f"/{transport}/{queue}?tap=1")) for where in (instance, other)]
    add(instance, queue, "one")
    batch_add(other, queue, "two", "three")
    add(other, queue, "delayed", options="?delay=1h")
    assert instance.form("/", f"queue={queue}&value=form")[0] == 200
    for tap in taps:
        tap.until(have(5))
        assert tap.values == ["one", "two", "three", "delayed", "form"]
        assert list(tap.elements[0]) == ["key", "value"]
        assert tap.ids == []
    told = stats(instance, queue)
    assert (told["len"], told["delayed"], told["consumers"]) == (4, 1, 0)
    assert json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] == "one"


def test_a_tap_beside_consumers_changes_nothing_for_them(instance: Any, listen: Any, queue: str) -> None:
    tap, one = listen(instance, f"/c/{queue}?tap=1"), listen(instance, f"/c/{queue}")
    add(instance, queue, "broadcast")
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    two = listen(instance, f"/c/{queue}")
    until(lambda: stats(instance, queue)["consumers"] == 2)
    batch_add(instance, queue, *texts(4))
    assert instance.form(f"/control/{queue}", "status=stop")[0] == 200
    add(instance, queue, "stopped")
    assert tap.until(have(6)).values == ["broadcast", *texts(4), "stopped"]
    one.until(have(3)), two.until(have(2))
    assert sorted([*one.quiet().values, *two.values]) == ["broadcast", *texts(4)]
    assert stats(instance, queue)["len"] == 1
    tap.close(), one.close(), two.close()
    until(lambda: stats(instance, queue)["consumers"] == 0)


def test_what_a_tap_saw_comes_once_more_to_nobody(instance: Any, listen: Any, queue: str) -> None:
    tap = listen(instance, f"/c/{queue}?tap=1")
    add(instance, queue, "a")
    tap.until(have(1))
    element = json.loads(instance.http("GET", f"/q/{queue}?lease=100ms")[2])
    assert element["value"] == "a"
    until(lambda: stats(instance, queue)["len"] == 1)  # the lease ended, and it waits again
    assert tap.quiet().values == ["a"]


def test_an_add_that_is_answered_again_is_not_seen_again(instance: Any, listen: Any, queue: str) -> None:
    tap = listen(instance, f"/c/{queue}?tap=1")
    for _ in range(2):
        headers = {"Content-Type": "text/plain", "Idempotency-Key": "k"}
        assert instance.http("POST", f"/q/{queue}", "once", headers)[0] == 200
    add(instance, queue, "end")
    assert tap.until(lambda c: "end" in c.values).values == ["once", "end"]


def test_a_tap_on_several_queues_sees_all_of_them(instance: Any, listen: Any, queue: str) -> None:
    tap = listen(instance, f"/sse/{queue}.a,{queue}.b?tap=1")
    add(instance, f"{queue}.b", "b")
    add(instance, f"{queue}.a", "a")
    assert sorted(tap.until(have(2)).values) == ["a", "b"]


def test_when_the_last_tap_goes_nothing_is_sent_any_more_and_the_next_one_sees_again(
    instance: Any, listen: Any, queue: str
) -> None:
    for value in texts(3):
        tap = listen(instance, f"/c/{queue}?tap=1")
        add(instance, queue, value)
        assert tap.until(have(1)).values == [value]
        tap.close()
    first, second = listen(instance, f"/c/{queue}?tap=1"), listen(instance, f"/c/{queue}?tap=1")
    first.close()
    add(instance, queue, "left")
    assert second.until(have(1)).values == ["left"]


def test_a_tap_that_is_switched_off_is_a_consumer(instance: Any, listen: Any, queue: str) -> None:
    listen(instance, f"/c/{queue}?tap=0")
    assert stats(instance, queue)["consumers"] == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tap_needs_rest_consumer_besides_its_own_section(start: Any, listen: Any, queue: str, transport: str) -> None:
    own = "".join(f"[{kind}:consumer]\nhosts_allow = all\n" for kind in ("comet", "sse", "websocket"))
    one = start(f"{own}[rest:consumer]\nhosts_deny = all\n")
    assert listen(one, f"/{transport}/{queue}").status in (101, 200)
    assert listen(one, f"/{transport}/{queue}?tap=1").status == 403
    two = start("[comet:consumer]\nhosts_deny = all\n[websocket:consumer]\nhosts_deny = all\n")
    assert listen(two, f"/{transport}/{queue}?tap=1").status == 403


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tap_is_closed_with_the_reason_when_redis_was_away(
    own: RedisServer, start: Any, listen: Any, queue: str, transport: str
) -> None:
    one = start("[redis]\ndeadline = 3s\n", own.address)
    tap, consumer = listen(one, f"/{transport}/{queue}?tap=1"), listen(one, f"/{transport}/{queue}")
    add(one, queue, "seen")
    tap.until(have(1)), consumer.until(have(1))
    own.stop()
    own.start()
    tap.until_end()
    reason = "Redis was away, or this instance was silent: it did not see what was added meanwhile; connect again"
    if transport == "sse":
        assert f": {reason}\n".encode() in tap.body
    if transport == "ws":
        assert (tap.code, tap.reason) == (1001, reason)
    assert reason in one.log.read_text()
    again = listen(one, f"/{transport}/{queue}?tap=1")
    add(one, queue, "after")
    assert again.until(have(1)).values == ["after"]
    assert consumer.until(have(2)).values == ["seen", "after"]


def test_a_tap_that_leaves_while_it_is_being_opened_leaves_nothing_behind(
    own: RedisServer, start: Any, queue: str
) -> None:
    one = start("", own.address)
    asked = f"GET /c/{queue}.a,{queue}.b?tap=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with own.client() as link:
        own.process.send_signal(signal.SIGSTOP)
        try:
            with socket.create_connection(("127.0.0.1", one.port)) as tap:
                tap.sendall(asked)
                time.sleep(0.3)
            time.sleep(0.3)  # its end has been read; Redis has heard of neither
        finally:
            own.process.send_signal(signal.SIGCONT)
        assert stats(one, queue)["consumers"] == 0  # asked after all that went before
        time.sleep(0.3)
        until(lambda: [link.pubsub_channels(f"restmq:{{{queue}.{name}}}:*") for name in "ab"] == [[], []])
        until(lambda: [link.exists(f"restmq:{{{queue}.{name}}}:taps") for name in "ab"] == [0, 0])
        again = Listener(one.port, f"/c/{queue}.a,{queue}.b?tap=1")
        assert len(link.pubsub_channels(f"restmq:{{{queue}.?}}:*")) == 2  # these are what was looked for
        again.close()


def test_a_tap_that_reads_slowly_disturbs_nobody_and_is_told_how_much_it_did_not_see(
    start: Any, listen: Any, queue: str
) -> None:
    one = start("[live]\nmax_waiting = 64KiB\n")
    slow = listen(one, f"/c/{queue}?tap=1", buffer=4096)
    fast = listen(one, f"/c/{queue}?tap=1")
    for count in range(1, 201):
        add(one, queue, "x" * 50000)
        fast.until(lambda c, count=count: c.body.count(b"\r\n") >= count, 60)
    slow.hurry().until(lambda c: b'"missed"' in c.body, 60)
    (told,) = slow.told
    seen = len(slow.elements)
    assert told == {"queue": queue, "gap": None, "missed": 200 - seen}
    assert 0 < seen < 200
    add(one, queue, "after")
    slow.until(lambda c: "after" in c.values, 60)
    assert "dropped" not in one.log.read_text()
