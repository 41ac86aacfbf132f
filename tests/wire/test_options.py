"""What a request asks for, however it is said, and who can use the answer: options, bodies, conditions."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import Any

import pytest

from restmq.http import negotiation
from restmq.http.headers import Fields, fields
from tests.support.memory import memory
from tests.support.requests import BATCH, FORM, JSON, TEXT, add, batch_add, http_call, lengths, stats, taken

MIB = 1 << 20


# -- options in the body


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"lease": "30s", "max": 2}', JSON),
        ('{"lease": 30, "max": "2"}', {"Content-Type": "application/vnd.jobs+json; charset=UTF-8"}),
        (' \n{"lease": 30.0, "max": 2}', FORM),
        ("lease=30s&max=2", FORM),
    ],
)
def test_the_options_of_a_take_may_stand_in_its_body(
    instance: Any, queue: str, body: str, kind: dict[str, str]
) -> None:
    for method, path in (("POST", f"/q/{queue}/take"), ("GET", f"/q/{queue}")):
        batch_add(instance, queue, "a", "b", "c")
        found = taken(instance.http(method, path, body, kind))
        assert [one["value"] for one in found] == ["a", "b"] and all("lease" in one for one in found)
        assert lengths(instance, queue) == [1, 0, 2]
        instance.http("DELETE", f"/q/{queue}")


def test_the_query_weighs_more_than_a_header_and_a_header_more_than_the_body(instance: Any, queue: str) -> None:
    batch_add(instance, queue, *"abcdefghi")
    path = f"/q/{queue}/take"
    assert len(taken(instance.http("POST", path + "?max=1", '{"max": 3}', {**JSON, "RestMQ-Max": "2"}))) == 1
    assert len(taken(instance.http("POST", path, '{"max": 3}', {**JSON, "RestMQ-Max": "2"}))) == 2
    assert len(taken(instance.http("POST", path, '{"max": 3}', JSON))) == 3


def test_every_address_with_options_reads_them_from_json(instance: Any, queue: str) -> None:
    assert instance.http("POST", f"/p/{queue}", '{"policy": "roundrobin"}', JSON)[2] == b"OK\r\n"
    stop = '{"status": "stop", "what": ["pull", "add"], "for": 60}'
    told = taken(instance.http("POST", f"/control/{queue}", stop, JSON))
    assert set(told["stat"]["stops"]) == {"pull", "add"}
    assert instance.http("POST", f"/control/{queue}", '{"status": "start"}', JSON)[0] == 200
    instance.http("POST", f"/settings/{queue}", '{"max_deliveries": 1}', JSON)
    batch_add(instance, queue, "a", "b")
    taken(instance.http("POST", f"/q/{queue}/take", '{"lease": "1m", "max": 2}', JSON))
    for number in (1, 2):
        answer = instance.http("POST", f"/q/{queue}/{number}", '{"lease": 0, "error": "why"}', JSON)
        assert taken(answer)["lease"] is None
    keys = [f"{queue}:1", f"{queue}:2"]
    assert taken(instance.http("POST", f"/dead/{queue}", json.dumps({"keys": keys}), JSON))["kicked"] == keys
    assert taken(instance.http("DELETE", f"/q/{queue}", '{"forget": true}', JSON))["status"] == 1
    add(instance, queue, "anew")
    assert stats(instance, queue)["added"] == 1


def test_old_clients_may_send_other_fields_in_their_forms(instance: Any, queue: str) -> None:
    assert instance.form(f"/q/{queue}", "value=x&other=1&colour=red")[0] == 200
    assert instance.form("/", f"queue={queue}&value=x&other=1")[0] == 200
    assert instance.form(f"/p/{queue}", "policy=roundrobin&other=1")[0] == 200
    assert instance.form(f"/control/{queue}", "status=start&other=1")[0] == 200


# -- who can use what is handed out

ACCEPTS = [
    "*/*",
    "application/json",
    "application/*;q=0.1",
    "text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8",
    "application/json, text/javascript, */*; q=0.01",
    "text/event-stream, application/json",
    "Application/JSON;Charset=utf-8;q=1.000",
    "image/*, */*;q=0.5",
    "",
    ";;,nonsense,*/*",
]


@pytest.mark.parametrize("accept", ACCEPTS)
def test_whoever_can_use_json_is_handed_it(instance: Any, queue: str, accept: str) -> None:
    for method, path in (("GET", f"/q/{queue}"), ("POST", f"/q/{queue}/take"), ("GET", f"/?queue={queue}")):
        add(instance, queue, "x")
        assert taken(instance.http(method, path, None, {"Accept": accept}))["value"] == "x"


@pytest.mark.parametrize(
    "lines",
    [
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
        {"Sec-Purpose": "something", "Purpose": "other"},
        {"Accept": "text/javascript, */*;q=0", "X": "?callback=show"},
        {"Accept": "application/javascript", "X": "?callback=show"},
        {"Accept": "*/*", "Sec-Fetch-Dest": "script", "Sec-Fetch-Site": "same-origin", "X": "?callback=show"},
        {"Accept": "*/*", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"},
        {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"},
    ],
)
def test_what_does_not_keep_a_client_from_using_it_does_not_matter(
    instance: Any, queue: str, lines: dict[str, str]
) -> None:
    add(instance, queue, "x")
    fields = {name: value for name, value in lines.items() if name != "X"}
    status, _, body = instance.http("GET", f"/q/{queue}{lines.get('X', '')}", None, fields)
    assert status == 200 and b'"value": "x"' in body


def test_the_error_tells_the_address_that_is_meant(instance: Any, queue: str) -> None:
    for line, where in (
        ({"Accept": "text/event-stream"}, f"/sse/{queue}"),
        ({"Upgrade": "websocket", "Connection": "Upgrade"}, f"/ws/{queue}"),
        ({"Accept": "application/x-ndjson"}, f"/c/{queue}"),
    ):
        for path in (f"/q/{queue}", f"/?queue={queue}"):
            assert where in json.loads(instance.http("GET", path, None, line)[2])["error"]


@pytest.mark.parametrize(
    ("transport", "accept"), [("c", "application/json"), ("c", "*/*"), ("sse", "text/event-stream"), ("sse", "text/*")]
)
def test_a_stream_is_opened_for_who_reads_its_type(
    instance: Any, queue: str, listen: Any, transport: str, accept: str
) -> None:
    assert listen(instance, f"/{transport}/{queue}", headers=f"Accept: {accept}\r\n").status == 200


HEADS = {
    "curl": "User-Agent: curl/7.88.1\r\nAccept: */*\r\n",
    "requests": "User-Agent: python-requests/2.32\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n",
    "aiohttp": "Accept: */*\r\nContent-Type: application/json; charset=utf-8\r\n",
    "axios": "Accept: application/json, text/plain, */*\r\nContent-Type: application/x-www-form-urlencoded\r\n",
    "fetch": "Accept: application/json\r\nSec-Fetch-Mode: cors\r\nContent-Type: text/plain;charset=UTF-8\r\n",
    "Java": "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAA\r\n",
    "a browser": "Accept: text/html,application/xhtml+xml,image/avif,*/*;q=0.8\r\nSec-Fetch-Dest: document\r\n",
    "nothing": "",
}


@pytest.mark.parametrize("client", HEADS)
def test_ordinary_clients_stay_on_the_fast_path(client: str) -> None:
    block = ("Host: localhost\r\n" + HEADS[client]).encode()
    assert not Fields(block, True).special
    assert fields(block, True) is fields(bytes(bytearray(block)), True)


# -- conditions


def test_a_look_is_told_whether_its_conditions_hold(instance: Any, queue: str) -> None:
    add(instance, queue, "x")
    for path in (f"/q/{queue}/1", f"/stats/{queue}", f"/peek/{queue}", "/healthz", f"/j/{queue}"):
        for line, wanted in (
            ({"If-Match": "*"}, 200),
            ({"If-Match": '"tag"'}, 412),
            ({"If-None-Match": '"tag"'}, 200),
            ({"If-None-Match": "*"}, 304),
            ({"If-Modified-Since": "Sat, 29 Oct 1994 19:43:31 GMT"}, 200),
            ({"If-Unmodified-Since": "Sat, 29 Oct 1994 19:43:31 GMT"}, 200),
            ({"If-Range": '"tag"', "Range": "bytes=0-1"}, 200),
        ):
            for method in ("GET", "HEAD"):
                status, headers, body = instance.http(method, path, None, line)
                assert status == wanted, (path, line)
                assert headers["cache-control"] == "no-store"
                assert bool(body) == (method == "GET" and status != 304)
    assert instance.http("GET", f"/q/{queue}/9", None, {"If-Match": '"tag"'})[0] == 404


def test_a_worker_that_forgets_the_number_is_told(instance: Any, queue: str) -> None:
    add(instance, queue, "x")
    lease = taken(instance.http("GET", f"/q/{queue}?lease=1m"))["lease"]
    answer = instance.http("DELETE", f"/q/{queue}", None, {"If-Match": f'"{lease}"'})
    assert answer[0] == 412 and "/q/NAME/N" in json.loads(answer[2])["error"]
    assert instance.http("DELETE", f"/q/{queue}/1", None, {"If-Match": f'"{lease}"'})[0] == 200


# -- charsets and codings


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii", '"\\utf-8"'])
def test_utf_8_and_ascii_are_read_however_they_are_written(instance: Any, queue: str, charset: str) -> None:
    for number, (kind, body) in enumerate(
        (("text/plain", "x"), ("application/json", '"x"'), (FORM["Content-Type"], "value=x")), 1
    ):
        answer = instance.http("POST", f"/q/{queue}", body, {"Content-Type": f"{kind}; charset={charset}"})
        assert answer[2] == f"{queue}:{number}\r\n".encode()


def test_a_byte_order_mark_in_text_is_text(instance: Any, queue: str) -> None:
    instance.http("POST", f"/q/{queue}", b"\xef\xbb\xbfx", TEXT)
    assert taken(instance.http("GET", f"/q/{queue}"))["value"] == "\ufeffx"


def test_415_tells_what_is_read(instance: Any, queue: str) -> None:
    status, headers, _ = instance.http("POST", f"/q/{queue}", b"x", {**TEXT, "Content-Encoding": "br"})
    assert (status, headers["accept-encoding"]) == (415, "gzip, identity")
    status, headers, _ = instance.http("POST", f"/q/{queue}/take", b"x", TEXT)
    assert status == 415 and "application/json" in headers["accept-post"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Content-Type: text/plain; charset=utf-16", 415),
        ("Content-Type: text/plain\r\nContent-Encoding: br", 415),
        ("Content-Type: text/plain\r\nIf-Match: *", 412),
    ],
)
def test_the_head_is_enough_to_refuse_a_body(instance: Any, queue: str, lines: str, status: int) -> None:
    for path in (f"/q/{queue}", f"/q/{queue}/ack", f"/settings/{queue}"):
        with socket.create_connection(("127.0.0.1", instance.port), 20) as link:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n{lines}"
            link.sendall(head.encode() + b"\r\n\r\n")
            assert link.recv(65536).startswith(b"HTTP/1.1 %d " % status)


def test_a_take_whose_body_is_no_options_is_refused_at_its_head(instance: Any, queue: str) -> None:
    with socket.create_connection(("127.0.0.1", instance.port), 20) as link:
        head = f"POST /q/{queue}/take HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        link.sendall(head.encode() + b"Content-Type: text/xml\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "identity, gzip", "identity"])
def test_bodies_that_are_compressed_are_read(instance: Any, queue: str, coding: str) -> None:
    def packed(text: str) -> bytes:
        return text.encode() if coding == "identity" else gzip.compress(text.encode())

    lines = {"Content-Encoding": coding}
    assert instance.http("POST", f"/q/{queue}", packed("olá"), {**TEXT, **lines})[0] == 200
    assert instance.http("POST", f"/q/{queue}", packed("value=form"), {**FORM, **lines})[0] == 200
    batch = "\n".join(f"line {number}" for number in range(5000))
    assert instance.http("POST", f"/q/{queue}", packed(batch), {**BATCH, **lines})[2].count(b"\r\n") == 5000
    command = json.dumps({"cmd": "take", "queue": queue})
    assert taken(instance.http("POST", "/queue", packed(command), {**JSON, **lines}))["value"] == "olá"
    found = taken(instance.http("POST", f"/q/{queue}/take", packed('{"lease": 60}'), {**JSON, **lines}))
    assert found["value"] == "form"
    acks = json.dumps({"ack": [found["lease"]]})
    assert taken(instance.http("POST", f"/q/{queue}/ack", packed(acks), {**JSON, **lines}))["acked"] == 1
    assert instance.http("POST", f"/settings/{queue}", packed('{"history": 5}'), {**JSON, **lines})[0] == 200


def test_several_members_are_one_body(instance: Any, queue: str) -> None:
    body = b"".join(gzip.compress(part) for part in (b"one ", b"", b"two ", b"x" * 200_000))
    assert instance.http("POST", f"/q/{queue}", body, {**TEXT, "Content-Encoding": "gzip"})[0] == 200
    assert taken(instance.http("GET", f"/q/{queue}"))["value"] == "one two " + "x" * 200_000


def test_an_idempotency_key_goes_with_what_was_compressed(instance: Any, queue: str) -> None:
    fields = {**TEXT, "Idempotency-Key": "k"}
    bodies = ((gzip.compress(b"x", 1), "gzip"), (b"x", "identity"), (gzip.compress(b"") + gzip.compress(b"x"), "gzip"))
    for body, coding in bodies:
        answer = instance.http("POST", f"/q/{queue}", body, {**fields, "Content-Encoding": coding})
        assert answer[2] == f"{queue}:1\r\n".encode()
    assert instance.http("POST", f"/q/{queue}", gzip.compress(b"y"), {**fields, "Content-Encoding": "gzip"})[0] == 422


def test_a_bomb_takes_no_more_memory_than_the_bound(start: Any, queue: str) -> None:
    one = start("[limits]\nmax_value = 256k\nmax_body = 1MiB\n")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*(packer.compress(b"\n" * MIB) for _ in range(300)), packer.flush()])
    assert len(bomb) < MIB
    fields = {**BATCH, "Content-Encoding": "gzip"}
    pid = one.process.pid
    before = memory(pid, "VmHWM")
    for _ in range(5):
        assert http_call(one.port, "POST", f"/q/{queue}", bomb, fields)[0] == 413
    assert memory(pid, "VmHWM") - before < 16 << 20


def test_unpacking_ends_at_the_bound_in_any_number_of_members() -> None:
    assert negotiation.unzipped(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000
    assert negotiation.unzipped(gzip.compress(b"x" * 1001), 1000) is None
    assert negotiation.unzipped(gzip.compress(b"x" * 500) * 2, 1000) == b"x" * 1000
    assert negotiation.unzipped(gzip.compress(b"x" * 500) * 2, 999) is None
    assert negotiation.unzipped(gzip.compress(b"") * 1000, 0) == b""


# -- Idempotency-Key


def test_what_hands_out_refuses_a_key_that_would_not_hold(instance: Any, queue: str) -> None:
    add(instance, queue, "x")
    key = {"Idempotency-Key": "k"}
    for method, path, body, kind in (
        ("POST", f"/q/{queue}/take", None, {}),
        ("POST", f"/q/{queue}/take", "lease=30s", FORM),
        ("GET", f"/q/{queue}", None, {}),
        ("GET", f"/?queue={queue}", None, {}),
        ("GET", f"/c/{queue}", None, {}),
        ("GET", f"/sse/{queue}", None, {}),
    ):
        status, _, said = instance.http(method, path, body, {**kind, **key})
        assert (status, json.loads(said)["type"]) == (400, "urn:restmq:bad-request"), path
        assert "with a lease" in json.loads(said)["error"]
    assert lengths(instance, queue) == [1, 0, 0]


def test_a_command_does_not_look_at_the_header_and_says_so(instance: Any, queue: str) -> None:
    add(instance, queue, "x")
    fields = {**JSON, "Idempotency-Key": "k"}
    for command, word in (({"cmd": "take"}, "with a lease"), ({"cmd": "add", "value": "y"}, "idempotency_key")):
        body = json.dumps({**command, "queue": queue})
        assert word in taken(instance.http("POST", "/queue", body, fields))["error"]
    assert lengths(instance, queue) == [1, 0, 0]


def test_a_key_is_ignored_where_nothing_is_handed_out(instance: Any, queue: str) -> None:
    add(instance, queue, "x")
    key = {"Idempotency-Key": "k"}
    lease = taken(instance.http("GET", f"/q/{queue}?lease=1m"))["lease"]
    for method, path, body, kind in (
        ("GET", f"/q/{queue}/1", None, {}),
        ("HEAD", f"/q/{queue}", None, {}),
        ("GET", f"/stats/{queue}", None, {}),
        ("POST", "/queue", json.dumps({"cmd": "get", "queue": queue}), JSON),
        ("POST", "/queue", json.dumps({"cmd": "touch", "queue": queue, "key": f"{queue}:1", "lease": 60}), JSON),
        ("POST", f"/q/{queue}/1", "lease=60", FORM),
        ("POST", f"/settings/{queue}", "history=1", FORM),
        ("POST", f"/q/{queue}/ack", json.dumps({"ack": [lease]}), JSON),
        ("DELETE", f"/q/{queue}", None, {}),
    ):
        assert instance.http(method, path, body, {**kind, **key})[0] == 200, path


def test_a_key_in_quotes_is_the_key_without_them(instance: Any, other: Any, queue: str) -> None:
    wanted = f"{queue}:1\r\n".encode()
    for key in ('"k2"', "k2", ' "k2" '):
        assert instance.http("POST", f"/q/{queue}", b"x", {**TEXT, "Idempotency-Key": key})[2] == wanted
    command = {"cmd": "add", "queue": queue, "value": "x", "idempotency_key": "k2"}
    assert taken(other.http("POST", "/queue", json.dumps(command), JSON))["replayed"] is True
    wanted = f"{queue}:2\r\n".encode()
    for key in (r'"a\"b\\c"', r"a\"b\\c".replace('\\"', '"').replace("\\\\", "\\")):
        assert instance.http("POST", f"/q/{queue}", b"x", {**TEXT, "Idempotency-Key": key})[2] == wanted


def test_a_key_that_an_earlier_restmq_stored_with_its_quotes_is_found(instance: Any, link: Any, queue: str) -> None:
    first = instance.http("POST", f"/q/{queue}", b"x", {**TEXT, "Idempotency-Key": "k"})[2]
    link.select(0)
    keys = f"restmq:{{{queue}}}:k0"
    link.hset(keys, '"k"', link.hget(keys, "k"))  # as it would lie there
    link.hdel(keys, "k")
    assert instance.http("POST", f"/q/{queue}", b"x", {**TEXT, "Idempotency-Key": '"k"'})[2] == first
    assert instance.http("POST", f"/q/{queue}", b"x", {**TEXT, "Idempotency-Key": "k"})[2] != first
