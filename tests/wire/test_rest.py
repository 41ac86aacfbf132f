"""REST on the wire: values byte for byte, options, what GET hands out and what must not hand out anything."""

from __future__ import annotations

import json
import socket
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from restmq.api import pull
from restmq.runtime.future import deferred
from tests.support.requests import FORM, TEXT

MIB = 1 << 20

VALUES = [
    "",
    " spaces around ",
    "007",
    "null",
    '{"a": 1}',
    "line\nline\r\nline\r",
    "nul \0 and bell \a",
    "a+b&c=d;e%41%zz%",
    "value=twice",
    "olá mundo ☃ 🦊",
    "\u2028 and \u2029 and \ufeff",
    '</script><b>"quoted"\\',
]


def multipart(name: str, value: str) -> tuple[bytes, dict[str, str]]:
    """One field as a browser sends it with enctype=multipart/form-data."""
    part = f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--X--\r\n'
    return part.encode(), {"Content-Type": "multipart/form-data; boundary=X"}


WAYS: dict[str, Any] = {
    "value": lambda value: (urlencode({"value": value}), FORM),
    "escaped throughout": lambda value: ("value=" + "".join(f"%{byte:02x}" for byte in value.encode()), FORM),
    "an escaped field name": lambda value: ("v%61lue=" + quote(value), FORM),
    "msg": lambda value: (urlencode({"other": "1", "msg": value}), FORM),
    "text": lambda value: (value.encode(), TEXT),
    "json": lambda value: (value.encode(), {"Content-Type": "application/json"}),
    "multipart": lambda value: multipart("value", value),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_value_comes_out_byte_for_byte_as_it_went_in(instance: Any, queue: str, way: str) -> None:
    for number, value in enumerate(VALUES, 1):
        body, headers = WAYS[way](value)
        status, told, answer = instance.http("POST", f"/q/{queue}", body, headers)
        assert (status, answer) == (200, f"{queue}:{number}\r\n".encode())
        assert told["content-type"] == "text/plain; charset=utf-8"
    for number, value in enumerate(VALUES, 1):
        status, told, answer = instance.http("GET", f"/q/{queue}")
        assert (status, told["content-type"]) == (200, "application/json")
        assert answer == b'{"count": 0, "key": "%b:%d", "value": %b}\r\n' % (
            queue.encode(),
            number,
            json.dumps(value).encode("ascii"),
        )


def test_204_has_no_body_no_length_and_no_type(instance: Any, queue: str) -> None:
    for method, path in (("GET", f"/q/{queue}"), ("POST", f"/q/{queue}/take")):
        status, headers, body = instance.http(method, path)
        assert (status, body) == (204, b"")
        assert "content-length" not in headers
        assert "content-type" not in headers


@pytest.mark.parametrize(
    ("path", "body", "headers", "part"),
    [
        ("/q/{}", "other=1", FORM, "--data-urlencode value@file"),
        ("/q/{}", "other=1", FORM, "-H 'Content-Type: text/plain'"),
        ("/q/{}", "", FORM, "--data-urlencode value@file"),
        ("/q/{}", None, {}, "no value"),
        ("/q/{}", "value=a&value=b", FORM, "'value' was given 2 times"),
        ("/q/{}", "msg=a&msg=b", FORM, "'msg' was given 2 times"),
        ("/q/{}", "msg=a&value=b&value=c", FORM, "'value' was given 2 times"),
        ("/q/{}", "value=%ff", FORM, "not UTF-8: byte 0"),
        ("/q/{}", b"ab\xed\xa0\x80", TEXT, "not UTF-8: byte 2"),
        ("/", "value=x", FORM, "needs a field `queue`"),
        ("/", "queue={}", FORM, "no value"),
        ("/", "queue=a b&value=x", FORM, "the queue name has ' ' in it"),
        ("/q/{}", "&".join(f"a{n}=1" for n in range(101)), FORM, "more than 100 fields"),
    ],
)
def test_what_holds_no_value_is_400_that_says_what_to_do(
    instance: Any, queue: str, path: str, body: Any, headers: dict[str, str], part: str
) -> None:
    if isinstance(body, str):
        body = body.replace("{}", queue)
    status, told, answer = instance.http("POST", path.replace("{}", queue), body, headers)
    assert (status, told["content-type"]) == (400, "application/problem+json")
    assert part in json.loads(answer)["error"]
    assert instance.http("GET", f"/q/{queue}")[0] == 204


def test_msg_weighs_more_than_value_and_the_body_more_than_the_query(instance: Any, queue: str) -> None:
    for target, body, wanted in [
        ("", "value=v&msg=m", "m"),
        ("?msg=query", "value=body", "body"),
        ("?value=query", "", "query"),
        ("?msg=m&value=v&_=1&policy=x", "unknown=passes", "m"),
    ]:
        assert instance.http("POST", f"/q/{queue}{target}", body, FORM)[0] == 200
        assert json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] == wanted
    assert instance.http("POST", f"/?queue={queue}&value=old", None)[0] == 200
    assert json.loads(instance.http("GET", f"/?queue={queue}")[2])["value"] == "old"


def test_a_value_may_have_max_value_and_not_one_byte_more(instance: Any, queue: str) -> None:
    for extra, wanted in ((0, 200), (1, 413)):
        size = MIB + extra
        assert instance.http("POST", f"/q/{queue}", b"a" * size, TEXT)[0] == wanted
        assert instance.http("POST", f"/q/{queue}", b"value=" + b"%61" * size, FORM)[0] == wanted
        assert instance.http("POST", f"/q/{queue}", b"x=1&value=" + b"a" * size, FORM)[0] == wanted
    status, _, answer = instance.http("POST", f"/q/{queue}", b"value=a&x=" + b"a" * (4 * MIB), FORM)
    assert status == 413
    assert b"the form has" in answer
    assert instance.http("HEAD", f"/q/{queue}")[1]["restmq-waiting"] == "3"


@pytest.mark.parametrize("ttl", ["0", "-1", "367d", "1e3", "5  m", "x", "1w", "9" * 30, "٣"])
def test_a_ttl_out_of_range_is_400_wherever_it_stands(instance: Any, queue: str, ttl: str) -> None:
    text = quote(ttl)
    asked: list[tuple[str, str, dict[str, str]]] = [
        (f"/q/{queue}?ttl={text}", "value=x", FORM),
        (f"/q/{queue}", f"value=x&ttl={text}", FORM),
        (f"/q/{queue}", f"value=x&%74tl={text}", FORM),
        ("/", f"queue={queue}&value=x&ttl={text}", FORM),
    ]
    if ttl.isascii():
        asked.append((f"/q/{queue}", "value=x", {**FORM, "RestMQ-TTL": ttl}))
    for path, body, headers in asked:
        status, _, answer = instance.http("POST", path, body, headers)
        assert (status, b"ttl" in answer) == (400, True), (path, body, answer)
    assert instance.http("HEAD", f"/q/{queue}")[1]["restmq-waiting"] == "0"


@pytest.mark.parametrize("ttl", ["1.5", ".5", "500ms", "30s", "5m", "5 m", "2h", "1d", "366d", "0.0001"])
def test_a_ttl_is_a_time_as_people_write_it(instance: Any, queue: str, ttl: str) -> None:
    assert instance.form(f"/q/{queue}", f"value=x&ttl={ttl}") == (200, f"{queue}:1\r\n".encode())


def test_the_query_weighs_more_than_the_header_and_the_header_more_than_the_form(instance: Any, queue: str) -> None:
    kept = []
    for name, query, header, form in [
        ("q", "?ttl=1h", "50ms", "50ms"),
        ("h", "?ttl=", "1h", "50ms"),
        ("f", "?ttl=", "", "1h"),
        ("short", "?ttl=50ms", "1h", "1h"),
        ("never", "", "", ""),
    ]:
        body = f"value={name}&ttl={form}"
        assert instance.http("POST", f"/q/{queue}{query}", body, {**FORM, "RestMQ-TTL": header})[0] == 200
    time.sleep(0.2)
    while True:
        status, _, answer = instance.http("GET", f"/q/{queue}")
        if status == 204:
            break
        kept.append(json.loads(answer)["value"])
    assert kept == ["q", "h", "f", "never"]


@pytest.mark.parametrize(
    ("method", "target", "headers", "part"),
    [
        ("GET", "?leese=5", {}, "'leese'"),
        ("GET", "?forget=1", {}, "'forget'"),
        ("GET", "", {"RestMQ-Leese": "5"}, "'RestMQ-leese'"),
        ("GET", "", {"RestMQ-Lease": "5", "restmq-lease": "5"}, "'restmq-lease' was given more than once"),
        ("POST", "/1?lease=0", {"RestMQ-Error": "a", "restmq-error": "b"}, "'restmq-error' was given more than once"),
        ("HEAD", "?wait=1", {}, ""),
        ("POST", "/take?delay=1", {}, "'delay'"),
        ("DELETE", "?forgte=1", {}, "did you mean 'forget'?"),
        ("DELETE", "?forget=yes", {}, "forget is 1 or 0"),
        ("DELETE", "/1?match=x", {}, "'match'"),
        ("POST", "?tll=5", TEXT, "did you mean 'ttl'?"),
        ("POST", "", {**TEXT, "RestMQ-TTLL": "5"}, "did you mean 'ttl'?"),
        ("GET", "?callback=alert(1)", {}, "callback"),
        ("GET", "?callback=" + "a" * 65, {}, "callback"),
        ("DELETE", "?callback=a-b", {}, "callback"),
        ("DELETE", "?callback=a&callback=b", {}, "'callback' was given more than once"),
        ("GET", "?callback=a&c%61llback=a", {}, "'callback' was given more than once"),
        ("DELETE", "/1?callback=a..b", {}, "callback"),
        ("POST", "/take?callback=1a", {}, "callback"),
    ],
)
def test_an_option_that_is_not_known_or_not_right_does_nothing(
    instance: Any, queue: str, method: str, target: str, headers: dict[str, str], part: str
) -> None:
    instance.form(f"/q/{queue}", "value=stays")
    status, _, answer = instance.http(method, f"/q/{queue}{target}", None, headers)
    assert (status, part.encode() in answer) == (400, True), answer
    assert instance.http("HEAD", f"/q/{queue}")[1]["restmq-waiting"] == "1"
    assert json.loads(instance.http("GET", f"/q/{queue}?_=1")[2])["value"] == "stays"


def test_jsonp_wraps_plain_json_answers_only(instance: Any, queue: str) -> None:
    status, headers, body = instance.http("POST", f"/q/{queue}?callback=cb", "value=x", FORM)
    assert (status, body) == (200, f"{queue}:1\r\n".encode())
    status, headers, body = instance.http("GET", f"/q/{queue}?callback=$.a_1.b")
    assert body == b'$.a_1.b({"count": 0, "key": "%b:1", "value": "x"});\r\n' % queue.encode()
    assert headers["content-type"] == "application/javascript"
    assert instance.http("GET", f"/q/{queue}?callback=cb")[0::2] == (204, b"")
    assert instance.http("DELETE", f"/q/{queue}?callback=cb")[2].startswith(b'cb({"queue": ')
    assert instance.http("GET", f"/?queue={queue}&callback=cb")[1]["content-type"] == "application/problem+json"


def test_what_only_looks_ahead_consumes_nothing(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=stays")
    for method, path in (("GET", f"/q/{queue}"), ("POST", f"/q/{queue}/take"), ("GET", f"/?queue={queue}")):
        for purpose in ("prefetch", "prefetch;prerender"):
            status, _, answer = instance.http(method, path, None, {"Sec-Purpose": purpose})
            assert (status, b"urn:restmq:prefetch" in answer) == (503, True)
    headers = instance.http("HEAD", f"/q/{queue}")[1]
    assert [headers[f"restmq-{word}"] for word in ("waiting", "delayed", "leased")] == ["1", "0", "0"]
    assert instance.http("POST", f"/q/{queue}/take")[2] == b'{"count": 0, "key": "%b:1", "value": "stays"}\r\n' % (
        queue.encode()
    )


def test_get_consumes_no_makes_every_get_of_an_element_405(start: Any, queue: str) -> None:
    one = start("[server]\nget_consumes = no\n")
    one.form(f"/q/{queue}", "value=stays")
    for path, allow in (
        (f"/q/{queue}", "POST, HEAD, DELETE, OPTIONS"),
        (f"/?queue={queue}", "POST, OPTIONS"),
        (f"/?%71ueue={queue}", "POST, OPTIONS"),
    ):
        status, headers, answer = one.http("GET", path)
        assert (status, headers["allow"], b"/q/NAME/take" in answer) == (405, allow, True)
    assert one.http("GET", "/")[0] == 200
    assert json.loads(one.http("POST", f"/q/{queue}/take")[2])["value"] == "stays"


def test_two_names_in_one_request_take_from_neither(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=stays")
    assert instance.http("GET", f"/?queue={queue}&queue={queue}")[0] == 400
    assert instance.http("GET", f"/?queue={queue}")[0] == 200


def test_get_without_a_queue_is_the_page_whatever_its_parameters(instance: Any) -> None:
    for path in ("/", "/?utm_source=mail", "/?Queue=x"):
        status, headers, body = instance.http("GET", path)
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"<h1>RestMQ</h1>" in body
    assert instance.http("GET", "/?queue=")[0] == 400


def test_delete_by_key_takes_that_element_and_no_other(instance: Any, queue: str) -> None:
    for value in "abc":
        instance.form(f"/q/{queue}", f"value={value}")
    assert instance.http("DELETE", f"/q/{queue}/2")[2] == b'{"queue": "%b", "deleted": true, "key": "%b:2"}\r\n' % (
        (queue.encode(),) * 2
    )
    assert b'"deleted": false' in instance.http("DELETE", f"/q/{queue}/2")[2]
    assert b'"deleted": false' in instance.http("DELETE", f"/q/{queue}/99")[2]
    for wrong, status in (("0", 400), ("01", 400), ("9" * 17, 400), ("x", 404), ("-1", 404), ("1/", 404)):
        assert instance.http("DELETE", f"/q/{queue}/{wrong}")[0] == status
    assert [json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] for _ in range(2)] == ["a", "c"]


def test_a_purge_keeps_the_counter_and_forget_does_not(instance: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=a")
    instance.form(f"/p/{queue}", "policy=roundrobin")
    assert instance.http("DELETE", f"/q/{queue}")[2] == b'{"queue": "%b", "status": 1}\r\n' % queue.encode()
    assert b'"status": 0}' in instance.http("DELETE", f"/q/{queue}")[2]
    assert instance.form(f"/q/{queue}", "value=b")[1] == f"{queue}:2\r\n".encode()
    assert b'"roundrobin"' in instance.http("GET", f"/p/{queue}")[2]
    assert b'"status": 1}' in instance.http("DELETE", f"/q/{queue}?forget=1")[2]
    assert b'"status": 0}' in instance.http("DELETE", f"/q/{queue}?forget=1")[2]
    assert b'"broadcast"' in instance.http("GET", f"/p/{queue}")[2]
    assert instance.form(f"/q/{queue}", "value=c")[1] == f"{queue}:1\r\n".encode()


BAD_NAMES = ["a%2Fb", "%20", "a%00", "a%7f", "%c2%85", "a,b", "a%7Bb", "%22", "%3C", "%5C", ".", "%2e%2e", "%ff"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "a" * 256])
def test_the_one_name_rule_holds_at_every_route(instance: Any, name: str) -> None:
    for method, path in [
        ("GET", "/q/{}"),
        ("HEAD", "/q/{}"),
        ("POST", "/q/{}"),
        ("DELETE", "/q/{}"),
        ("POST", "/q/{}/take"),
        ("DELETE", "/q/{}/1"),
        ("GET", "/?queue={}"),
        ("GET", "/p/{}"),
        ("GET", "/control/{}"),
        ("GET", "/stats/{}"),
        ("GET", "/j/{}"),
    ]:
        body = b"value=x" if method == "POST" else None
        status, _, answer = instance.http(method, path.replace("{}", name), body, FORM)
        assert status == 400, (method, path, answer)
        assert method == "HEAD" or b"urn:restmq:bad-name" in answer


@pytest.mark.parametrize("name", ["a+b", "a:b", "x?y#z%", "a&b'c", "é☃", "take", "…", "=", "a" * 255])
def test_a_name_of_unusual_letters_is_one_name(instance: Any, queue: str, name: str) -> None:
    name = (queue + name)[-255:]
    path = "/q/" + quote(name, safe="+:")
    assert instance.form(path, "value=x") == (200, f"{name}:1\r\n".encode())
    assert json.loads(instance.http("GET", path)[2])["key"] == f"{name}:1"


def test_what_a_client_that_left_had_asked_for_stays(instance: Any, redis_server: Any, queue: str) -> None:
    instance.form(f"/q/{queue}", "value=stays")
    with redis_server.client() as store:
        store.client_pause(2000)  # /readyz is not answered before the client has left
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.sendall(
            b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"POST /q/%b/take HTTP/1.1\r\nHost: localhost\r\n\r\n" % queue.encode()
        )
        # Closed with a reset: no half of the connection goes on.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    time.sleep(0.2)
    got = instance.http("GET", f"/q/{queue}")
    taken = json.loads(instance.http("GET", f"/stats/{queue}")[2])["taken"]
    assert (got[0], taken) == (200, 1)


def test_a_take_for_a_client_that_is_gone_does_not_ask_the_core() -> None:
    gone: Any = SimpleNamespace(gone=True)  # there is no core to ask
    answers: list[Any] = []
    deferred(pull.take(gone, b"q")).addCallback(answers.append)
    assert answers == [None]
