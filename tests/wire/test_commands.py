"""The JSON protocol on POST /queue: what a command answers, and what a wrong one does not do."""

from __future__ import annotations

import json
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from restmq.api import commands
from restmq.api.client import Client
from restmq.model.errors import BadRequest, Forbidden
from tests.support import reactor
from tests.support.patience import PATIENCE, until
from tests.support.requests import FORM, TEXT, waiters
from tests.support.websocket import Talker


def ask(instance: Any, text: str | bytes, kind: str = "application/json") -> tuple[int, dict[str, str], bytes]:
    """Send a command as the body itself."""
    body = text.encode() if isinstance(text, str) else text
    answer: tuple[int, dict[str, str], bytes] = instance.http("POST", "/queue", body, {"Content-Type": kind})
    return answer


def said(instance: Any, **command: Any) -> Any:
    """Send a command that is let in; answers the answer."""
    status, headers, body = ask(instance, json.dumps(command))
    assert (status, headers["content-type"]) == (200, "application/json")
    return json.loads(body)


def test_the_four_commands_answer_in_the_seed_s_order_without_a_line_end(instance: Any, queue: str) -> None:
    q = queue.encode()
    for command, wanted in [
        ('"add", "queue": "%s", "value": "ol\u00e1"', b'{"queue": "%b", "value": "ol\\u00e1", "key": "%b:1"}'),
        ('"get", "queue": "%s"', b'{"queue": "%b", "value": "ol\\u00e1", "count": 1, "key": "%b:1"}'),
        ('"get", "queue": "%s"', b'{"queue": "%b", "value": "ol\\u00e1", "count": 2, "key": "%b:1"}'),
        ('"take", "queue": "%s"', b'{"queue": "%b", "value": "ol\\u00e1", "key": "%b:1"}'),
        ('"del", "queue": "%s", "key": "{q}:1"', b'{"queue": "%b", "deleted": false, "key": "%b:1"}'),
    ]:
        text = '{"cmd": ' + command.replace("{q}", queue) % queue + "}"
        assert ask(instance, text)[2] == wanted % (q, q)
    assert said(instance, cmd="get", queue=queue) == {"error": "empty queue"}
    assert said(instance, cmd="take", queue=queue) == {"error": "empty queue"}
    assert said(instance, cmd="get", queue=queue + "never") == {"error": "Null resultset"}
    assert said(instance, cmd="take", queue=queue + "never") == {"error": "empty queue"}


def test_get_s_count_shows_in_rest_s_answer(instance: Any, queue: str) -> None:
    said(instance, cmd="add", queue=queue, value="x")
    said(instance, cmd="get", queue=queue)
    assert b'{"count": 1, ' in instance.http("GET", f"/q/{queue}")[2]


@pytest.mark.parametrize(
    "written",
    [
        *("1.10", "1e400", "-0", "12345678901234567890.123", "1e-5", "5E+3", "9" * 5000, "-1" + "0" * 9999),
        *("null", "true", '{"b":1, "a": [ ],"b":"é\\u00e9"}', "[1,\n2]", '{"a": [' + "7" * 5000 + "]}"),
    ],
)
def test_a_value_that_is_no_string_is_kept_as_its_text(instance: Any, queue: str, written: str) -> None:
    for text in (
        f'{{"cmd": "add", "queue": "{queue}", "value": {written}}}',
        f'{{\n"value"\t:\r\n {written} ,"queue":"{queue}","cmd":"add"}}',
    ):
        assert json.loads(ask(instance, text)[2])["value"] == written
        assert said(instance, cmd="take", queue=queue)["value"] == written


@pytest.mark.parametrize("number", ["0.00001", "1e-5", "0.30000000000000004", "2E0", "3.0", "15.299999999999999"])
def test_a_time_may_be_any_number_of_json(instance: Any, queue: str, number: str) -> None:
    text = f'{{"cmd": "add", "queue": "{queue}", "value": "x", "delay": {number}}}'
    assert json.loads(ask(instance, text)[2])["key"] == f"{queue}:1"
    status, _, shown = instance.http("POST", f"/settings/{queue}", f'{{"dead_ttl": {number}}}', TEXT)
    assert (status, json.loads(shown)["own"]) == (200, ["dead_ttl"])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ('"cmd": "add", "value": "x"', "the field 'queue' is missing"),
        ('"cmd": "add", "queue": "{}"', "the field 'value' is missing"),
        ('"cmd": "del", "queue": "{}"', "the field 'key' is missing"),
        ('"queue": "{}"', "the field 'cmd' is missing"),
        ('"cmd": "ad", "queue": "{}"', "did you mean 'add'?"),
        ('"cmd": ["add"], "queue": "{}"', "unknown command"),
        ('"cmd": null, "queue": "{}"', "unknown command"),
        ('"cmd": "take", "queue": "{}", "leese": 5', "unknown field 'leese' in take"),
        ('"cmd": "add", "queue": "{}", "value": "x", "tll": 5', "did you mean 'ttl'?"),
        ('"cmd": "get", "queue": "{}", "value": 5', "unknown field 'value' in get"),
        ('"cmd": "add", "queue": 5, "value": "x"', "'queue' must be a string"),
        ('"cmd": "add", "queue": "{}/", "value": "x"', "the queue name has '/' in it"),
        ('"cmd": "add", "queue": "", "value": "x"', "the queue name is empty"),
        ('"cmd": "add", "queue": "{}\\ud800", "value": "x"', "lone surrogate"),
        ('"cmd": "add", "queue": "{}", "value": "a\\udfff"', "lone surrogate"),
        ('"cmd": "add", "queue": "{}", "value": "x", "ttl": 0', "ttl must be above 0"),
        ('"cmd": "add", "queue": "{}", "value": "x", "ttl": true', "'ttl' must be a number"),
        ('"cmd": "add", "queue": "{}", "value": "x", "ttl": null', "'ttl' must be a number"),
        ('"cmd": "add", "queue": "{}", "value": "x", "ttl": 1e400', "the number 1e400 is larger"),
        ('"cmd": "add", "queue": "{}", "value": "x", "ttl": ' + "9" * 5000, "has 5000 digits"),
        ('"cmd": "add", "queue": "{}", "value": "x", "id": ' + "9" * 5000, "has 5000 digits"),
        ('"cmd": "get", "queue": "{}", "id": "\\ud800"', "the field 'id' has a lone surrogate"),
        ('"cmd": "get", "queue": "{}", "id": {"a": {"b": 1, "b": 2}}', "the name 'b' stands twice"),
        ('"cmd": "get", "queue": "{}", "queue": "{}"', "the name 'queue' stands twice"),
        ('"cmd": "add", "queue": "{}", "value": "x", "value": "y"', "the name 'value' stands twice"),
        *(
            (f'"cmd": "{verb}", "queue": "{{}}", {rest}"{word}": ""', f"the field '{word}' is empty")
            for verb, rest, word in (
                ("take", "", "lease"),
                ("take", "", "wait"),
                ("add", '"value": "x", ', "delay"),
                ("touch", '"key": "{}:1", ', "lease"),
                ("touch", '"key": "{}:1", "lease": 0, ', "delay"),
            )
        ),
        ('"cmd": "add", "queue": "{}", "value": "x", "ttl": "5 years"', "ttl is not a time"),
        ('"cmd": "del", "queue": "{}", "key": 1', "'key' must be a string"),
        ('"cmd": "del", "queue": "{}", "key": "other:1"', "belongs to another queue"),
        ('"cmd": "del", "queue": "{}", "key": "{}:01"', "is not an element number"),
        ('"cmd": "del", "queue": "{}", "key": "restmq:names"', "belongs to another queue"),
        ('"cmd": "add", "queue": "{}", "value": "x", "id": 1e400', "the number 1e400 is larger"),
        ('"cmd": "add", "queue": "{}", "value": "x", "delay": "400d"', "delay is at most 366 days"),
        ('"cmd": "add", "queue": "{}", "value": "x", "delay": -1', "delay is not a time"),
        ('"cmd": "add", "queue": "{}", "value": "x", "delay": [5]', "'delay' must be a number"),
        ('"cmd": "add", "queue": "{}", "value": "x", "idempotency_key": 5', "'idempotency_key' must be a string"),
        ('"cmd": "add", "queue": "{}", "value": "x", "idempotency_key": ""', "1 to 255 visible"),
        ('"cmd": "add", "queue": "{}", "value": "x", "idempotency_key": "a b"', "1 to 255 visible"),
        ('"cmd": "add", "queue": "{}", "value": "x", "idempotency-key": "a"', "did you mean 'idempotency_key'?"),
        ('"cmd": "get", "queue": "{}", "lease": 5', "unknown field 'lease' in get"),
        ('"cmd": "take", "queue": "{}", "lease": 0', "lease must be above 0"),
        ('"cmd": "take", "queue": "{}", "lease": "25h"', "lease is at most 24 hours"),
        ('"cmd": "take", "queue": "{}", "lease": false', "'lease' must be a number"),
        ('"cmd": "take", "queue": "{}", "wait": 61', "wait is at most 60 seconds"),
        ('"cmd": "take", "queue": "{}", "wait": null', "'wait' must be a number"),
        ('"cmd": "take", "queue": "{}", "max": 5', "unknown field 'max' in take"),
        ('"cmd": "del", "queue": "{}", "key": "{}:1", "match": 5', "'match' must be a string"),
        ('"cmd": "del", "queue": "{}", "key": "{}:1", "match": ""', "is not a lease"),
        ('"cmd": "del", "queue": "{}", "key": "{}:1", "match": "*"', "is not a lease"),
        ('"cmd": "del", "queue": "{}", "key": "{}:1", "match": "2.1@x"', "a lease of element 2, not of 1"),
        ('"cmd": "del", "queue": "{}", "key": "{}:1", "match": "1.1@x"', "does not hold"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1"', "the field 'lease' is missing"),
        ('"cmd": "touch", "queue": "{}", "lease": 5', "the field 'key' is missing"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 5', "does not hold"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:9", "lease": 0', "there is no such element"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 5, "delay": 5', "go with lease=0"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 5, "error": "x"', "go with lease=0"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 0, "error": 5', "'error' must be a string"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 0, "error": "\\ud800"', "lone surrogate"),
        ('"cmd": "touch", "queue": "{}", "key": "{}:1", "lease": 0, "value": 5', "unknown field 'value' in touch"),
    ],
)
def test_a_wrong_command_field_or_value_is_an_error_with_200_and_does_nothing(
    instance: Any, queue: str, fields: str, error: str
) -> None:
    said(instance, cmd="add", queue=queue, value="stays")
    status, _, body = ask(instance, "{" + fields.replace("{}", queue) + "}")
    answer = json.loads(body)
    assert (status, list(answer)) == (200, ["error"])
    assert error in answer["error"]
    books = json.loads(instance.http("GET", f"/stats/{queue}")[2])
    assert (books["len"], books["added"], books["taken"]) == (1, 1, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"{nope",
        b"[1]",
        b'"x"',
        b"{}{}",
        b'{"cmd": NaN}',
        b'{"cmd": -Infinity}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        '{"cmd": "get"}'.encode("utf-16"),
        b'{"a":' + b"[" * 100_000,
        b'{"cmd": "get", "queue": "q", "id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"cmd": "add", "queue": "q", "value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'\xef\xbb\xbf{"cmd": "get", "queue": "q"}',
        b"",
        b"body=%7Bnope",
    ],
)
def test_what_is_no_json_object_is_400(instance: Any, text: bytes) -> None:
    for kind in ("application/json", "text/plain", FORM["Content-Type"]):
        status, headers, body = ask(instance, text, kind)
        assert (status, headers["content-type"]) == (400, "application/problem+json"), body


def test_white_space_before_a_command_is_let_pass_where_no_field_of_a_form_is_meant(instance: Any, queue: str) -> None:
    command = f'{{"cmd": "add", "queue": "{queue}", "value": "a=b&c"}}'
    ways = [(f"    {command}", FORM), (f"\n\t {command}\n", FORM), (f" {command}", TEXT)]
    for number, (body, kind) in enumerate(ways, 1):
        status, _, answer = instance.http("POST", "/queue", body, kind)
        assert (status, json.loads(answer)["key"]) == (200, f"{queue}:{number}")
    field = urlencode({" {x": "", "body": command})
    assert json.loads(instance.http("POST", "/queue", field, FORM)[2])["key"] == f"{queue}:4"
    for body in ("  cmd", "x={}", ""):
        status, _, answer = instance.http("POST", "/queue", body, FORM)
        assert (status, "begins with {" in json.loads(answer)["error"]) == (400, True)


def test_the_command_may_be_the_body_or_a_field_of_a_form(instance: Any, queue: str) -> None:
    text = f'{{"cmd": "get", "queue": "{queue}"}}'
    wanted = (200, b'{"error": "Null resultset"}')
    for kind in (FORM["Content-Type"], "application/json", "text/plain", "x/y"):
        assert ask(instance, text, kind)[0::2] == wanted
    assert ask(instance, "\n " + text)[0::2] == wanted
    for field in ("body", "msg"):
        assert instance.form("/queue", f"{field}={text}") == wanted
    assert instance.http("POST", "/queue?body=" + text.replace(" ", "%20"))[0::2] == wanted
    assert instance.http("POST", "/queue?ttl=5&_=1&callback=cb", text, FORM)[2] == b"cb(" + wanted[1] + b");"
    assert instance.http("POST", "/queue?callback=a-b", text, FORM)[0] == 400
    assert instance.http("POST", "/queue?lease=5", text, FORM)[0] == 400


@pytest.mark.parametrize(
    "word", ["7", '"seven"', "null", '{"a": ["\\u00e9"]}', '"\\ud83d\\ude00"', "[" * 100 + "]" * 100]
)
def test_the_id_comes_back_as_the_last_field(instance: Any, queue: str, word: str) -> None:
    on = f'"queue": "{queue}"'
    for rest in (f'"cmd": "get", {on}', '"cmd": "nothing"', f'"cmd": "add", {on}, "value": 1'):
        body = ask(instance, f'{{"id": {word}, {rest}}}')[2]
        assert body.endswith(f', "id": {word}}}'.encode()), body


def test_a_ttl_ends_the_element(instance: Any, queue: str) -> None:
    for ttl in (0.05, "50ms"):
        said(instance, cmd="add", queue=queue, value="soon over", ttl=ttl)
    said(instance, cmd="add", queue=queue, value="stays", ttl="")
    time.sleep(0.2)
    assert said(instance, cmd="take", queue=queue)["value"] == "stays"
    assert said(instance, cmd="take", queue=queue) == {"error": "empty queue"}


def test_a_value_over_its_limit_is_413(instance: Any, queue: str) -> None:
    big = json.dumps({"cmd": "add", "queue": queue, "value": "a" * ((1 << 20) + 1)})
    status, headers, _ = ask(instance, big)
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert ask(instance, big.replace("a" * 10, "a" * 9, 1))[0] == 200
    assert ask(instance, b"{" + b" " * (4 << 20) + b"}")[0] == 413


def test_a_command_nested_too_deep_does_nothing(instance: Any, queue: str) -> None:
    for depth in (500, 900, 950, 970, 980, 990, 1000, 5000):
        nested = "[" * depth + "]" * depth
        for field in ('"value": ' + nested, '"value": "x", "id": ' + nested):
            status = ask(instance, f'{{"cmd": "add", "queue": "{queue}", {field}}}')[0]
            assert status in (200, 400), depth


def test_a_command_needs_the_section_of_its_command_and_keeps_that_status(start: Any, queue: str) -> None:
    conf = "[rest:producer]\nusername = u\npassword = p\n[rest:consumer]\nhosts_deny = all\n"
    one = start(conf + "[websocket:consumer]\nhosts_allow = all\n")
    for command, wanted in (("add", 401), ("get", 403), ("take", 403), ("del", 403), ("touch", 403), ("nothing", 200)):
        text = f'{{"cmd": "{command}", "queue": "{queue}", "id": 7}}'
        status, headers, body = ask(one, text)
        assert status == wanted
        assert ("www-authenticate" in headers) == (wanted == 401)
        assert list(json.loads(body).items())[-1] == ("id", 7)
        with Talker(one.port, f"/ws/{queue}") as ws:
            ws.send(text)
            answer = json.loads(ws.recv())
            assert answer["id"] == 7
            assert answer["error"]
            assert answer.get("status", 200) == wanted


def test_a_value_is_passed_on_as_it_stands_in_the_text() -> None:
    command = commands.parse(b'{ "a" : 1.50 ,"b": {"value": 3}, "v\\u0061lue":\t{"x":0.10, "x":1} }')
    assert (command["a"], command["b"], command.opaque) == (1.5, {"value": 3}, b'{"x":0.10, "x":1}')
    assert commands.parse(b"{}").opaque == b""
    with pytest.raises(BadRequest):
        commands.parse(b"\xff")


# -- options of commands


def test_add_takes_a_delay_and_an_idempotency_key(instance: Any, queue: str) -> None:
    first = said(instance, cmd="add", queue=queue, value="a", delay="1h", ttl="2h", idempotency_key="k", id=1)
    assert list(first.items()) == [("queue", queue), ("value", "a"), ("key", f"{queue}:1"), ("id", 1)]
    again = said(instance, cmd="add", queue=queue, value="a", idempotency_key="k", id=2)
    assert list(again.items())[2:] == [("key", f"{queue}:1"), ("replayed", True), ("id", 2)]
    other = said(instance, cmd="add", queue=queue, value="b", idempotency_key="k", id=3)
    assert (list(other), "used with another body" in other["error"]) == (["error", "id"], True)
    rest = instance.http("POST", f"/q/{queue}", "a", {"Content-Type": "text/plain", "Idempotency-Key": "k"})
    assert (rest[1]["idempotency-replayed"], rest[2]) == ("true", f"{queue}:1\r\n".encode())
    books = json.loads(instance.http("GET", f"/stats/{queue}")[2])
    assert (books["len"], books["delayed"], books["added"]) == (0, 1, 1)


def test_take_leases_and_del_and_touch_match(instance: Any, queue: str) -> None:
    key = f"{queue}:1"
    said(instance, cmd="add", queue=queue, value="a")
    taken = said(instance, cmd="take", queue=queue, lease="1h", id="x")
    assert list(taken) == ["queue", "value", "key", "deliveries", "lease", "id"]
    assert (taken["value"], taken["deliveries"], taken["lease"][:4]) == ("a", 1, "1.1@")
    assert said(instance, cmd="take", queue=queue, lease=5) == {"error": "empty queue"}
    lease = taken["lease"]
    assert list(said(instance, cmd="touch", queue=queue, key=key, lease=3600, match=lease, id=1).items()) == [
        ("queue", queue),
        ("key", key),
        ("deliveries", 1),
        ("lease", lease),
        ("id", 1),
    ]
    assert said(instance, cmd="touch", queue=queue, key=key, lease=0) == {"queue": queue, "key": key, "lease": None}
    again = said(instance, cmd="take", queue=queue, lease=3600)
    assert again["deliveries"] == 2
    for lost in (
        said(instance, cmd="del", queue=queue, key=key, match=lease),
        said(instance, cmd="touch", queue=queue, key=key, match=lease, lease=5),
        said(instance, cmd="touch", queue=queue, key=key, match=lease, lease=0, error="x"),
    ):
        assert (list(lost), "does not hold" in lost["error"]) == (["error"], True)
    gone = said(instance, cmd="del", queue=queue, key=key, match=again["lease"])
    assert gone == {"queue": queue, "deleted": True, "key": key}
    assert json.loads(instance.http("GET", f"/stats/{queue}")[2])["acked"] == 1
    assert said(instance, cmd="del", queue=queue, key=key, match=again["lease"])["deleted"] is False


def test_touch_gives_back_later_and_with_a_reason(instance: Any, queue: str) -> None:
    said(instance, cmd="add", queue=queue, value="a")
    lease = said(instance, cmd="take", queue=queue, lease=3600)["lease"]
    said(instance, cmd="touch", queue=queue, key=f"{queue}:1", match=lease, lease="0", delay=3600, error="olá")
    look = json.loads(instance.http("GET", f"/q/{queue}/1")[2])
    assert (look["state"], look["errors"]) == ("delayed", ["olá"])


def test_a_take_may_wait(instance: Any, queue: str) -> None:
    assert said(instance, cmd="take", queue=queue, wait="100ms") == {"error": "empty queue"}
    answers: list[Any] = []

    def ask_and_wait(**more: Any) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: answers.append(said(instance, cmd="take", queue=queue, wait=60, **more))
        )
        thread.start()
        until(lambda: waiters(instance, queue) == 1)
        return thread

    for more in ({}, {"lease": 3600, "id": 7}):
        thread = ask_and_wait(**more)
        said(instance, cmd="add", queue=queue, value="a")
        thread.join(PATIENCE)
    assert [list(one) for one in answers] == [
        ["queue", "value", "key"],
        ["queue", "value", "key", "deliveries", "lease", "id"],
    ]


def test_a_client_that_leaves_while_its_take_waits_loses_nothing(instance: Any, queue: str) -> None:
    for more in ({}, {"lease": 3600}):
        body = json.dumps({"cmd": "take", "queue": queue, "wait": 60, **more})
        with socket.create_connection(("127.0.0.1", instance.port)) as link:
            link.sendall(
                f"POST /queue HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            until(lambda: waiters(instance, queue) == 1)
        until(lambda: waiters(instance, queue) == 0)
        said(instance, cmd="add", queue=queue, value="stays")
        assert said(instance, cmd="take", queue=queue)["value"] == "stays"


def test_on_a_websocket_a_take_that_waits_needs_an_id(instance: Any, queue: str) -> None:
    with Talker(instance.port, f"/ws/{queue}.other") as ws:

        def ask(**command: Any) -> Any:
            ws.send(json.dumps({"queue": queue, **command}))
            return json.loads(ws.recv())

        assert "needs an 'id'" in ask(cmd="take", wait=5)["error"]
        assert "needs an 'id'" in ask(cmd="take", wait="5s", lease=5)["error"]
        assert ask(cmd="take", wait=0) == {"error": "empty queue"}
        assert ask(cmd="take", wait=0.1, id=1) == {"error": "empty queue", "id": 1}
        ask(cmd="add", value="a")
        taken = ask(cmd="take", lease=3600, id=2)
        assert (taken["deliveries"], taken["id"]) == (1, 2)
        assert ask(cmd="touch", key=f"{queue}:1", lease=3600, match=taken["lease"])["lease"] == taken["lease"]
        assert "does not hold" in ask(cmd="del", key=f"{queue}:1", match="1.9@x")["error"]
        assert ask(cmd="del", key=f"{queue}:1", match=taken["lease"])["deleted"] is True


def test_on_a_websocket_others_go_on_while_a_take_waits(instance: Any, queue: str) -> None:
    with Talker(instance.port, f"/ws/{queue}.other") as ws:
        ws.send(json.dumps({"cmd": "take", "queue": queue, "wait": 60, "lease": 3600, "id": "waits"}))
        ws.send(json.dumps({"cmd": "get", "queue": queue}))
        assert json.loads(ws.recv()) == {"error": "Null resultset"}
        until(lambda: waiters(instance, queue) == 1)
        said(instance, cmd="add", queue=queue, value="a")
        answer = json.loads(ws.recv())
        assert (answer["value"], answer["deliveries"], answer["id"]) == ("a", 1, "waits")


class Socket(Client):
    """A connection whose elements are leased to it, and which gives no right beyond them."""

    must_match = True

    def __init__(self, queue: str, lease: str) -> None:
        super().__init__()
        self.own = (queue, lease)

    def owns(self, queue: str, lease: str) -> bool:
        """What came over it."""
        return (queue, lease) == self.own


def test_who_has_a_lease_over_its_connection_may_end_it_without_the_section_of_consumers(
    redis_server: Any, queue: str
) -> None:
    def forbidden(section: str) -> None:
        raise Forbidden(f"{section} is not open")

    with reactor.core(redis_server.address) as core:
        until(lambda: core.redis.link is not None)
        app = SimpleNamespace(core=core)
        name = queue.encode()
        for value in (b"a", b"b"):
            reactor.wait(core.add, name, value)
        first, second = (bytes(one.lease).decode() for one in reactor.wait(core.lease, name, 2, 3_600_000))
        client = Socket(queue, first)

        def run(**command: Any) -> Any:
            text = json.dumps({"queue": queue, **command}).encode()
            return json.loads(reactor.wait(commands.run, app, text, forbidden, True, client))

        for refused in (
            run(cmd="del", key=f"{queue}:2", match=second),
            run(cmd="del", key=f"{queue}:1"),
            run(cmd="take"),
            run(cmd="get", match=first),
            run(cmd="touch", key=f"{queue}:1", lease=5),
            run(cmd="del", key=f"{queue}:1", match=[first]),
        ):
            assert refused.get("status", 200) == 403 or "unknown field" in refused["error"]
        assert run(cmd="touch", key=f"{queue}:1", match=first, lease=5)["lease"] == first
        assert run(cmd="del", key=f"{queue}:1", match=first)["deleted"] is True
        text = json.dumps({"cmd": "del", "queue": queue, "key": f"{queue}:2"}).encode()
        everybody = json.loads(reactor.wait(commands.run, app, text, lambda section: None, True, client))
        assert "'match' is missing" in everybody["error"]


def test_a_page_shows_the_beginning_of_what_was_sent_and_all_that_was_handed_out(instance: Any, queue: str) -> None:
    value = "v" * 200_000
    command = json.dumps({"cmd": "add", "queue": queue, "value": value})
    status, page = instance.form("/queue", f"page=1&body={command}")
    assert status == 200 and len(page) < 150_000 and page.count("v…".encode()) == 2
    status, page = instance.form("/queue", "page=1&body=" + json.dumps({"cmd": "take", "queue": queue}))
    assert status == 200 and value.encode() in page
    status, page = instance.form("/queue", "page=1&body=" + '"' * 200_000)
    assert status == 400 and len(page) < 400_000
