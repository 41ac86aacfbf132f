"""Consuming beyond one GET: waiting, many at once, leases, and what becomes of them."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import reactor
from tests.support.listener import Listener
from tests.support.patience import PATIENCE, until
from tests.support.requests import FORM, TEXT, batch_add, lengths, waiters

MIB = 1 << 20


def get(instance: Any, queue: str, query: str = "") -> Any:
    """What GET answers as JSON, None for 204."""
    status, _, body = instance.http("GET", f"/q/{queue}{query}")
    assert status in (200, 204), body
    return json.loads(body) if status == 200 else None


def look(instance: Any, queue: str, number: int) -> Any:
    """What GET /q/NAME/N says."""
    return json.loads(instance.http("GET", f"/q/{queue}/{number}")[2])


def problem(answer: tuple[int, Any, bytes]) -> tuple[int, str]:
    """An error's status and word."""
    return answer[0], json.loads(answer[2])["type"].removeprefix("urn:restmq:")


def match(lease: str) -> dict[str, str]:
    """The header that names a lease."""
    return {"If-Match": f'"{lease}"'}


WAYS = [("GET", "/q/{}?"), ("POST", "/q/{}/take?"), ("GET", "/?queue={}&")]


# -- nothing beyond the first RestMQ


def test_a_request_that_uses_nothing_new_gets_the_seed_s_bytes_whatever_the_queue_went_through(
    instance: Any, queue: str
) -> None:
    def played(name: str) -> list[bytes]:
        """The same requests of old, to the byte; the name and the time of day aside."""
        said = []
        for request in (
            b"POST /q/{} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 9\r\n\r\nvalue=two",
            b"GET /q/{} HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /?queue={} HTTP/1.1\r\nHost: x\r\n\r\n",
            b'POST /queue HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\n{"cmd":"take","queue": "{}"}',
            b"DELETE /q/{}/1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /q/{} HTTP/1.1\r\nHost: x\r\n\r\n",
            b"DELETE /q/{} HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            text = request.replace(b"{}", name.encode())
            if b"cmd" in text:
                text = text.replace(b"Content-Length: 28", b"Content-Length: %d" % len(text.partition(b"\r\n\r\n")[2]))
            with socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE) as link:
                link.sendall(text.replace(b"Host: x\r\n", b"Host: localhost\r\nConnection: close\r\n"))
                data = b""
                while more := link.recv(1 << 16):
                    data += more
            lines = [line for line in data.split(b"\r\n") if not line.startswith((b"Date:", b"Content-Length:"))]
            said.append(b"\r\n".join(lines).replace(name.encode(), b"NAME"))
        return said

    plain, used = queue + "plain", queue + "used"
    for value in ("one", "extra"):
        instance.form(f"/q/{plain}", f"value={value}")
    instance.http(
        "POST", f"/q/{used}", "one", {**TEXT, "Idempotency-Key": "k", "RestMQ-TTL": "1h", "RestMQ-Delay": "1ms"}
    )
    instance.form(f"/q/{used}", "value=extra")
    until(lambda: lengths(instance, used) == [2, 0, 0])
    lease = get(instance, used, "?lease=1h")["lease"]
    assert instance.http("POST", f"/q/{used}/1?lease=0&error=failed", None, match(lease))[0] == 200
    before = played(plain)
    assert played(used) == before
    assert before[1].endswith(b'\r\n\r\n{"count": 0, "key": "NAME:1", "value": "one"}\r\n')
    assert before[3].endswith(b'\r\n\r\n{"queue": "NAME", "value": "two", "key": "NAME:3"}')


# -- many at once


@pytest.mark.parametrize(("method", "path"), WAYS)
def test_max_is_a_list_of_up_to_so_many_oldest_first(instance: Any, queue: str, method: str, path: str) -> None:
    batch_add(instance, queue, "a", "olá", "c")
    where = path.format(queue)
    q = queue.encode()
    status, headers, body = instance.http(method, where + "max=2")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (
        body
        == b'[{"count": 0, "key": "%b:1", "value": "a"}, {"count": 0, "key": "%b:2", "value": "ol\\u00e1"}]\r\n'
        % (
            q,
            q,
        )
    )
    assert instance.http(method, where + "max=1000")[2] == b'[{"count": 0, "key": "%b:3", "value": "c"}]\r\n' % q
    assert instance.http(method, where + "max=5")[0] == (404 if path.startswith("/?") else 204)
    assert "etag" not in headers


@pytest.mark.parametrize("most", ["0", "1001", "-1", "x", "1.5", "9" * 30, "1%20"])
def test_a_max_out_of_range_takes_nothing(instance: Any, queue: str, most: str) -> None:
    batch_add(instance, queue, "stays")
    for method, path in WAYS:
        assert problem(instance.http(method, path.format(queue) + f"max={most}")) == (400, "bad-option")
    assert lengths(instance, queue) == [1, 0, 0]


@pytest.mark.parametrize("more", ["", "&lease=1m", "&wait=5"])
def test_a_list_ends_at_1_mib_of_values_and_has_one_at_the_least(instance: Any, queue: str, more: str) -> None:
    for size in (400_000, 400_000, 400_000, MIB, 10, 20):
        instance.http("POST", f"/q/{queue}", "x" * size, TEXT)
    sizes = []
    while (some := get(instance, queue, f"?max=10{more}" if lengths(instance, queue)[0] else "")) is not None:
        sizes.append([len(one["value"]) for one in some])
    assert sizes == [[400_000, 400_000], [400_000], [MIB], [10, 20]]


def test_a_thousand_come_in_one_answer(instance: Any, queue: str) -> None:
    batch_add(instance, queue, *map(str, range(1500)))
    assert [one["value"] for one in get(instance, queue, "?max=1000")] == [str(n) for n in range(1000)]
    assert [one["key"] for one in get(instance, queue, "?max=1000&lease=1h")] == [
        f"{queue}:{n}" for n in range(1001, 1501)
    ]


def test_a_list_may_be_jsonp_and_options_may_stand_in_a_header_or_a_form(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b", "c", "d")
    assert instance.http("GET", f"/q/{queue}?max=1&callback=f")[2].startswith(b'f([{"count": 0, ')
    assert len(json.loads(instance.http("GET", f"/q/{queue}", None, {"RestMQ-Max": "1"})[2])) == 1
    leased = ["count", "key", "value", "deliveries", "lease"]
    assert list(json.loads(instance.http("GET", f"/q/{queue}", "lease=1h", FORM)[2])) == leased
    assert instance.http("GET", f"/q/{queue}", "lease=nonsense", FORM)[0] == 400
    body = json.loads(instance.http("POST", f"/q/{queue}/take", "lease=1h&max=7", FORM)[2])
    assert [list(one) for one in body] == [leased]


# -- waiting


class Asked(threading.Thread):
    """A request that waits for its answer beside the test."""

    def __init__(self, instance: Any, method: str, path: str, body: Any = None) -> None:
        super().__init__(daemon=True)
        self.said: Any = None
        self._asked = (instance, method, path, body)
        self.start()

    def run(self) -> None:
        """Ask."""
        instance, method, path, body = self._asked
        self.said = instance.http(method, path, body)

    def answer(self) -> Any:
        """What came."""
        self.join(PATIENCE)
        assert self.said is not None
        return self.said


@pytest.mark.parametrize(("method", "path"), WAYS)
def test_wait_brings_the_first_that_comes_and_else_what_no_wait_would(
    instance: Any, queue: str, method: str, path: str
) -> None:
    where = path.format(queue)
    batch_add(instance, queue, "there")
    assert json.loads(instance.http(method, where + "wait=60")[2])["value"] == "there"
    begun = time.monotonic()
    assert instance.http(method, where + "wait=0.3")[0] == (404 if path.startswith("/?") else 204)
    assert time.monotonic() - begun > 0.29
    asked = Asked(instance, method, where + "wait=20")
    until(lambda: waiters(instance, queue) == 1)
    instance.form(f"/q/{queue}", "value=late")
    assert asked.answer()[2] == b'{"count": 0, "key": "%b:2", "value": "late"}\r\n' % queue.encode()
    assert lengths(instance, queue) == [0, 0, 0]


@pytest.mark.parametrize("wait", ["61", "60.001", "2m", "-1", "x"])
def test_a_wait_out_of_range_takes_nothing(instance: Any, queue: str, wait: str) -> None:
    batch_add(instance, queue, "stays")
    for method, path in WAYS:
        assert problem(instance.http(method, path.format(queue) + f"wait={wait}")) == (400, "bad-option")
    assert lengths(instance, queue) == [1, 0, 0]


def test_a_wait_of_nothing_is_none(instance: Any, queue: str) -> None:
    assert get(instance, queue, "?wait=0") is None
    batch_add(instance, queue, "x")
    assert instance.http("GET", f"/q/{queue}?wait=0")[2] == (
        b'{"count": 0, "key": "%b:1", "value": "x"}\r\n' % queue.encode()
    )


def test_who_waits_is_served_in_order_of_coming_over_all_instances(instance: Any, other: Any, queue: str) -> None:
    asked = []
    for place, where in enumerate((instance, other, other, instance), 1):
        asked.append(Asked(where, "GET", f"/q/{queue}?wait=60"))
        until(lambda place=place: waiters(instance, queue) == place)
    for value, one in zip("abcd", asked):  # one at a time: two that are woken at once may take in either order
        other.form(f"/q/{queue}", f"value={value}")
        assert json.loads(one.answer()[2])["value"] == value


def test_who_waits_comes_after_live_consumers(instance: Any, queue: str) -> None:
    asked = Asked(instance, "GET", f"/q/{queue}?wait=3")
    until(lambda: waiters(instance, queue) == 1)
    live = Listener(instance.port, f"/c/{queue}")
    instance.form(f"/q/{queue}", "value=for+the+live")
    live.until(lambda stream: b"for the live" in stream.body)
    assert asked.answer()[0] == 204


def test_who_leaves_while_waiting_loses_nothing(instance: Any, queue: str) -> None:
    for query in ("wait=60", "wait=60&lease=1h", "wait=60&max=5"):
        with socket.create_connection(("127.0.0.1", instance.port)) as link:
            link.sendall(f"GET /q/{queue}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda: waiters(instance, queue) == 1)
        until(lambda: waiters(instance, queue) == 0)
        batch_add(instance, queue, "stays")
        assert lengths(instance, queue) == [1, 0, 0]
        assert get(instance, queue)["value"] == "stays"


def test_max_and_lease_hold_for_who_waits(instance: Any, queue: str) -> None:
    asked = Asked(instance, "GET", f"/q/{queue}?wait=60&max=3&lease=1h")
    until(lambda: waiters(instance, queue) == 1)
    batch_add(instance, queue, "a", "b", "c", "d")
    found = json.loads(asked.answer()[2])
    assert 1 <= len(found) <= 3
    assert [one["deliveries"] for one in found] == [1] * len(found)
    assert lengths(instance, queue) == [4 - len(found), 0, len(found)]
    assert get(instance, queue, "?wait=60&max=2&lease=1h")


def test_one_that_is_delayed_comes_to_who_waits_when_it_is_due(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=x&delay=300ms")
    assert get(instance, queue, "?wait=30")["value"] == "x"


def test_an_instance_that_ends_answers_204_to_who_waits(start: Any, queue: str) -> None:
    one = start()
    asked = [Asked(one, "GET", f"/q/{queue}?wait=60{more}") for more in ("", "&lease=5", "&max=2")]
    until(lambda: waiters(one, queue) == 3)
    one.stop()
    assert [each.answer()[0] for each in asked] == [204, 204, 204]


def test_while_taking_is_stopped_it_is_503_and_who_waits_waits_on(instance: Any, core: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b")
    lease = get(instance, queue, "?lease=1h")["lease"]
    reactor.wait(core.settings.set_status, queue.encode(), False, ("pull",), 60_000)
    for method, path in WAYS:
        for more in ("", "max=5", "lease=5"):
            status, headers, body = instance.http(method, path.format(queue) + more)
            assert problem((status, headers, body)) == (503, "stopped")
            assert 30 < int(headers["retry-after"]) <= 60
    command = json.dumps({"cmd": "take", "queue": queue})
    assert problem(instance.http("POST", "/queue", command, TEXT)) == (503, "stopped")
    asked = [Asked(instance, "GET", f"/q/{queue}?wait=60"), Asked(instance, "GET", f"/q/{queue}?wait=0.2")]
    assert asked[1].answer()[0] == 204
    assert instance.http("POST", f"/q/{queue}/1?lease=1m", None, match(lease))[0] == 200  # acknowledging goes on
    assert b'"deleted": true' in instance.http("DELETE", f"/q/{queue}/1", None, match(lease))[2]
    assert asked[0].said is None
    reactor.wait(core.settings.set_status, queue.encode(), True, ("pull",))
    assert json.loads(asked[0].answer()[2])["value"] == "b"


# -- leases


@pytest.mark.parametrize(("method", "path"), WAYS)
def test_a_lease_hides_the_element_and_its_answer_tells_what_to_acknowledge(
    instance: Any, queue: str, method: str, path: str
) -> None:
    batch_add(instance, queue, "a")
    instance.http("POST", "/queue", json.dumps({"cmd": "get", "queue": queue}), TEXT)
    status, headers, body = instance.http(method, path.format(queue) + "lease=1h")
    lease = json.loads(body)["lease"]
    assert body == b'{"count": 1, "key": "%b:1", "value": "a", "deliveries": 1, "lease": "%b"}\r\n' % (
        queue.encode(),
        lease.encode(),
    )
    assert (status, headers["etag"], lease[:4]) == (200, f'"{lease}"', "1.1@")
    assert lengths(instance, queue) == [0, 0, 1]
    assert get(instance, queue) is None
    assert instance.http("DELETE", f"/q/{queue}/1", None, match(lease))[2] == (
        b'{"queue": "%b", "deleted": true, "key": "%b:1"}\r\n' % ((queue.encode(),) * 2)
    )
    assert json.loads(instance.http("GET", f"/stats/{queue}")[2])["acked"] == 1
    assert b'"deleted": false' in instance.http("DELETE", f"/q/{queue}/1", None, match(lease))[2]


@pytest.mark.parametrize("lease", ["0", "0ms", "24.1h", "86400.001", "2d", "-1", "x"])
def test_a_lease_out_of_range_takes_nothing(instance: Any, queue: str, lease: str) -> None:
    batch_add(instance, queue, "stays")
    for method, path in WAYS:
        assert problem(instance.http(method, path.format(queue) + f"lease={lease}")) == (400, "bad-option")
    assert lengths(instance, queue) == [1, 0, 0]
    assert get(instance, queue, "?lease=24h")["value"] == "stays"


def test_a_lease_that_ends_puts_the_element_back_at_its_key_s_place(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b")
    first = get(instance, queue, "?lease=300ms")
    until(lambda: lengths(instance, queue) == [2, 0, 0])
    again = get(instance, queue, "?lease=1h")
    assert (again["value"], again["deliveries"], again["lease"]) == ("a", 2, first["lease"].replace("1.1@", "1.2@"))
    assert get(instance, queue)["value"] == "b"


def test_a_slow_worker_cannot_delete_what_another_now_has(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a")
    slow = get(instance, queue, "?lease=100ms")["lease"]
    until(lambda: lengths(instance, queue) == [1, 0, 0])
    for method in ("DELETE", "POST"):  # it waits
        assert problem(instance.http(method, f"/q/{queue}/1?" + "lease=5" * (method == "POST"), None, match(slow))) == (
            412,
            "lease-lost",
        )
    now = get(instance, queue, "?lease=1h")["lease"]
    assert problem(instance.http("DELETE", f"/q/{queue}/1", None, match(slow))) == (412, "lease-lost")
    assert problem(instance.http("POST", f"/q/{queue}/1?lease=0", None, match(slow))) == (412, "lease-lost")
    assert lengths(instance, queue) == [0, 0, 1]
    assert b'"deleted": true' in instance.http("DELETE", f"/q/{queue}/1", None, match(now))[2]


@pytest.mark.parametrize(
    ("given", "status", "word"),
    [
        ("*", 400, "bad-key"),
        ('W/"1.1@{}"', 400, "bad-key"),
        ('"1.1@{}", "2.1@{}"', 400, "bad-key"),
        ("", 400, "bad-key"),
        ('""', 400, "bad-key"),
        ('"1.1"', 400, "bad-key"),
        ('"01.1@{}"', 400, "bad-key"),
        ('"{}:1"', 400, "bad-key"),
        ('"2.1@{}"', 412, "lease-lost"),
        ('"1.2@{}"', 412, "lease-lost"),
        ('"1.1@another"', 412, "lease-lost"),
    ],
)
def test_if_match_is_one_lease_of_this_element_or_nothing_is_done(
    instance: Any, queue: str, given: str, status: int, word: str
) -> None:
    batch_add(instance, queue, "a")
    epoch = get(instance, queue, "?lease=1h")["lease"].partition("@")[2]
    header = {"If-Match": given.replace("{}", epoch)}
    for method, query in (("DELETE", ""), ("POST", "?lease=5"), ("POST", "?lease=0&error=x&delay=1h")):
        assert problem(instance.http(method, f"/q/{queue}/1{query}", None, header)) == (status, word)
    said = look(instance, queue, 1)
    assert (said["state"], "errors" in said) == ("leased", False)


@pytest.mark.parametrize("state", ["waiting", "delayed", "leased", "dead"])
def test_delete_takes_an_element_in_whatever_state(instance: Any, core: Any, queue: str, state: str) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"max_deliveries": "1"})
    instance.form(f"/q/{queue}", "value=a" + "&delay=1h" * (state == "delayed"))
    if state in ("leased", "dead"):
        get(instance, queue, "?lease=1h")
    if state == "dead":
        instance.http("POST", f"/q/{queue}/1?lease=0&error=broken")
    assert look(instance, queue, 1)["state"] == state
    assert b'"deleted": true' in instance.http("DELETE", f"/q/{queue}/1")[2]
    assert instance.http("GET", f"/q/{queue}/1")[0] == 404
    assert b'"deleted": false' in instance.http("DELETE", f"/q/{queue}/1")[2]


# -- POST /q/NAME/N


@pytest.mark.parametrize("matched", [True, False])
def test_a_lease_is_prolonged(instance: Any, queue: str, matched: bool) -> None:
    batch_add(instance, queue, "a")
    lease = get(instance, queue, "?lease=2s")["lease"]
    status, headers, body = instance.http("POST", f"/q/{queue}/1?lease=1h", None, match(lease) if matched else {})
    q = queue.encode()
    assert (status, headers["etag"]) == (200, f'"{lease}"')
    assert body == b'{"queue": "%b", "key": "%b:1", "deliveries": 1, "lease": "%b"}\r\n' % (q, q, lease.encode())
    assert 3000 < look(instance, queue, 1)["lease_ends_in"] <= 3600
    assert instance.form(f"/q/{queue}/1", "lease=5")[0] == 200
    assert look(instance, queue, 1)["lease_ends_in"] <= 5


@pytest.mark.parametrize("matched", [True, False])
def test_lease_0_gives_it_back_at_once_and_is_no_failed_try(
    instance: Any, core: Any, queue: str, matched: bool
) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"max_deliveries": "1"})
    batch_add(instance, queue, "a", "b")
    for tries in (1, 2, 3):
        got = get(instance, queue, "?lease=1h")
        assert (got["value"], got["deliveries"]) == ("a", tries)
        answer = instance.http("POST", f"/q/{queue}/1?lease=0", None, match(got["lease"]) if matched else {})
        assert answer[0::2] == (200, b'{"queue": "%b", "key": "%b:1", "lease": null}\r\n' % ((queue.encode(),) * 2))
        assert "etag" not in answer[1]
        assert lengths(instance, queue) == [2, 0, 0]


def test_given_back_with_a_delay_it_comes_later(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b")
    lease = get(instance, queue, "?max=2&lease=1h")[0]["lease"]
    assert instance.http("POST", f"/q/{queue}/1?lease=0&delay=1h", None, match(lease))[0] == 200
    assert instance.form(f"/q/{queue}/2", "lease=0&delay=300ms")[0] == 200
    assert look(instance, queue, 1)["state"] == "delayed"
    assert 3000 < look(instance, queue, 1)["due_in"] <= 3600
    again = get(instance, queue, "?lease=1h&wait=30")
    assert (again["value"], again["deliveries"]) == ("b", 2)


def test_a_try_has_failed_when_it_is_given_back_with_an_error_or_its_lease_ended(
    instance: Any, core: Any, queue: str
) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"max_deliveries": "3", "backoff": "fixed:1"})
    batch_add(instance, queue, "a")
    get(instance, queue, "?lease=1h")
    instance.http("POST", f"/q/{queue}/1?lease=0")  # no failure
    get(instance, queue, "?lease=1h&wait=30")
    assert instance.form(f"/q/{queue}/1", "lease=0&error=no+water%2C+ol%C3%A1&delay=1ms") == (
        200,
        b'{"queue": "%b", "key": "%b:1", "lease": null}\r\n' % ((queue.encode(),) * 2),
    )
    assert get(instance, queue, "?lease=100ms&wait=30")["deliveries"] == 3  # ends by itself
    assert get(instance, queue, "?lease=1h&wait=30")["deliveries"] == 4
    instance.http("POST", f"/q/{queue}/1?lease=0&error=again")
    said = look(instance, queue, 1)
    assert (said["state"], said["deliveries"]) == ("dead", 4)
    assert (said["errors"][0], said["errors"][-1]) == ("no water, olá", "again")
    assert get(instance, queue) is None


@pytest.mark.parametrize("character", ["x", "é", "€", "\N{PILE OF POO}"])
@pytest.mark.parametrize("way", ["form", "ack", "command"])
def test_a_long_error_is_cut_between_characters(
    instance: Any, redis_server: Any, queue: str, character: str, way: str
) -> None:
    size = len(character.encode())
    batch_add(instance, queue, "a")
    told = ["-" * shift + character * (200 // size - 1) + tail for shift in range(5) for tail in ("", character * 50)]
    for text in told:
        lease = get(instance, queue, "?lease=1h")["lease"]
        if way == "form":
            answer = instance.form(f"/q/{queue}/1", urlencode({"lease": 0, "error": text}))
        elif way == "ack":
            answer = instance.http("POST", f"/q/{queue}/ack", json.dumps({"nack": [{"lease": lease, "error": text}]}))
        else:
            command = {"cmd": "touch", "queue": queue, "key": f"{queue}:1", "lease": 0, "error": text}
            answer = instance.http("POST", "/queue", json.dumps(command))
        assert answer[0] == 200, answer
    kept = [text.encode()[:200].decode("utf-8", "ignore") for text in told]
    while sum(len(text.encode()) + 1 for text in kept) > 2000:
        kept.pop(0)
    assert look(instance, queue, 1)["errors"] == kept
    with redis_server.client() as link:
        stored: Any = link.hget(f"restmq:{{{queue}}}:x", "1")
    stored.decode("utf-8")


def test_an_error_without_a_delay_comes_again_when_backoff_says(instance: Any, core: Any, queue: str) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"backoff": "fixed:3600000"})
    batch_add(instance, queue, "a")
    get(instance, queue, "?lease=1h")
    instance.http("POST", f"/q/{queue}/1?lease=0&error=x")
    assert lengths(instance, queue) == [0, 1, 0]


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("", 400, "bad-option"),
        ("?lease=", 400, "bad-option"),
        ("?lease=25h", 400, "bad-option"),
        ("?lease=x", 400, "bad-option"),
        ("?lease=5&delay=5", 400, "bad-option"),
        ("?lease=5&error=x", 400, "bad-option"),
        ("?lease=0&delay=367d", 400, "bad-option"),
        ("?delay=5", 400, "bad-option"),
        ("?lease=0&eror=x", 400, "bad-option"),
        ("?lease=0&error=%ff", 400, "bad-option"),
    ],
)
def test_a_wrong_touch_does_nothing(instance: Any, queue: str, query: str, status: int, word: str) -> None:
    batch_add(instance, queue, "a")
    get(instance, queue, "?lease=1h")
    assert problem(instance.http("POST", f"/q/{queue}/1{query}")) == (status, word)
    said = look(instance, queue, 1)
    assert (said["state"], said["deliveries"], "errors" in said) == ("leased", 1, False)
    assert said["lease_ends_in"] > 3000


def test_what_is_not_leased_is_412_and_what_is_gone_404(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a")
    for lease in ("0", "5"):
        assert problem(instance.http("POST", f"/q/{queue}/1?lease={lease}")) == (412, "lease-lost")
        assert problem(instance.http("POST", f"/q/{queue}/2?lease={lease}")) == (404, "not-found")
        assert problem(instance.http("POST", f"/q/{queue}never/1?lease={lease}")) == (404, "not-found")
    assert lengths(instance, queue) == [1, 0, 0]


# -- looking at one


def test_looking_at_one_tells_all_and_touches_nothing(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a")
    instance.http("POST", "/queue", json.dumps({"cmd": "get", "queue": queue}), TEXT)
    for _ in range(2):
        said = look(instance, queue, 1)
        assert list(said) == ["queue", "key", "value", "state", "deliveries", "count", "age"]
        assert 0 <= said.pop("age") < 60
        assert list(said.values()) == [queue, f"{queue}:1", "a", "waiting", 0, 1]
    assert lengths(instance, queue) == [1, 0, 0]
    assert instance.http("GET", f"/q/{queue}/1?callback=f")[2].startswith(b'f({"queue": ')
    for number, status in ((2, 404), (0, 400)):
        assert instance.http("GET", f"/q/{queue}/{number}")[0] == status
    assert instance.http("GET", f"/q/{queue}/1?lease=5")[0] == 400


def test_looking_at_one_tells_when_its_state_ends_by_itself(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=a&ttl=1000")
    instance.form(f"/q/{queue}", "value=b&delay=2000")
    instance.form(f"/q/{queue}", "value=c&ttl=1h")
    get(instance, queue, "?lease=3000")
    for number, word, seconds in ((1, "lease_ends_in", 3000), (2, "due_in", 2000), (3, "expires_in", 3600)):
        said = look(instance, queue, number)
        assert list(said)[7:] == [word]
        assert seconds - 60 < said[word] <= seconds


# -- many leases


def test_many_are_acknowledged_and_given_back_at_any_instance(instance: Any, other: Any, queue: str) -> None:
    batch_add(instance, queue, *"abcdef")
    leases = [one["lease"] for one in get(instance, queue, "?max=6&lease=1h")]
    instance.http("DELETE", f"/q/{queue}/2")
    instance.http("POST", f"/q/{queue}/5?lease=0")
    document = {
        "ack": [leases[0], leases[1], f'"{leases[2]}"'],
        "nack": [
            {"lease": leases[3], "delay": "1h", "error": "late"},
            {"lease": leases[4]},
            {"lease": leases[5], "error": ""},
        ],
    }
    status, headers, body = other.http(
        "POST", f"/q/{queue}/ack", json.dumps(document), {"Content-Type": "application/json"}
    )
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (
        body == json.dumps({"queue": queue, "acked": 2, "nacked": 2, "lost": [leases[1], leases[4]]}).encode() + b"\r\n"
    )
    assert lengths(instance, queue) == [2, 1, 0]
    assert look(instance, queue, 4)["errors"] == ["late"]
    assert "errors" not in look(instance, queue, 6)
    assert json.loads(instance.http("GET", f"/stats/{queue}")[2])["acked"] == 2


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_the_body_is_json_whatever_its_type(instance: Any, queue: str, kind: str) -> None:
    batch_add(instance, queue, "a")
    lease = get(instance, queue, "?lease=1h")["lease"]
    answer = instance.http("POST", f"/q/{queue}/ack?callback=f", json.dumps({"ack": [lease]}), {"Content-Type": kind})
    assert answer[2] == b'f({"queue": "%b", "acked": 1, "nacked": 0, "lost": []});\r\n' % queue.encode()


def test_a_thousand_of_each_go_in_one_request(instance: Any, queue: str) -> None:
    batch_add(instance, queue, *map(str, range(2000)))
    acks = [one["lease"] for one in get(instance, queue, "?max=1000&lease=1h")]
    nacks = [{"lease": one["lease"], "delay": 3600} for one in get(instance, queue, "?max=1000&lease=1h")]
    for document in ({"ack": [*acks, "1.1@x"]}, {"nack": [*nacks, {"lease": "1.1@x"}]}):
        assert problem(instance.http("POST", f"/q/{queue}/ack", json.dumps(document))) == (413, "too-large")
    said = instance.http("POST", f"/q/{queue}/ack", json.dumps({"ack": acks, "nack": nacks}))[2]
    assert said == b'{"queue": "%b", "acked": 1000, "nacked": 1000, "lost": []}\r\n' % queue.encode()
    assert lengths(instance, queue) == [0, 1000, 0]


@pytest.mark.parametrize(
    ("body", "word", "said"),
    [
        ("", "bad-request", "not JSON"),
        ("{", "bad-request", "not JSON"),
        ("[]", "bad-request", "send an object"),
        ("{}", "bad-request", "send an object"),
        ('{"acks": []}', "bad-request", "did you mean 'ack'?"),
        ('{"ack": "L"}', "bad-request", "'ack' must be a list"),
        ('{"ack": ["L", 5]}', "bad-request", "lease 2 of 'ack' must be a string"),
        ('{"ack": ["L", "1.1"]}', "bad-key", "'1.1' is not a lease"),
        ('{"ack": ["L", "\\ud800"]}', "bad-request", "lone surrogate"),
        ('{"ack": ["L", "L"]}', "bad-request", "twice"),
        ('{"ack": ["L", "\\"L\\""]}', "bad-request", "twice"),
        ('{"ack": ["L"], "nack": [{"lease": "L"}]}', "bad-request", "twice"),
        ('{"ack": ["L"], "nack": {}}', "bad-request", "'nack' must be a list"),
        ('{"ack": ["L"], "nack": ["1.1@x"]}', "bad-request", "entry 1 of 'nack' must be an object"),
        ('{"ack": ["L"], "nack": [{}]}', "bad-request", "entry 1 of 'nack' must be an object with a lease"),
        ('{"ack": ["L"], "nack": [{"lease": 1}]}', "bad-request", "the lease of entry 1"),
        ('{"ack": ["L"], "nack": [{"lease": "x"}]}', "bad-key", "'x' is not a lease"),
        ('{"ack": ["L"], "nack": [{"lease": "2.1@x", "dely": 5}]}', "bad-request", "did you mean 'delay'?"),
        ('{"ack": ["L"], "nack": [{"lease": "2.1@x", "delay": -5}]}', "bad-option", "delay"),
        ('{"ack": ["L"], "nack": [{"lease": "2.1@x", "delay": "400d"}]}', "bad-option", "delay"),
        ('{"ack": ["L"], "nack": [{"lease": "2.1@x", "delay": true}]}', "bad-option", "delay"),
        ('{"ack": ["L"], "nack": [{"lease": "2.1@x", "error": 5}]}', "bad-request", "the error of entry 1"),
        ('{"ack": ["L"], "nack": [{"lease": "2.1@x", "error": "\\udfff"}]}', "bad-request", "lone surrogate"),
    ],
)
def test_a_wrong_acknowledgement_is_named_and_does_nothing(
    instance: Any, queue: str, body: str, word: str, said: str
) -> None:
    batch_add(instance, queue, "a")
    lease = get(instance, queue, "?lease=1h")["lease"]
    answer = instance.http("POST", f"/q/{queue}/ack", body.replace("L", lease))
    assert problem(answer) == (400, word)
    assert said in json.loads(answer[2])["error"]
    assert lengths(instance, queue) == [0, 0, 1]
    assert instance.http("POST", f"/q/{queue}/ack?leese=5", json.dumps({"ack": [lease]}))[0] == 400
    assert lengths(instance, queue) == [0, 0, 1]


# -- who is gone when the answer comes


@pytest.mark.parametrize("query", ["lease=1h", "max=5", "max=5&lease=1h", "lease=1h&wait=9", "max=5&wait=9"])
def test_what_comes_for_a_client_that_has_left_goes_back(own: Any, start: Any, queue: str, query: str) -> None:
    one = start("[server]\naccess_log = yes\n[redis]\ndeadline = 60s\n", own.address)
    batch_add(one, queue, "a", "b")
    with own.client() as store:
        store.client_pause(20_000, all=False)
        with socket.create_connection(("127.0.0.1", one.port)) as link:
            link.sendall(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
                + f"POST /q/{queue}/take?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            assert link.recv(1000)  # the other was read with it, and is under way
            # Closed with a reset: no half of the connection goes on.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(lambda: " 499 0" in one.log.read_text())
        store.client_unpause()
    until(lambda: lengths(one, queue) == [2, 0, 0])
    assert [get(one, queue)["key"] for _ in range(2)] == [f"{queue}:1", f"{queue}:2"]


# -- access


def test_leases_and_looking_need_the_consumer_s_section(start: Any, queue: str) -> None:
    one = start("[rest:consumer]\nhosts_deny = all\n")
    one.form(f"/q/{queue}", "value=stays")
    for method, path in (
        ("GET", f"/q/{queue}/1"),
        ("POST", f"/q/{queue}/1?lease=5"),
        ("DELETE", f"/q/{queue}/1"),
        ("POST", f"/q/{queue}/ack"),
        ("POST", f"/q/{queue}/take?lease=5"),
        ("GET", f"/q/{queue}?lease=5&max=3&wait=5"),
        ("GET", f"/?queue={queue}&lease=5"),
    ):
        assert one.http(method, path)[0] == 403, path
    touch = json.dumps({"cmd": "touch", "queue": queue, "key": f"{queue}:1", "lease": 5})
    assert one.http("POST", "/queue", touch, TEXT)[0] == 403


def test_what_only_looks_ahead_leases_nothing_and_get_consumes_no_holds_for_options_too(start: Any, queue: str) -> None:
    one = start("[server]\nget_consumes = no\n")
    batch_add(one, queue, "stays")
    for query in ("?lease=5", "?max=5", "?wait=5"):
        assert one.http("GET", f"/q/{queue}{query}")[0] == 405
        assert one.http("GET", f"/?queue={queue}&{query[1:]}")[0] == 405
        prefetch = one.http("POST", f"/q/{queue}/take{query}", None, {"Sec-Purpose": "prefetch"})
        assert problem(prefetch) == (503, "prefetch")
    assert lengths(one, queue) == [1, 0, 0]
    assert json.loads(one.http("POST", f"/q/{queue}/take?lease=5")[2])["value"] == "stays"
