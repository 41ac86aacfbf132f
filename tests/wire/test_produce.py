"""Producing beyond one value: delays, batches, Idempotency-Key, bounds and stops."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.support import reactor
from tests.support.patience import until
from tests.support.redis_server import RedisServer
from tests.support.requests import BATCH, FORM, TEXT, http_call, lengths

MIB = 1 << 20


def values(instance: Any, queue: str) -> list[str]:
    """All that waits, taken."""
    status, _, body = instance.http("GET", f"/q/{queue}?max=1000")
    return [one["value"] for one in json.loads(body)] if status == 200 else []


def keys(queue: str, first: int, last: int) -> bytes:
    """What an add answers."""
    return b"".join(f"{queue}:{number}\r\n".encode() for number in range(first, last + 1))


# -- ttl and delay


@pytest.mark.parametrize("way", ["query", "header", "form", "root", "batch"])
def test_what_is_delayed_is_not_to_be_seen_before_its_time(instance: Any, queue: str, way: str) -> None:
    path, body, headers = {
        "query": (f"/q/{queue}?delay=1h", "value=x", FORM),
        "header": (f"/q/{queue}", "x", {**TEXT, "RestMQ-Delay": "1h"}),
        "form": (f"/q/{queue}", "value=x&delay=1h", FORM),
        "root": ("/", f"queue={queue}&value=x&delay=1h", FORM),
        "batch": (f"/q/{queue}?delay=1h", "x\n", BATCH),
    }[way]
    assert instance.http("POST", path, body, headers)[0::2] == (200, keys(queue, 1, 1))
    assert lengths(instance, queue) == [0, 1, 0]
    assert instance.http("GET", f"/q/{queue}")[0] == 204
    assert json.loads(instance.http("GET", f"/q/{queue}/1")[2])["state"] == "delayed"


def test_what_becomes_due_stands_at_its_key_s_place(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=first&delay=300ms")
    instance.form(f"/q/{queue}", "value=second")
    until(lambda: lengths(instance, queue) == [2, 0, 0])
    assert values(instance, queue) == ["first", "second"]


@pytest.mark.parametrize("delay", ["-1", "367d", "1e3", "soon", "9" * 30])
def test_a_delay_out_of_range_is_400_and_stores_nothing(instance: Any, queue: str, delay: str) -> None:
    status, _, answer = instance.http("POST", f"/q/{queue}?delay={delay}", "x", TEXT)
    assert (status, json.loads(answer)["type"]) == (400, "urn:restmq:bad-option")
    assert b"delay" in answer
    assert lengths(instance, queue) == [0, 0, 0]


@pytest.mark.parametrize("delay", ["0", "0s"])
def test_a_delay_of_nothing_is_none(instance: Any, queue: str, delay: str) -> None:
    assert instance.http("POST", f"/q/{queue}?delay={delay}", "x", TEXT)[2] == keys(queue, 1, 1)
    assert lengths(instance, queue) == [1, 0, 0]


def test_a_ttl_ends_an_element_wherever_it_is(instance: Any, core: Any, queue: str) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"max_deliveries": "1"})
    for value in ("dead", "leased"):
        instance.form(f"/q/{queue}", f"value={value}&ttl=5")
    instance.form(f"/q/{queue}", "value=delayed&ttl=5&delay=1h")
    instance.form(f"/q/{queue}", "value=waiting&ttl=5")
    instance.http("GET", f"/q/{queue}?max=2&lease=1h")
    instance.http("POST", f"/q/{queue}/1?lease=0&error=failed")
    states = [json.loads(instance.http("GET", f"/q/{queue}/{number}")[2])["state"] for number in range(1, 5)]
    assert states == ["dead", "leased", "delayed", "waiting"]
    until(lambda: all(instance.http("GET", f"/q/{queue}/{number}")[0] == 404 for number in range(1, 5)))
    assert instance.http("GET", f"/q/{queue}")[0] == 204


# -- batches


def test_each_line_of_a_batch_is_one_value_exactly_as_it_stands(instance: Any, queue: str) -> None:
    body = '{"a": 1}\n\n  spaces \r\n\r\n\tolá\r\r\n007\n \n"q"\\n\nlast\r'.encode()
    status, headers, answer = instance.http("POST", f"/q/{queue}", body, BATCH)
    assert (status, headers["content-type"], answer) == (200, "text/plain; charset=utf-8", keys(queue, 1, 7))
    assert values(instance, queue) == ['{"a": 1}', "  spaces ", "\tolá\r", "007", " ", '"q"\\n', "last\r"]


@pytest.mark.parametrize(
    "kind", ["application/x-ndjson; charset=utf-8", "APPLICATION/X-NDJSON", " application/x-ndjson "]
)
def test_a_batch_is_known_by_its_type_however_it_is_written(instance: Any, queue: str, kind: str) -> None:
    assert instance.http("POST", f"/q/{queue}", b"a\nb", {"Content-Type": kind})[2] == keys(queue, 1, 2)
    assert instance.http("POST", f"/?queue={queue}", b"c\n", {"Content-Type": kind})[2] == keys(queue, 3, 3)
    assert instance.http("POST", f"/q/{queue}", b"a\nb", {"Content-Type": "application/json"})[2] == keys(queue, 4, 4)


def test_a_batch_has_10_000_values_and_not_one_more(instance: Any, queue: str) -> None:
    most = b"\n".join([b"%d" % number for number in range(10_000)])
    status, _, answer = instance.http("POST", f"/q/{queue}", most + b"\nmore", BATCH)
    assert (status, json.loads(answer)["type"]) == (413, "urn:restmq:too-large")
    assert b"more than 10000 values" in answer
    assert lengths(instance, queue) == [0, 0, 0]
    assert instance.http("POST", f"/q/{queue}", most + b"\n\n\n", BATCH)[0::2] == (200, keys(queue, 1, 10_000))
    assert lengths(instance, queue) == [10_000, 0, 0]
    for hundred in range(10):
        found = values(instance, queue)
        assert found == [str(number) for number in range(1000 * hundred, 1000 * hundred + 1000)]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the batch is empty"),
        (b"\n\r\n\n", 400, "the batch is empty"),
        (b"good\n\n\xff\n", 400, "line 3 is not UTF-8: byte 0"),
        (b"good\nab\xed\xa0\x80", 400, "line 2 is not UTF-8: byte 2"),
        (b"good\n" + b"a" * (MIB + 1) + b"\ngood", 413, f"line 2 has {MIB + 1} bytes"),
        (b"a\n" * (8 * MIB) + b"a", 413, "the batch has 16777217 bytes"),
    ],
)
def test_a_batch_with_a_bad_line_stores_nothing_and_names_the_line(
    instance: Any, queue: str, body: bytes, status: int, said: str
) -> None:
    got, _, answer = instance.http("POST", f"/q/{queue}", body, BATCH)
    assert (got, said in json.loads(answer)["error"]) == (status, True), answer
    assert lengths(instance, queue) == [0, 0, 0]


def test_a_batch_of_many_large_values_is_stored_whole(instance: Any, queue: str) -> None:
    line = b"x" * MIB + b"\r\n"
    assert instance.http("POST", f"/q/{queue}", line * 15, BATCH)[2] == keys(queue, 1, 15)
    assert lengths(instance, queue) == [15, 0, 0]
    instance.http("DELETE", f"/q/{queue}")


def test_options_hold_for_all_of_a_batch(instance: Any, queue: str) -> None:
    instance.http("POST", f"/q/{queue}?delay=1h", b"a\nb\nc", BATCH)
    instance.http("POST", f"/q/{queue}", b"d\ne", {**BATCH, "RestMQ-TTL": "50ms"})
    assert lengths(instance, queue)[1] == 3
    until(lambda: lengths(instance, queue) == [0, 3, 0])


def test_a_batch_is_one_command_to_redis(instance: Any, redis_server: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=the+queue+is+known")
    with redis_server.client() as store, store.monitor() as monitor:
        assert instance.http("POST", f"/q/{queue}", b"v\n" * 5000, BATCH)[2] == keys(queue, 2, 5001)
        store.echo("the end " + queue)
        seen = []
        for said in monitor.listen():
            if "the end " + queue in said["command"]:
                break
            seen.append(said["command"])
    asked = [one for one in seen if f"restmq:{{{queue}}}:m" in one and one.startswith("FCALL")]
    assert len(asked) == 1


# -- Idempotency-Key


def again(instance: Any, path: str, body: Any, headers: dict[str, str], key: str) -> tuple[int, str | None, bytes]:
    """An add with a key: status, whether it was replayed, body."""
    status, told, answer = instance.http("POST", path, body, {**headers, "Idempotency-Key": key})
    return status, told.get("idempotency-replayed"), answer


def test_the_same_key_answers_the_first_add_and_stores_nothing(instance: Any, queue: str) -> None:
    assert again(instance, f"/q/{queue}", "value=a+b", FORM, "k") == (200, None, keys(queue, 1, 1))
    for path, body, headers in [
        (f"/q/{queue}", "value=a+b", FORM),
        (f"/q/{queue}", "a b", TEXT),
        (f"/q/{queue}?ttl=5m&delay=3", "msg=a%20b", FORM),
        (f"/q/{queue}", "a b\n", BATCH),
        ("/", f"queue={queue}&value=a+b", FORM),
    ]:
        assert again(instance, path, body, headers, "k") == (200, "true", keys(queue, 1, 1))
    assert lengths(instance, queue) == [1, 0, 0]
    assert instance.http("GET", f"/q/{queue}")[0] == 200
    assert again(instance, f"/q/{queue}", "a b", TEXT, "k") == (200, "true", keys(queue, 1, 1))
    assert again(instance, f"/q/{queue}", "a b", TEXT, "K") == (200, None, keys(queue, 2, 2))
    assert again(instance, f"/q/{queue}.other", "a b", TEXT, "k") == (200, None, keys(queue + ".other", 1, 1))


def test_a_batch_with_a_key_is_answered_again_whole(instance: Any, queue: str) -> None:
    for replayed in (None, "true", "true"):
        assert again(instance, f"/q/{queue}", b"a\nb\nc", BATCH, "k") == (200, replayed, keys(queue, 1, 3))
    for other in (b"a\nb", b"a\nb\nd", b"ab\nc", b"a\nb\nc\nd"):
        status, replayed, answer = again(instance, f"/q/{queue}", other, BATCH, "k")
        assert (status, replayed, b"urn:restmq:key-reused" in answer) == (422, None, True)
    assert lengths(instance, queue) == [3, 0, 0]


def test_a_key_with_another_value_is_422_and_stores_nothing(instance: Any, queue: str) -> None:
    again(instance, f"/q/{queue}", "value=a", FORM, "k")
    for path, body, headers in ((f"/q/{queue}", "b", TEXT), ("/", f"queue={queue}&value=", FORM)):
        status, _, answer = again(instance, path, body, headers, "k")
        assert (status, json.loads(answer)["type"]) == (422, "urn:restmq:key-reused")
    assert lengths(instance, queue) == [1, 0, 0]


@pytest.mark.parametrize("key", ["", "two words", "é", "a" * 256, "tab\tbed", "\x7f"])
def test_what_is_no_idempotency_key_is_400_and_stores_nothing(instance: Any, queue: str, key: str) -> None:
    status, _, answer = again(instance, f"/q/{queue}", "value=a", FORM, key)
    assert status == 400
    assert b"Idempotency-Key" in answer or b"malformed" in answer
    assert lengths(instance, queue) == [0, 0, 0]


@pytest.mark.parametrize("key", ["a" * 255, '"quoted"', "!~", "{}:%,;\\"])
def test_any_visible_characters_make_a_key(instance: Any, queue: str, key: str) -> None:
    for replayed in (None, "true"):
        assert again(instance, f"/q/{queue}", "value=a", FORM, key) == (200, replayed, keys(queue, 1, 1))


def test_a_key_is_remembered_as_long_as_restmq_conf_says(start: Any, queue: str) -> None:
    one = start("[queues]\nidempotency = 1s\n")
    assert again(one, f"/q/{queue}", "value=a", FORM, "k")[0] == 200
    until(lambda: again(one, f"/q/{queue}", "value=a", FORM, "k")[1] is None)
    assert lengths(one, queue) == [2, 0, 0]


def test_a_key_holds_at_any_instance_and_after_a_purge_but_not_after_forget(
    instance: Any, other: Any, queue: str
) -> None:
    again(instance, f"/q/{queue}", "value=a", FORM, "k")
    assert again(other, f"/q/{queue}", "value=a", FORM, "k") == (200, "true", keys(queue, 1, 1))
    instance.http("DELETE", f"/q/{queue}")
    assert again(other, f"/q/{queue}", "value=a", FORM, "k") == (200, "true", keys(queue, 1, 1))
    instance.http("DELETE", f"/q/{queue}?forget=1")
    assert again(other, f"/q/{queue}", "value=a", FORM, "k") == (200, None, keys(queue, 1, 1))


def test_whoever_sends_a_key_may_try_again_blindly(own: RedisServer, start: Any, queue: str) -> None:
    one = start("[redis]\ndeadline = 3s\n", own.address)
    stored = []
    for number in range(1, 4):
        os.kill(own.process.pid, signal.SIGSTOP)
        try:
            status, headers, answer = one.http("POST", f"/q/{queue}", "a", {**TEXT, "Idempotency-Key": f"k{number}"})
        finally:
            os.kill(own.process.pid, signal.SIGCONT)
        assert (status, "retry-after" in headers) == (503, True)
        stored.append(json.loads(answer)["stored"])
        until(lambda: one.http("GET", "/readyz")[0] == 200)
        status, _, answer = again(one, f"/q/{queue}", "a", TEXT, f"k{number}")
        assert (status, answer) == (200, keys(queue, number, number))
        assert lengths(one, queue) == [number, 0, 0]
    assert set(stored) <= {"no", "maybe"}
    assert "maybe" in stored


def test_a_full_redis_refuses_adds_and_still_leases_and_acknowledges(own: RedisServer, start: Any, queue: str) -> None:
    one = start("", own.address)
    one.http("POST", f"/q/{queue}", b"a\nb\nc\nd", BATCH)
    first, second, third = (one["lease"] for one in json.loads(one.http("GET", f"/q/{queue}?max=3&lease=1h")[2]))
    with own.client() as store:
        store.config_set("maxmemory", 1)
        for path, body, headers in (
            (f"/q/{queue}", "x\ny", BATCH),
            (f"/q/{queue}?delay=5", "x", TEXT),
            (f"/q/{queue}", "x", {**TEXT, "Idempotency-Key": "k"}),
        ):
            status, told, answer = one.http("POST", path, body, headers)
            assert (status, json.loads(answer)["type"], "retry-after" in told) == (503, "urn:restmq:full", True)
        assert json.loads(one.http("GET", f"/q/{queue}?lease=1h")[2])["value"] == "d"
        assert one.http("POST", f"/q/{queue}/2?lease=2h", None, {"If-Match": second})[0] == 200
        assert one.http("POST", f"/q/{queue}/4?lease=0&delay=1h&error=x")[0] == 200
        assert b'"deleted": true' in one.http("DELETE", f"/q/{queue}/1", None, {"If-Match": first})[2]
        body = json.dumps({"ack": [second], "nack": [{"lease": third}]})
        assert b'"acked": 1, "nacked": 1, "lost": []' in one.http("POST", f"/q/{queue}/ack", body)[2]
        assert lengths(one, queue) == [1, 1, 0]
        assert b'"status": 1' in one.http("DELETE", f"/q/{queue}")[2]
        store.config_set("maxmemory", 0)


# -- bounds and stops


def test_a_queue_at_its_bound_refuses_with_429_and_takes_again_when_there_is_room(
    instance: Any, core: Any, queue: str
) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"max_length": "3"})
    assert again(instance, f"/q/{queue}", b"a\nb", BATCH, "k")[0] == 200
    assert instance.http("POST", f"/q/{queue}", b"c\nd", BATCH)[0] == 429
    assert lengths(instance, queue) == [2, 0, 0]
    assert instance.form(f"/q/{queue}", "value=c&delay=1h")[0] == 200
    command = json.dumps({"cmd": "add", "queue": queue, "value": "d"})
    for path, body, headers in (
        (f"/q/{queue}", "d", TEXT),
        (f"/q/{queue}?ttl=5", "d", TEXT),
        ("/", f"queue={queue}&value=d", FORM),
        ("/queue", command, TEXT),
    ):
        status, told, answer = instance.http("POST", path, body, headers)
        assert (status, json.loads(answer)["type"], "retry-after" in told) == (429, "urn:restmq:queue-full", True)
    assert again(instance, f"/q/{queue}", b"a\nb", BATCH, "k") == (200, "true", keys(queue, 1, 2))
    assert instance.http("POST", f"/q/{queue}", b"a\nb\nc\nd", BATCH)[0] == 413
    assert values(instance, queue) == ["a", "b"]
    assert instance.form(f"/q/{queue}", "value=d") == (200, keys(queue, 4, 4))


def test_a_value_that_is_over_a_queue_s_bound_by_itself_is_413(instance: Any, core: Any, queue: str) -> None:
    reactor.wait(core.settings.set, queue.encode(), {"max_bytes": "3"})
    assert instance.form(f"/q/{queue}", "value=four")[0] == 413
    assert instance.form(f"/q/{queue}", "value=four&ttl=5")[0] == 413
    command = json.dumps({"cmd": "add", "queue": queue, "value": "four"})
    assert instance.http("POST", "/queue", command, TEXT)[0] == 413
    assert instance.form(f"/q/{queue}", "value=one")[0] == 200


def test_while_adding_is_stopped_an_add_is_503_and_a_replay_is_answered(instance: Any, core: Any, queue: str) -> None:
    again(instance, f"/q/{queue}", "value=a", FORM, "k")
    reactor.wait(core.settings.set_status, queue.encode(), False, ("add",), 60_000)
    for path, body, headers in (
        (f"/q/{queue}", "b", TEXT),
        (f"/q/{queue}?delay=5", "b", TEXT),
        (f"/q/{queue}", "b\nc", BATCH),
        ("/", f"queue={queue}&value=b", FORM),
        ("/queue", json.dumps({"cmd": "add", "queue": queue, "value": "b"}), TEXT),
    ):
        status, told, answer = instance.http("POST", path, body, headers)
        assert (status, json.loads(answer)["type"]) == (503, "urn:restmq:stopped"), answer
        assert 30 < int(told["retry-after"]) <= 60
    assert again(instance, f"/q/{queue}", "value=a", FORM, "k") == (200, "true", keys(queue, 1, 1))
    assert again(instance, f"/q/{queue}", "value=b", FORM, "k")[0] == 422
    assert values(instance, queue) == ["a"]  # taking goes on
    reactor.wait(core.settings.set_status, queue.encode(), True, ("add",))
    assert instance.form(f"/q/{queue}", "value=b") == (200, keys(queue, 2, 2))


def test_an_old_client_s_fields_pass_beside_the_new_options(instance: Any, queue: str) -> None:
    answer = http_call(instance.port, "POST", f"/q/{queue}?value=q&policy=x&_=1&delay=1h", "value=v&more=1", FORM)
    assert answer[0::2] == (200, keys(queue, 1, 1))
    assert json.loads(instance.http("GET", f"/q/{queue}/1")[2])["value"] == "v"
