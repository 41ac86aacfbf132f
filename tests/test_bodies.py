"""Bodies of requests: judged by their head, bounded by what each address can mean, cut when they stall."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from test_http import CLOSED, statuses, talk

pytestmark = pytest.mark.wire
KIB, MIB = 1 << 10, 1 << 20
FORM, TEXT, BATCH, JSON = "application/x-www-form-urlencoded", "text/plain", "application/x-ndjson", "application/json"
PARTS = "multipart/form-data; boundary=X"
LITTLE, VALUE, LARGEST_FORM, BODY = 64 * KIB, MIB, 3 * MIB + 64 * KIB, 16 * MIB
#: Every address, and the most that its bodies may have.
MOST = [
    *(("POST", "/q/{}", kind, most) for kind, most in ((FORM, LARGEST_FORM), (PARTS, LARGEST_FORM), (TEXT, VALUE),
                                                       (JSON, VALUE), (BATCH, BODY), (None, VALUE))),
    *(("POST", "/", kind, most) for kind, most in ((FORM, LARGEST_FORM), (PARTS, LARGEST_FORM), (TEXT, VALUE))),
    *(("POST", "/queue", kind, LARGEST_FORM) for kind in (FORM, PARTS, JSON, None)),
    *(("POST", "/q/{}/ack", kind, 4 * MIB) for kind in (JSON, FORM, None)),
    *(("POST", "/dead/{}", kind, MIB) for kind in (FORM, PARTS)),
    *(("POST", path, kind, LITTLE) for path in ("/q/{}/take", "/q/{}/1", "/p/{}", "/control/{}", "/settings/{}")
      for kind in (FORM, JSON)),
    *(("GET", path, FORM, LITTLE) for path in (
        "/", "/?queue={}", "/q/{}", "/q/{}/1", "/q/", "/queue", "/c/{}", "/sse/{}", "/ws/{}", "/p/{}", "/control/",
        "/control/{}", "/stats/", "/stats/{}", "/settings/{}", "/peek/{}", "/dead/{}", "/ledger/{}", "/metrics",
        "/j/{}", "/healthz", "/readyz", "/robots.txt", "/openapi.json", "/static/restmq.css")),
    ("HEAD", "/q/{}", FORM, LITTLE),
    ("DELETE", "/q/{}", FORM, LITTLE),
    ("DELETE", "/q/{}/1", FORM, LITTLE),
    ("DELETE", "/dead/{}", FORM, LITTLE),
]  # fmt: skip


def head(method: str, path: str, kind: str | None = None, *lines: str) -> bytes:
    """A request's head."""
    typed = () if kind is None else (f"Content-Type: {kind}",)
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *typed, *lines, "", ""]).encode()


def until_answer(link: socket.socket, before: bytes = b"") -> bytes:
    """What comes up to the end of one answer."""
    data = before
    while b"\r\n\r\n" not in data:
        more = link.recv(1 << 16)
        assert more, data
        data += more
    top, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:])
    missing = 0 if top.startswith(b"HTTP/1.1 100") else int(fields.get(b"content-length", b"0")) - len(body)
    while missing > 0:
        more = link.recv(1 << 16)
        assert more, data
        data, missing = data + more, missing - len(more)
    return data


@pytest.mark.parametrize(("method", "path", "kind", "most"), MOST)
def test_each_address_tells_at_the_head_how_much_it_takes(
    instance: Any, queue: str, method: str, path: str, kind: str | None, most: int
) -> None:
    path = path.replace("{}", queue)
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(head(method, path, kind, f"Content-Length: {most + 1}", "Expect: 100-continue"))
        said = until_answer(link) if method != "HEAD" else link.recv(1 << 16)
        assert said.startswith(b"HTTP/1.1 413 ") and b"\r\nConnection: close\r\n" in said, said
        assert link.recv(1) == b""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(head(method, path, kind, f"Content-Length: {most}", "Expect: 100-continue"))
        assert link.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("method", "path", "kind", "most"), [one for one in MOST if one[3] < BODY])
def test_a_body_that_is_over_is_thrown_away_and_the_connection_goes_on(
    instance: Any, queue: str, method: str, path: str, kind: str | None, most: int, chunked: bool
) -> None:
    path = path.replace("{}", queue)
    data = b"x" * (most + 1)
    if chunked:
        halves = data[: most // 2], data[most // 2 :]
        body = b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves) + b"0\r\n\r\n"
        framing = "Transfer-Encoding: chunked"
    else:
        body, framing = data, f"Content-Length: {len(data)}"
    good = head("GET", f"/stats/{queue}")
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(good + head(method, path, kind, framing) + body + good)
        data = b""
        while data.count(b"HTTP/1.1 200 ") < 2:
            more = link.recv(1 << 16)
            assert more, data
            data += more
    assert statuses(data) == [200, 413, 200]


REFUSED = [
    ("PUT", "/q/{}", 405),
    ("POST", "/control/", 405),
    ("POST", "/healthz", 405),
    ("POST", "/nothing/here", 404),
    ("POST", "/q/{}/1/2", 404),
    ("DELETE", "/q/{}", 403),
    ("POST", "/p/{}", 403),
    ("POST", "/settings/{}", 403),
    ("POST", "/q/{}/take", 401),
    ("POST", "/q/{}/ack", 401),
]


@pytest.fixture(scope="module")
def guarded(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An instance with access rules."""
    from conftest import Instance

    rules = "[admin]\nhosts_deny = all\n[rest:consumer]\nusername = u\npassword = p\n"
    one = Instance(tmp_path_factory.mktemp("guarded"), redis_server.address, rules)
    yield one
    one.stop()


@pytest.mark.parametrize("framing", ["Content-Length: 60000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(("method", "path", "status"), REFUSED)
def test_who_may_not_is_told_at_the_head_and_never_hears_100(
    guarded: Any, queue: str, method: str, path: str, status: int, framing: str
) -> None:
    elsewhere = status if path == "/healthz" else 403  # whoever watches over the server asks that
    for lines, wanted in ((), status), (("Origin: http://elsewhere.example",), elsewhere):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as link:
            link.sendall(head(method, path.replace("{}", queue), FORM, framing, "Expect: 100-continue", *lines))
            said = until_answer(link)
            assert statuses(said) == [wanted], said
            assert b"\r\nConnection: close\r\n" in said
            assert link.recv(1) == b""


def test_a_host_that_is_not_ours_is_told_at_the_head(instance: Any, queue: str) -> None:
    asked = head("POST", f"/q/{queue}", TEXT, "Content-Length: 9", "Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(asked.replace(b"Host: localhost", b"Host: elsewhere.example"))
        assert statuses(until_answer(link)) == [421]
        assert link.recv(1) == b""


def test_an_answer_at_the_head_comes_after_those_before_it(guarded: Any, queue: str) -> None:
    adds = b"".join(head("POST", f"/q/{queue}", TEXT, "Content-Length: 1") + b"x" for _ in range(20))
    last = head("POST", f"/p/{queue}", FORM, "Content-Length: 5000000", "Expect: 100-continue")
    got, still, data = talk(guarded.port, [adds + last], answers=21, closes=True)
    assert (got, still) == ([200] * 20 + [403], CLOSED), data


def test_a_forbidden_body_is_read_past_without_being_held(guarded: Any, queue: str) -> None:
    length = 8 * MIB
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as link:
        link.sendall(head("POST", f"/p/{queue}", FORM, f"Content-Length: {length}"))
        assert statuses(until_answer(link)) == [403]  # before a byte of it
        link.sendall(b"x" * length + head("GET", "/healthz"))
        assert statuses(until_answer(link)) == [200]


def test_a_body_is_asked_for_when_it_may_come(instance: Any, queue: str) -> None:
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as link:
        link.sendall(head("POST", f"/q/{queue}", TEXT, "Content-Length: 3", "Expect: 100-continue"))
        assert link.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(b"abc")
        assert statuses(until_answer(link)) == [200]
    assert json.loads(instance.http("GET", f"/q/{queue}")[2])["value"] == "abc"
