"""What is put off until a time, with at= beside delay=, and what is put aside at once, with dead=1."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from restmq.model import options
from restmq.model.errors import BadOption
from tests.support.requests import BATCH, JSON, TEXT, batch_add, lengths, taken
from tests.support.websocket import Talker

HOUR = 3_600_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("1794204000", 1794204000000),
        ("1794204000.25", 1794204000250),
        ("2026-11-09T06:00:00Z", 1794204000000),
        ("2026-11-09t06:00:00.5z", 1794204000500),
        ("2026-11-09 07:30:00+01:30", 1794204000000),
        ("2026-11-08T23:00:00-07:00", 1794204000000),
        ("2026-11-09T05:59:60Z", 1794204000000),
        ("2026-11-09T06:00:00.1234567891Z", 1794204000123),
        ("1794204000.250000000001", 1794204000250),
        ("1969-12-31T23:59:59Z", 0),
        ("0000-02-29T00:00:00+23:59", 0),
    ],
)
def test_a_time_is_unix_seconds_or_as_rfc_3339_has_it(text: str, ms: int) -> None:
    assert options.at(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "tomorrow", "-5", "1e9", "٢", "2026-11-09", "2026-11-09T06:00:00", "2026-11-09T06:00:00 01:00"),
        *("2026-13-09T06:00:00Z", "2026-02-30T06:00:00Z", "2026-11-09T24:00:00Z", "2026-11-09T06:00:61Z"),
        "2026-11-09T06:00:00+24:00",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="at is not a time"):
        options.at(text)


def now(link: Any) -> int:
    """Redis' clock, in ms."""
    seconds, micros = link.time()
    return int(seconds * 1000 + micros // 1000)


def due(link: Any, queue: str, number: int = 1) -> int | None:
    """The ms at which a delayed element is due, by Redis' clock."""
    link.select(0)
    found = link.zscore(f"restmq:{{{queue}}}:d", str(number))
    return None if found is None else int(found)


def test_every_add_knows_at(instance: Any, link: Any, queue: str) -> None:
    at = now(link) + HOUR
    seconds = f"{at / 1000:.3f}"
    written = datetime.fromtimestamp(at / 1000, timezone(timedelta(hours=2))).isoformat().replace("+", "%2B")
    assert instance.http("POST", f"/q/{queue}?at={seconds}", b"x", TEXT)[0] == 200
    assert instance.form(f"/q/{queue}", f"value=x&at={written}")[0] == 200
    assert instance.http("POST", f"/q/{queue}", b"a\nb", {**BATCH, "RestMQ-At": seconds})[0] == 200
    assert instance.form("/", f"queue={queue}&value=x&at={seconds}")[0] == 200
    command = f'{{"cmd": "add", "queue": "{queue}", "value": "x", "at": {seconds}}}'
    assert instance.http("POST", "/queue", command, JSON)[0] == 200
    assert {due(link, queue, number) for number in range(1, 7)} == {at}
    assert lengths(instance, queue) == [0, 6, 0]


def test_what_was_put_off_comes_at_its_time(instance: Any, link: Any, queue: str) -> None:
    instance.http("POST", f"/q/{queue}?at={(now(link) + 300) / 1000:.3f}", b"later", TEXT)
    assert instance.http("GET", f"/q/{queue}")[0] == 204
    began = time.monotonic()
    assert taken(instance.http("GET", f"/q/{queue}?wait=20"))["value"] == "later"
    assert time.monotonic() - began > 0.1


def test_a_time_that_is_over_is_no_delay(instance: Any, link: Any, queue: str) -> None:
    for at in ("5", "2001-01-01T00:00:00Z", f"{now(link) / 1000 - 1:.3f}"):
        assert instance.http("POST", f"/q/{queue}?at={at}", b"x", TEXT)[0] == 200
    assert lengths(instance, queue) == [3, 0, 0]
    assert "lease" in taken(instance.http("GET", f"/q/{queue}?lease=1h"))
    assert instance.form(f"/q/{queue}/1", "lease=0&at=5")[0] == 200
    assert lengths(instance, queue) == [3, 0, 0]


def test_a_lease_is_given_back_until_a_time(instance: Any, link: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b", "c")
    leases = [one["lease"] for one in taken(instance.http("GET", f"/q/{queue}?lease=1h&max=3"))]
    at = now(link) + HOUR
    assert instance.form(f"/q/{queue}/1", f"lease=0&at={at / 1000:.3f}")[0] == 200
    body = {"nack": [{"lease": leases[1], "at": at / 1000, "error": "why"}]}
    assert taken(instance.http("POST", f"/q/{queue}/ack", json.dumps(body), JSON))["nacked"] == 1
    touch = {"cmd": "touch", "queue": queue, "key": f"{queue}:3", "lease": 0, "at": at / 1000}
    assert taken(instance.http("POST", "/queue", json.dumps(touch), JSON))["lease"] is None
    assert [due(link, queue, number) for number in (1, 2, 3)] == [at] * 3


def test_delay_and_at_do_not_go_together_and_a_year_is_the_most(instance: Any, link: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b")
    leases = [one["lease"] for one in taken(instance.http("GET", f"/q/{queue}?lease=1h&max=2"))]
    far = f"{now(link) / 1000 + 367 * 86400:.0f}"
    both = ("delay=5&at=5", f"delay=0&at={far}", f"at={far}", "at=99999999999999", "at=x", "at=")
    for asked in both:
        for path, body in (
            (f"/q/{queue}", f"value=x&{asked}"),
            ("/", f"queue={queue}&value=x&{asked}"),
            (f"/q/{queue}/1", f"lease=0&{asked}"),
        ):
            status, answer = instance.form(path, body)
            assert status == 400 and b"bad-option" in answer, (path, body)
    for more in ({"delay": 5, "at": 5}, {"at": int(far)}, {"at": ""}, {"at": None}, {"at": True}):
        acks = json.dumps({"ack": [leases[0]], "nack": [{"lease": leases[1], **more}]})
        assert instance.http("POST", f"/q/{queue}/ack", acks, JSON)[0] == 400
        for command in (
            {"cmd": "add", "queue": queue, "value": "x", **more},
            {"cmd": "touch", "queue": queue, "key": f"{queue}:1", "lease": 0, **more},
        ):
            assert "error" in taken(instance.http("POST", "/queue", json.dumps(command), JSON))
    assert lengths(instance, queue) == [0, 0, 2]


def test_none_of_a_thousand_is_given_back_when_one_is_too_far(instance: Any, link: Any, queue: str) -> None:
    batch_add(instance, queue, *(str(number) for number in range(1000)))
    leases = [one["lease"] for one in taken(instance.http("GET", f"/q/{queue}?lease=1h&max=1000"))]
    nacks: list[dict[str, Any]] = [{"lease": lease, "at": 5} for lease in leases]
    nacks[700]["at"] = now(link) / 1000 + 367 * 86400
    assert instance.http("POST", f"/q/{queue}/ack", json.dumps({"nack": nacks}), JSON)[0] == 400
    assert lengths(instance, queue) == [0, 0, 1000]
    nacks[700]["at"] = now(link) / 1000 + 3600
    assert taken(instance.http("POST", f"/q/{queue}/ack", json.dumps({"nack": nacks}), JSON))["nacked"] == 1000
    assert lengths(instance, queue) == [999, 1, 0]
    assert due(link, queue, 701) is not None


# -- dead


def ledger(instance: Any, queue: str) -> dict[str, int]:
    """The books, which are balanced."""
    books: dict[str, int] = json.loads(instance.http("GET", f"/ledger/{queue}")[2])
    assert books["imbalance"] == 0
    return books


def test_an_element_is_put_aside_at_once(instance: Any, queue: str) -> None:
    batch_add(instance, queue, *"abcdef")
    leases = [one["lease"] for one in taken(instance.http("GET", f"/q/{queue}?lease=1h&max=5"))]
    match = {"If-Match": f'"{leases[0]}"'}
    assert instance.http("POST", f"/q/{queue}/1?dead=1&error=no+such+file", None, match)[0] == 200
    assert instance.form(f"/q/{queue}/2", "lease=0&dead=1")[0] == 200
    answer = instance.http("POST", f"/q/{queue}/3", '{"dead": true, "error": "broken"}', JSON)
    assert taken(answer) == {"queue": queue, "key": f"{queue}:3", "lease": None}
    body = {"ack": [], "nack": [{"lease": leases[3], "dead": True, "error": "why"}]}
    assert taken(instance.http("POST", f"/q/{queue}/ack", json.dumps(body), JSON))["nacked"] == 1
    touch = {"cmd": "touch", "queue": queue, "key": f"{queue}:5", "dead": True, "match": leases[4]}
    assert taken(instance.http("POST", "/queue", json.dumps(touch), JSON))["lease"] is None
    books = ledger(instance, queue)
    assert (books["waiting"], books["leased"], books["dead"], books["bytes"]) == (1, 0, 5, 6)
    dead = taken(instance.http("GET", f"/dead/{queue}"))["elements"]
    assert [one.get("errors") for one in dead] == [["no such file"], None, ["broken"], ["why"], None]
    assert len(taken(instance.http("POST", f"/dead/{queue}", '{"kick": 5}', JSON))["kicked"]) == 5
    assert ledger(instance, queue)["waiting"] == 6


def test_dead_0_puts_nothing_aside(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a")
    taken(instance.http("GET", f"/q/{queue}?lease=1h"))
    assert instance.form(f"/q/{queue}/1", "lease=0&dead=0")[0] == 200
    assert ledger(instance, queue)["waiting"] == 1


def test_only_what_is_leased_is_put_aside(instance: Any, queue: str) -> None:
    batch_add(instance, queue, "a", "b")
    lease = taken(instance.http("GET", f"/q/{queue}?lease=1h"))["lease"]
    assert instance.form(f"/q/{queue}/2", "dead=1")[0] == 412
    assert instance.form(f"/q/{queue}/9", "dead=1")[0] == 404
    assert instance.http("POST", f"/q/{queue}/1?dead=1", None, {"If-Match": '"1.9@other"'})[0] == 412
    together = ("dead=1&lease=5", "dead=1&delay=5", "dead=1&at=5", "dead=1&dead=1")
    for wrong in ("dead=2", "dead=", "dead=yes", "dead=0", *together):
        status, answer = instance.form(f"/q/{queue}/1", wrong)
        assert status == 400 and b"bad-option" in answer, wrong
    for more in ({"dead": 1}, {"dead": "true"}, {"dead": None}, {"dead": True, "delay": 5}, {"dead": True, "at": 5}):
        body = json.dumps({"nack": [{"lease": lease, **more}]})
        assert instance.http("POST", f"/q/{queue}/ack", body, JSON)[0] == 400
        touch = {"cmd": "touch", "queue": queue, "key": f"{queue}:1", "lease": 0, **more}
        assert "error" in taken(instance.http("POST", "/queue", json.dumps(touch), JSON))
    assert (ledger(instance, queue)["leased"], ledger(instance, queue)["dead"]) == (1, 0)


def test_who_leases_on_a_websocket_puts_aside_and_is_given_the_next(instance: Any, queue: str) -> None:
    instance.form(f"/p/{queue}", "policy=roundrobin")
    batch_add(instance, queue, "a", "b")
    with Talker(instance.port, f"/ws/{queue}?lease=1h") as socket:
        first = json.loads(socket.recv())
        touch = {"cmd": "touch", "queue": queue, "key": first["key"], "match": first["lease"], "dead": True}
        socket.send(json.dumps(touch))
        answers = [json.loads(socket.recv()) for _ in range(2)]
        assert sorted(one.get("value", "") for one in answers) == ["", "b"]
        assert ledger(instance, queue)["dead"] == 1


def test_the_dead_end_after_dead_ttl(instance: Any, queue: str) -> None:
    instance.http("POST", f"/settings/{queue}", '{"dead_ttl": "100ms"}', JSON)
    batch_add(instance, queue, "a")
    taken(instance.http("GET", f"/q/{queue}?lease=1h"))
    instance.form(f"/q/{queue}/1", "dead=1")
    end = time.monotonic() + 60
    while ledger(instance, queue)["expired"] != 1:
        assert time.monotonic() < end
        time.sleep(0.02)


# -- batches by their other names


@pytest.mark.parametrize("kind", ["x-ndjson", "ndjson", "jsonl", "x-jsonlines"])
def test_a_batch_has_several_names(instance: Any, queue: str, kind: str) -> None:
    kind = "application/" + kind
    answer = instance.http("POST", f"/q/{queue}", b'{"a": 1}\n2\n', {"Content-Type": f"{kind}; charset=utf-8"})
    assert answer[2] == f"{queue}:1\r\n{queue}:2\r\n".encode()
    body = b"\n".join([b"x" * 1000] * 2000)  # more than one value may have
    assert instance.http("POST", f"/q/{queue}", body, {"Content-Type": kind.upper()})[2].count(b"\r\n") == 2000
