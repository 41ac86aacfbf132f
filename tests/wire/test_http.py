"""The HTTP side is strict: raw bytes in, the statuses that come back, and whether the connection stays open."""

from __future__ import annotations

import re
import socket
import threading
import time
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from restmq.runtime.cork import bottom, finish
from tests.support import reactor
from tests.support.exchange import CLOSED, OPEN, TEXT, H, asking, statuses, talk
from tests.support.patience import PATIENCE, until
from tests.support.requests import stats

GET = f"GET /healthz HTTP/1.1\r\n{H}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
ADDRESSES = (
    "/ /q/a /q/a/take /q/a/ack /q/a/1 /queue /c/a /sse/a /ws/a /p/a /control/ /control/a /stats/ /stats/a /settings/a"
    " /peek/a /dead/a /ledger/a /metrics /q/ /j/a /healthz /readyz /robots.txt /openapi.json /static/a"
).split()


def post(extra: str, body: str = "") -> str:
    """A POST of text with more header lines."""
    return f"POST /q/http HTTP/1.1\r\n{H}{TEXT}{extra}\r\n{body}"


MULTIPART = "Content-Type: multipart/form-data; boundary=B\r\n"


def multipart(body: bytes) -> bytes:
    """A POST of multipart/form-data."""
    return f"POST /q/http HTTP/1.1\r\n{H}{MULTIPART}Content-Length: {len(body)}\r\n\r\n".encode() + body


CASES: list[tuple[str, Any, list[int], bool]] = [
    ("two hot requests pipelined", f"GET /q/none HTTP/1.1\r\n{H}\r\n" * 2, [204, 204], OPEN),
    ("a hot one, then a cold one", f"GET /q/none HTTP/1.1\r\n{H}\r\n{GET}", [204, 200], OPEN),
    ("a cold one, then a hot one", f"{GET}GET /q/none HTTP/1.1\r\n{H}\r\n", [200, 204], OPEN),
    ("hot, cold, hot, cold", f"GET /q/none HTTP/1.1\r\n{H}\r\n{GET}" * 2, [204, 200, 204, 200], OPEN),
    ("three cold ones", GET * 3, [200, 200, 200], OPEN),
    ("two posts", post("Content-Length: 3\r\n", "abc") * 2, [200, 200], OPEN),
    ("after close nothing is read", GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n") + GET, [200], CLOSED),
    ("a chunked body", post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), [200], OPEN),
    ("chunk extensions", post("Transfer-Encoding: chunked\r\n", "3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"), [200], OPEN),
    ("a chunk too long", post("Transfer-Encoding: chunked\r\n", "2\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("length and chunked", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), [400], CLOSED),
    ("a request as a chunk", post("Transfer-Encoding: chunked\r\n", GET), [400], CLOSED),
    ("gzip coding", post("Transfer-Encoding: gzip, chunked\r\n"), [501], CLOSED),
    *[
        (f"length {bad}", post(f"Content-Length: {bad}\r\n", "abcdefgh\r\n\r\n"), [400], CLOSED)
        for bad in ("-5", "abc", "5_0", "+3", "3,3", "0x3", "\uff13", "")
    ],
    ("the same length twice", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), [200], OPEN),
    ("two lengths", post("Content-Length: 3\r\nContent-Length: 5\r\n", "abcde"), [400], CLOSED),
    ("a space before the colon", post("Content-Length : 3\r\n", "abc"), [400], CLOSED),
    ("ten terabytes", post("Content-Length: 10000000000000\r\n", "abc"), [413], CLOSED),
    ("a hidden header after NEL", f"GET /healthz HTTP/1.1\r\n{H}X-A: a\x85Content-Length: 3\r\n\r\n", [200], OPEN),
    ("a hidden header after VT", f"GET /healthz HTTP/1.1\r\n{H}X-A: a\x0bContent-Length: 3\r\n\r\n", [400], CLOSED),
    ("a lone CR", f"GET /healthz HTTP/1.1\r\n{H}X-A: a\rContent-Length: 3\r\n\r\n", [400], CLOSED),
    ("a folded header", f"GET /healthz HTTP/1.1\r\n{H}X-A: a\r\n b\r\n\r\n", [400], CLOSED),
    ("a fold at first", f"GET /healthz HTTP/1.1\r\n b\r\n{H}\r\n", [400], CLOSED),
    ("a header without colon", f"GET /healthz HTTP/1.1\r\n{H}nocolon\r\n\r\n", [400], CLOSED),
    ("a header without name", f"GET /healthz HTTP/1.1\r\n{H}: v\r\n\r\n", [400], CLOSED),
    ("lines that end in LF", "GET /healthz HTTP/1.1\nHost: localhost\n\n", [400], CLOSED),
    ("one line that ends in LF", "GET /healthz HTTP/1.1\r\nHost: localhost\nX-A: b\r\n\r\n", [400], CLOSED),
    ("an empty line at first", "\r\n" + GET, [200], OPEN),
    ("no Host", "GET /healthz HTTP/1.1\r\n\r\n", [400], CLOSED),
    ("two Hosts", f"GET /healthz HTTP/1.1\r\n{H}Host: y\r\n\r\n", [400], CLOSED),
    ("HTTP/1.0", f"GET /healthz HTTP/1.0\r\n{H}\r\n", [200], CLOSED),
    ("HTTP/1.0 Keep-Alive", f"GET /healthz HTTP/1.0\r\n{H}Connection: Keep-Alive\r\n\r\n", [200], OPEN),
    ("HTTP/1.0 keep-alive", f"GET /healthz HTTP/1.0\r\n{H}Connection: keep-alive\r\n\r\n", [200], OPEN),
    ("Connection: Close", f"GET /healthz HTTP/1.1\r\n{H}Connection: Close\r\n\r\n", [200], CLOSED),
    ("Connection: close, TE", f"GET /healthz HTTP/1.1\r\n{H}Connection: close, TE\r\n\r\n", [200], CLOSED),
    *[(f"HTTP/{v}", f"GET /healthz HTTP/{v}\r\n{H}\r\n", [200], OPEN) for v in ("1.1", "1.2", "1.9")],
    *[(f"HTTP/{v}", f"GET /healthz HTTP/{v}\r\n{H}\r\n", [505], CLOSED) for v in ("0.9", "2.0", "3.0", "9.9")],
    *[
        (f"the version {v}", f"GET /healthz {v}\r\n{H}\r\n", [400], CLOSED)
        for v in (
            "HTTP/1",
            "HTTP/2",
            "HTTP/1.10",
            "HTTP/11.1",
            "http/1.1",
            "HTTP/1.1 ",
            "HTTP/1.x",
            "HTTP 1.1",
            "H/1.1",
        )
    ],
    ("1.2 without Host", "GET /healthz HTTP/1.2\r\n\r\n", [400], CLOSED),
    ("1.2 in chunks", post(CHUNKED, "3\r\nabc\r\n0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.2"), [200], OPEN),
    ("HTTP/1.1foo", f"GET /healthz HTTP/1.1foo\r\n{H}\r\n", [400], CLOSED),
    ("HTTP/0.9", "GET /healthz\r\n\r\n", [400], CLOSED),
    ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505], CLOSED),
    (
        "an upgrade to HTTP/2",
        f"GET /healthz HTTP/1.1\r\n{H}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABk\r\n\r\n",
        [200],
        OPEN,
    ),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n", [400], CLOSED),
    ("Expect", [post("Content-Length: 3\r\nExpect: 100-continue\r\n"), "abc"], [100, 200], OPEN),
    ("Expect in capitals", [post("Content-Length: 3\r\nExpect: 100-Continue\r\n"), "abc"], [100, 200], OPEN),
    ("an absolute URI", f"GET http://localhost/healthz HTTP/1.1\r\n{H}\r\n", [200], OPEN),
    *[
        (f"the absolute URI {uri} and Host: {host}", f"GET {uri} HTTP/1.1\r\nHost: {host}\r\n\r\n{GET}", wanted, OPEN)
        for uri, host, wanted in (
            ("http://localhost:80/q/a", "localhost", [204, 200]),
            ("http://localhost/q/a", "localhost:80", [204, 200]),
            ("HTTP://LocalHost/q/a", "localhost", [204, 200]),
            ("https://localhost:443/q/a", "localhost", [204, 200]),
            ("http://localhost:1/q/a", "localhost", [204, 200]),
            ("http://[::1]:80/q/a", "[::1]", [204, 200]),
            ("http://[0:0::1]/q/a", "localhost", [204, 200]),
            ("http://localhost/q/a", "other.test", [204, 200]),
            ("http://other.test/q/a", "localhost", [421, 200]),
        )
    ],
    ("an absolute URI without Host", "GET http://localhost/q/a HTTP/1.1\r\n\r\n", [400], CLOSED),
    ("an absolute URI of HTTP/1.0", "GET http://localhost/q/a HTTP/1.0\r\n\r\n", [204], CLOSED),
    ("another's absolute URI of HTTP/1.0", "GET http://other.test/q/a HTTP/1.0\r\n\r\n", [421], CLOSED),
    ("OPTIONS *", f"OPTIONS * HTTP/1.1\r\n{H}\r\n", [204], OPEN),
    ("OPTIONS * through a proxy", f"OPTIONS http://localhost HTTP/1.1\r\n{H}\r\n", [204], OPEN),
    ("OPTIONS of HTTP/1.0", "OPTIONS / HTTP/1.0\r\n\r\n", [204], CLOSED),
    ("OPTIONS with a body", f"OPTIONS /q/a HTTP/1.1\r\n{H}Content-Length: 3\r\n\r\nabc{GET}", [204, 200], OPEN),
    ("OPTIONS with a large body", f"OPTIONS /q/a HTTP/1.1\r\n{H}Content-Length: 3000000\r\n\r\n", [413], OPEN),
    ("OPTIONS of nothing", f"OPTIONS /none HTTP/1.1\r\n{H}\r\n", [404], OPEN),
    *[(f"OPTIONS {path}", f"OPTIONS {path} HTTP/1.1\r\n{H}\r\n{GET}", [204, 200], OPEN) for path in ADDRESSES],
    *[(f"{word} *", f"{word} * HTTP/1.1\r\n{H}\r\n", [400], CLOSED) for word in ("GET", "POST", "HEAD", "X")],
    *[
        (f"the target {bad}", f"GET {bad} HTTP/1.1\r\n{H}\r\n", [400], CLOSED)
        for bad in (
            "healthz",
            "?queue=a",
            "localhost",
            "localhost:8888",
            "./healthz",
            "**",
            "*/",
            "http:/healthz",
            "http://",
            "http:///healthz",
            "http://a@localhost/healthz",
            "http://:80/healthz",
            "http://[::1/healthz",
            "ftp://localhost/healthz",
            "ws://localhost/ws/a",
            "file:///healthz",
            "javascript:alert(1)",
            "urn:x",
            "/healthz#top",
            "/q/a#",
            "#",
        )
    ],
    ("CONNECT", f"CONNECT localhost:8888 HTTP/1.1\r\n{H}\r\n", [400], CLOSED),
    ("CONNECT of a path", f"CONNECT /q/a HTTP/1.1\r\n{H}\r\n", [400], CLOSED),
    ("TRACE", f"TRACE /q/a HTTP/1.1\r\n{H}\r\n{GET}", [405, 200], OPEN),
    *[
        (f"the method {bad}", f"{bad} /q/a HTTP/1.1\r\n{H}\r\n{GET}", [501, 200], OPEN)
        for bad in ("get", "Post", "PROPFIND", "QUERY", "M-SEARCH", "x" * 32)
    ],
    ("a method of 33", f"{'x' * 33} /q/a HTTP/1.1\r\n{H}\r\n", [501], CLOSED),
    *[
        (f"{path} is not there", f"GET {path} HTTP/1.1\r\n{H}\r\n", [404], OPEN)
        for path in (
            "//healthz",
            "//q/a",
            "/q//a",
            "/q/a/",
            "/./healthz",
            "/%68ealthz",
            "/healthz/",
            "/healthz;a=b",
            "///",
        )
    ],
    *[
        (f"{path} is a name", f"GET {path} HTTP/1.1\r\n{H}\r\n", [204], OPEN)
        for path in (
            "/q/none;a=b",
            "/q/none?",
            "/q/%6Eone",
            "/q/%6eone",
            "/q/n%C3%B6ne",
            "/q/n\xf6ne",
            "/q/none%25",
            "/q/a:b@c",
        )
    ],
    *[
        (f"{bad} is no escape", f"GET {bad} HTTP/1.1\r\n{H}\r\n{GET}", [400, 200], OPEN)
        for bad in (
            "/q/%zz",
            "/q/%",
            "/q/a%",
            "/q/%4",
            "/q/%4g",
            "/q/%%41",
            "/healthz?%zz",
            "/q/none?a=%",
            "/stats/?match=%4",
            "/none%",
            "/%71/a?%",
            "/q/a?wait=1%",
            "/c/%zz",
            "/static/%2",
            "/?queue=%u0041",
        )
    ],
    (
        "no escape, with a body",
        post("Content-Length: 3\r\n", "abc").replace("/q/http", "/q/%zz") + GET,
        [400, 200],
        OPEN,
    ),
    ("no escape, with a large body", post("Content-Length: 3000000\r\n").replace("/q/http", "/q/%zz"), [400], OPEN),
    *[
        (f"Host: {bad}", f"GET /healthz HTTP/1.1\r\nHost: {bad}\r\n\r\n", [400], CLOSED)
        for bad in (
            "",
            " ",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "localhost:x",
            "a:1:2",
            "[::1",
            "::1",
            "[]",
            "a%",
            "a%zz",
            "http://a",
            "a\\",
        )
    ],
    *[
        (f"Host: {good}", f"GET /healthz HTTP/1.1\r\nHost: {good}\r\n\r\n", [200], OPEN)
        for good in ("localhost:", "LOCALHOST:80", "[::1]", "[::1]:8888", "127.0.0.1", "a_b", "a%41", "x.example.")
    ],
    ("an empty Host of HTTP/1.0", "GET /healthz HTTP/1.0\r\nHost:\r\n\r\n", [200], CLOSED),
    *[
        (f"Transfer-Encoding: {bad}", post(f"Transfer-Encoding: {bad}\r\n", "0\r\n\r\n"), [400], CLOSED)
        for bad in (
            "",
            "gzip",
            "identity",
            "chunked, gzip",
            "chunked, chunked",
            "chunked;a=b",
            "chunked,",
            ",",
            "xchunked",
        )
    ],
    ("Transfer-Encoding twice", post(CHUNKED * 2, "0\r\n\r\n"), [400], CLOSED),
    ("Transfer-Encoding: Chunked", post("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), [200], OPEN),
    ("chunks in HTTP/1.0", post(CHUNKED, "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), [400], CLOSED),
    ("a space before a name", f"GET /healthz HTTP/1.1\r\n {H}\r\n", [400], CLOSED),
    ("a tab before a colon", f"GET /healthz HTTP/1.1\r\n{H}X\t: a\r\n\r\n", [400], CLOSED),
    *[
        (f"Connection: {word}", f"GET /healthz HTTP/1.1\r\n{H}Connection: {word}\r\n\r\n", [200], stays)
        for word, stays in (
            ("close, keep-alive", CLOSED),
            ("keep-alive, close", CLOSED),
            ("keep-alive\r\nConnection: close", CLOSED),
            ("keep-alive", OPEN),
            ("x-close", OPEN),
            ("", OPEN),
        )
    ],
    *[
        (f"the line {bad!r}", f"{bad}\r\n{H}\r\n", [400], CLOSED)
        for bad in (
            "GET  /healthz HTTP/1.1",
            " GET /healthz HTTP/1.1",
            "GET\t/healthz HTTP/1.1",
            "GET /healthz  HTTP/1.1",
            "GET /healthz\tHTTP/1.1",
            "GET HTTP/1.1",
            "/healthz HTTP/1.1",
            "GET /healthz",
            "GET",
        )
    ],
    ("a space in the URI", f"GET /heal thz HTTP/1.1\r\n{H}\r\n", [400], CLOSED),
    ("NUL in the URI", f"GET /q/a\x00b HTTP/1.1\r\n{H}\r\n", [400], CLOSED),
    ("NUL in a header", f"GET /healthz HTTP/1.1\r\n{H}X: a\x00b\r\n\r\n", [400], CLOSED),
    ("latin-1 in a header", f"GET /healthz HTTP/1.1\r\n{H}X: \xe9\r\n\r\n".encode("latin-1"), [200], OPEN),
    ("a garbled method", f"G\x01ET /healthz HTTP/1.1\r\n{H}\r\n", [400], CLOSED),
    ("POST without a length", f"POST /q/http HTTP/1.1\r\n{H}{TEXT}\r\n", [200], OPEN),
    ("POST of length 0", post("Content-Length: 0\r\n"), [200], OPEN),
    ("GET with a body", f"GET /healthz HTTP/1.1\r\n{H}Content-Length: 3\r\n\r\nabc{GET}", [200, 200], OPEN),
    ("DELETE with a body", f"DELETE /q/none HTTP/1.1\r\n{H}Content-Length: 3\r\n\r\nv=1", [415], OPEN),
    ("a URI of 8,000", f"GET /q/{'a' * 8000} HTTP/1.1\r\n{H}\r\n", [400], OPEN),
    ("a URI of 9,000", f"GET /q/{'a' * 9000} HTTP/1.1\r\n{H}\r\n", [414], CLOSED),
    ("a header of 17,000", f"GET /healthz HTTP/1.1\r\n{H}X: {'a' * 17000}\r\n\r\n", [431], CLOSED),
    (
        "101 headers",
        f"GET /healthz HTTP/1.1\r\n{H}{'X: 1' + chr(13) + chr(10)}" * 1 + "Y: 1\r\n" * 100 + "\r\n",
        [431],
        CLOSED,
    ),
    ("a head without end", f"GET /healthz HTTP/1.1\r\n{H}" + ("X: " + "a" * 1000 + "\r\n") * 20, [431], CLOSED),
    ("3 MB", post("Content-Length: 3000000\r\n", "a" * 3000000), [413], OPEN),
    ("bytes that come apart", [bytes([one]) for one in GET.encode()], [200], OPEN),
    (
        "multipart",
        multipart('--B\r\nContent-Disposition: form-data; name="value"\r\n\r\né\r\n--B--\r\n'.encode()),
        [200],
        OPEN,
    ),
    (
        "a file without a value",
        multipart(b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n\0\xff\r\n--B--\r\n'),
        [400],
        OPEN,
    ),
    (
        "multipart that is not UTF-8",
        multipart(b'--B\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nv\r\n--B--\r\n'),
        [400],
        OPEN,
    ),
    ("multipart without a name", multipart(b"--B\r\nnocolon\r\n\r\nv\r\n--B--\r\n"), [400], OPEN),
    (
        "multipart without an end",
        multipart(b'--B\r\nContent-Disposition: form-data; name="value"\r\n\r\nv'),
        [400],
        OPEN,
    ),
]


@pytest.mark.parametrize(("sent", "wanted", "stays"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_raw_requests(instance: Any, sent: Any, wanted: list[int], stays: bool) -> None:
    parts = sent if isinstance(sent, list) else [sent]
    raw = [part if isinstance(part, bytes) else part.encode("utf-8") for part in parts]
    got, still, data = talk(instance.port, raw, answers=len(wanted), closes=not stays)
    assert (got, still) == (wanted, stays), data[:600]
    assert b"Traceback" not in data


def test_pipelined_answers_come_in_the_order_of_their_requests(instance: Any, queue: str) -> None:
    posts = [
        f"POST /q/{queue} HTTP/1.1\r\n{H}{TEXT}Content-Length: {len(str(n))}\r\n\r\n{n}"
        + (f"GET /p/{queue} HTTP/1.1\r\n{H}\r\n" if n % 50 == 0 else "")
        for n in range(1, 301)
    ]
    got, still, data = talk(instance.port, ["".join(posts).encode()], answers=306)
    assert got == [200] * 306
    assert still
    assert re.findall(rb"\r\n" + queue.encode() + rb":(\d+)\r\n", data) == [b"%d" % n for n in range(1, 301)]


ASYNC = [
    ("POST", "/q/{}", "text", 200),
    ("GET", "/q/{}", "", 200),
    ("GET", "/q/{}", "", 204),
    ("POST", "/q/{}?ttl=1h", "again", 200),
    ("GET", "/q/{}?max=5", "", 200),
    ("POST", "/queue", '{"cmd": "add", "queue": "{}", "value": "x"}', 200),
    ("GET", "/q/{}?lease=1m", "", 200),
    ("DELETE", "/q/{}", "", 200),
    ("GET", "/stats/{}", "", 200),
    ("GET", "/healthz", "", 200),
]


def test_who_closed_its_side_is_answered_and_then_the_connection_is_closed(instance: Any, queue: str) -> None:
    for method, path, body, status in ASYNC:
        got, still, data = talk(instance.port, [asking(queue, method, path, body)], half=True)
        assert (got, still) == ([status], CLOSED), (method, path, data)
        assert b"Traceback" not in data


def test_all_that_was_asked_before_the_client_closed_its_side_is_answered_in_order(instance: Any, queue: str) -> None:
    one = b"".join(asking(queue, method, path, body) for method, path, body, _ in ASYNC)
    got, still, data = talk(instance.port, [one * 40], half=True)  # more than may be under way at once
    assert (got, still) == ([status for *_, status in ASYNC] * 40, CLOSED)
    assert [int(n) for n in re.findall(rb"\r\n" + queue.encode() + rb":(\d+)\r\n", data)] == [
        n for n in range(1, 121) if n % 3
    ]


def test_the_last_answer_to_who_closed_its_side_says_that_it_is_the_last(instance: Any, redis_server: Any) -> None:
    with redis_server.client() as store:
        store.client_pause(2000)  # neither is answered before the end is here
        got, _, data = talk(instance.port, [asking("", "GET", "/q/none", "") * 2], half=True)
    assert got == [204, 204]
    assert data.count(b"Connection: close") == 1 and data.rindex(b"Connection") > data.rindex(b"HTTP/1.1")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/q/{}?wait=60", "", 204),
        ("POST", "/q/{}/take?wait=60&lease=1m", "", 204),
        ("GET", "/?queue={}&wait=60&max=3", "", 404),
        ("POST", "/queue", '{"cmd": "take", "queue": "{}", "wait": 60}', 200),
    ],
)
def test_who_closes_its_side_waits_no_longer_and_loses_nothing(
    instance: Any, queue: str, method: str, path: str, body: str, status: int
) -> None:
    one = asking(queue, method, path, body)
    assert talk(instance.port, [one], half=True)[:2] == ([status], CLOSED)
    assert talk(instance.port, [asking(queue, "GET", "/p/{}", "") + one * 3], half=True)[0] == [200, *[status] * 3]
    with socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE) as link:
        link.sendall(one)
        until(lambda: stats(instance, queue)["waiters"] == 1)
        link.shutdown(socket.SHUT_WR)
        got = link.recv(4096)
        assert statuses(got) == [status]
        assert link.recv(4096) == b""
    assert instance.form(f"/q/{queue}", "value=kept")[0] == 200
    until(lambda: (stats(instance, queue)["waiters"], stats(instance, queue)["len"]) == (0, 1))
    assert b'"kept"' in instance.http("GET", f"/q/{queue}")[2]


def test_a_stream_whose_client_closed_its_side_takes_nothing(instance: Any, queue: str) -> None:
    for path in (f"/c/{queue}", f"/sse/{queue}"):
        _, still, data = talk(instance.port, [asking(queue, "GET", path, "")], half=True)
        assert still == CLOSED, data
    assert instance.form(f"/q/{queue}", "value=kept")[0] == 200
    # An instance that is just joining a queue for who has left may get it, and gives it back.
    until(lambda: (stats(instance, queue)["consumers"], stats(instance, queue)["len"]) == (0, 1))
    assert b'"kept"' in instance.http("GET", f"/q/{queue}")[2]


def test_a_stream_asked_for_behind_another_request_ends_when_the_client_has_closed_its_side(
    start: Any, redis_server: Any, queue: str
) -> None:
    instance = start("[live]\nheartbeat = 1h\n")  # the end is not found by trying to write
    asked = [asking(queue, "GET", path, "") for path in ("/p/{}", "/c/{}")]
    with redis_server.client() as store:
        store.client_pause(2000)  # the end is here before the first is answered
        got, still, _ = talk(instance.port, [b"".join(asked)], half=True)
    assert (got, still) == ([200], CLOSED)
    until(lambda: stats(instance, queue)["consumers"] == 0)


def test_what_is_asked_behind_one_that_waits_piles_up_nowhere_and_takes_nothing(instance: Any, queue: str) -> None:
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.settimeout(PATIENCE)
        for _ in range(24):  # more than max_body under way at once
            link.sendall(asking(queue, "POST", "/q/{}.large", "x" * 1_000_000))
        until(lambda: stats(instance, f"{queue}.large")["len"] == 24)
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.sendall(asking(queue, "GET", "/q/{}?wait=60", ""))
        link.sendall(asking(queue, "GET", "/q/{}.large", "") * 24)
        until(lambda: stats(instance, queue)["waiters"] == 1)
        time.sleep(0.2)
        assert stats(instance, f"{queue}.large")["len"] == 24
        assert instance.form(f"/q/{queue}", "value=first")[0] == 200
        link.settimeout(PATIENCE)
        got = b""
        while got.count(b"HTTP/1.1 200") < 25:
            got += link.recv(1 << 20)
    assert stats(instance, f"{queue}.large")["len"] == 0


def test_a_client_that_leaves_after_it_closed_its_side_harms_nobody(start: Any, queue: str) -> None:
    instance = start()
    for number in range(20):
        with socket.create_connection(("127.0.0.1", instance.port)) as link:
            link.sendall(asking(queue, "POST", "/q/{}", f"v{number}"))
            link.shutdown(socket.SHUT_WR)
            if number % 2:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: stats(instance, queue)["added"] >= 10)  # those that were reset may not have been read
    until(lambda: b"restmq_connections 1.0" in instance.http("GET", "/metrics")[2])


def test_half_a_request_and_a_close_are_400_and_store_nothing(instance: Any, queue: str) -> None:
    head = f"POST /q/{queue} HTTP/1.1\r\n{H}{TEXT}Content-Length: 10\r\n\r\nabc"
    chunks = f"POST /q/{queue} HTTP/1.1\r\n{H}{TEXT}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    for half in (head, chunks, head[:40], chunks + "0"):
        got, still, data = talk(instance.port, [half.encode()], half=True)
        assert (got, still) == ([400], CLOSED)
        assert b"before the request was whole" in data
    good = f"GET /q/{queue} HTTP/1.1\r\n{H}\r\n"
    assert talk(instance.port, [(good * 200 + head).encode()], half=True)[0] == [204] * 200 + [400]
    assert talk(instance.port, [b""], half=True)[2] == b""


def test_slow_heads_bodies_and_idle_connections_end_in_time(start: Any) -> None:
    one = start("[limits]\nhead_timeout = 1s\nbody_timeout = 1s\nidle_timeout = 1s\n")
    assert talk(one.port, [b"GET /hea"], closes=True)[:2] == ([408], CLOSED)
    assert talk(one.port, [post("Content-Length: 9\r\n", "a").encode()], closes=True)[:2] == ([408], CLOSED)
    assert talk(one.port, [GET.encode()], closes=True)[:2] == ([200], CLOSED)


def test_an_error_does_not_harm_the_request_before_it(instance: Any, queue: str) -> None:
    good = f"POST /q/{queue} HTTP/1.1\r\n{H}{TEXT}Content-Length: 4\r\n\r\ngood"
    got, still, _ = talk(instance.port, [(good + "BROKEN\r\n\r\n").encode()], closes=True)
    assert (got, still) == ([200, 400], CLOSED)
    assert b'"good"' in instance.http("GET", f"/q/{queue}")[2]


def test_errors_are_json_that_tell_what_to_do(instance: Any) -> None:
    status, headers, body = instance.http("PUT", "/q/any")
    assert status == 405
    assert headers["allow"] == "POST, GET, HEAD, DELETE, OPTIONS"
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert body.startswith(b'{"error": "') and body.endswith(b'"status": 405}\r\n')


class Closing(Protocol):
    """Closes in order, and is cut off in the same turn, as by an instance that is told twice to end."""

    def __init__(self) -> None:
        self.lost = threading.Event()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"last")
        self.transport.loseConnection()
        finish(self.transport)
        bottom(self.transport).loseConnection()

    def connectionLost(self, reason: object = None) -> None:
        self.lost.set()


def test_a_connection_that_is_cut_off_while_it_closes_ends() -> None:
    reactor.run()
    made = Closing()
    factory = Factory.forProtocol(lambda: made)
    port = reactor.call(reactor.reactor.listenTCP, 0, factory, 1, "127.0.0.1")
    with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=PATIENCE) as link:
        assert link.recv(10) == b""
        assert made.lost.wait(PATIENCE)
    reactor.call(port.stopListening)
