"""cyclone's ordinary handlers beside RestMQ's own: in one list of routes, on one connection."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclone import web as cyclone

from restmq.api.queue import Queue
from restmq.http.counts import Counts, route_name
from restmq.http.handler import Handler
from tests.support.exchange import CLOSED, OPEN, asking, statuses, talk
from tests.support.instance import TWISTD, Instance
from tests.support.patience import until
from tests.support.stream import as_request

FRIEND = "https://friend.example"

#: What somebody writes who adds handlers of their own, as cyclone's documentation has them.
HANDLERS = """
from cyclone import web as cyclone
from twisted.internet import defer, reactor
from twisted.internet.task import deferLater

from restmq import web


class Plain(cyclone.RequestHandler):
    def get(self, word):
        self.write({"word": word, "argument": self.get_argument("a", None)})

    def head(self, word):
        self.set_header("X-Word", word)

    def post(self, word):
        self.write(self.request.body)


class Awaits(cyclone.RequestHandler):
    async def get(self):
        await deferLater(reactor, 0.05)
        self.write("awaited")


class Yields(cyclone.RequestHandler):
    @defer.inlineCallbacks
    def get(self):
        for part in ("one ", "two ", "three"):
            self.write(part)
            self.flush()
            yield deferLater(reactor, 0.02)


class Later(cyclone.RequestHandler):
    @cyclone.asynchronous
    def get(self):
        reactor.callLater(0.05, self.finish, "later")


class Never(cyclone.RequestHandler):
    @cyclone.asynchronous
    def get(self):
        print("somebody asks", flush=True)

    def on_connection_close(self, *why):
        print("somebody left", flush=True)


class Broken(cyclone.RequestHandler):
    def get(self):
        raise RuntimeError("a secret")


class BrokenLater(cyclone.RequestHandler):
    async def get(self):
        await deferLater(reactor, 0.01)
        raise RuntimeError("a secret")


class Missing(cyclone.RequestHandler):
    def get(self):
        raise cyclone.HTTPError(404)


class Guarded(cyclone.RequestHandler):
    sections = {"GET": "admin"}

    def get(self):
        self.write("let in")


class Options(cyclone.RequestHandler):
    def options(self):
        self.set_header("Allow", "OPTIONS, PURGE")


web.ROUTES += [
    (r"/own/plain/([^/]+)", Plain),
    (r"/own/awaits", Awaits),
    cyclone.URLSpec(r"/own/yields", Yields),
    cyclone.URLSpec(r"/own/later", Later, name="later"),
    (r"/own/never", Never),
    (r"/own/broken", Broken),
    (r"/own/broken-later", BrokenLater),
    (r"/own/missing", Missing),
    (r"/own/guarded", Guarded),
    (r"/own/files/(.*)", cyclone.StaticFileHandler, {"path": FILES}),
    (r"/own/moved", cyclone.RedirectHandler, {"url": "/healthz"}),
    (r"/own/gone", cyclone.ErrorHandler, {"status_code": 410}),
    (r"/own/options", Options),
]
"""


class Extended(Instance):
    """An instance whose program adds these routes."""

    def __init__(self, folder: Path, redis: str, conf: str) -> None:
        (folder / "files").mkdir()
        (folder / "files" / "a.txt").write_text("of a file\n")
        (folder / "handlers.py").write_text(f"FILES = {str(folder / 'files')!r}\n{HANDLERS}")
        self.program = f"import sys; sys.path.insert(0, {str(folder)!r}); import handlers; {TWISTD}"
        super().__init__(folder, redis, conf)


@pytest.fixture(scope="module")
def extended(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    """One for all of them."""
    conf = f"[server]\nallowed_origins = {FRIEND}\n[admin]\nhosts_allow = 127.0.0.7\n"
    one = Extended(tmp_path_factory.mktemp("ordinary"), redis_server.address, conf)
    yield one
    one.stop()


def test_a_page_of_an_allowed_origin_may_read_their_answers(extended: Extended) -> None:
    for path in ("/own/plain/x", "/own/yields", "/own/missing", "/own/guarded"):
        headers = extended.http("GET", path, None, {"Origin": FRIEND})[1]
        assert (headers["access-control-allow-origin"], headers["vary"]) == (FRIEND, "Origin")
        assert "access-control-allow-origin" not in extended.http("GET", path)[1]


PLAIN = b'{"word": "x", "argument": "1"}'
ANSWERS = [
    ("GET", "/own/plain/x?a=1", 200, PLAIN),
    ("POST", "/own/plain/x", 200, b"body"),
    ("GET", "/own/awaits", 200, b"awaited"),
    ("GET", "/own/yields", 200, b"one two three"),
    ("GET", "/own/later", 200, b"later"),
    ("GET", "/own/files/a.txt", 200, b"of a file\n"),
]


@pytest.mark.parametrize(("method", "path", "status", "body"), ANSWERS)
def test_each_way_of_writing_a_handler_answers(
    extended: Extended, method: str, path: str, status: int, body: bytes
) -> None:
    got, headers, answer = extended.http(method, path, b"body" if method == "POST" else None)
    assert (got, answer) == (status, body)
    assert (headers["server"], headers["x-content-type-options"]) == ("RestMQ", "nosniff")
    assert "etag" not in headers or "/files/" in path
    assert ("content-length" in headers) != ("transfer-encoding" in headers)


@pytest.mark.parametrize(("method", "path", "status", "body"), ANSWERS)
def test_http_1_0_is_answered_too_and_its_connection_closed(
    extended: Extended, method: str, path: str, status: int, body: bytes
) -> None:
    length = 4 if method == "POST" else 0
    sent = f"{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{'body'[:length]}".encode()
    got, still, data = talk(extended.port, [sent], closes=True)
    assert (got, still) == ([status], CLOSED)
    assert data.partition(b"\r\n\r\n")[2] == body
    assert b"Transfer-Encoding" not in data


def test_hot_cold_and_ordinary_requests_of_one_connection_are_answered_in_their_order(
    extended: Extended, queue: str
) -> None:
    sent, wanted = b"", []
    for number in range(12):
        sent += asking(queue, "POST", "/q/{}", f"v{number}")
        wanted.append(b"%b:%d" % (queue.encode(), number + 1))
        method, path, _, body = ANSWERS[number % len(ANSWERS)]
        sent += asking(queue, method, path, "body" if method == "POST" else "")
        wanted.append(body.rstrip())
        sent += asking(queue, "GET", "/q/{}", "") + asking(queue, "GET", "/healthz", "")
        wanted += [b'"v%d"' % number, b"OK"]
    got, still, data = talk(extended.port, [sent], answers=len(wanted))
    assert (got, still) == ([200] * len(wanted), OPEN)
    whole = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", data)  # without the sizes of chunks
    at = 0
    for word in wanted:
        at = whole.find(word, at) + len(word)
        assert at >= len(word), (word, whole[-500:])


def test_a_method_that_a_handler_has_not_is_405_and_tells_which_it_has(extended: Extended) -> None:
    status, headers, body = extended.http("DELETE", "/own/plain/x")
    assert (status, json.loads(body)["status"]) == (405, 405)
    assert headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/own/files/a.txt", "GET, HEAD, OPTIONS"),
        ("/own/files/none.txt", "GET, HEAD, OPTIONS"),
        ("/own/files/../handlers.py", "GET, HEAD, OPTIONS"),
        ("/own/moved", "GET, OPTIONS"),
        ("/own/gone", "OPTIONS"),
        ("/own/broken", "GET, OPTIONS"),
        ("/own/guarded", "GET, OPTIONS"),
        ("/static/restmq.css", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_tells_the_methods_of_handlers_that_cyclone_has(extended: Extended, path: str, allowed: str) -> None:
    for fields in ({}, {"Origin": FRIEND, "Access-Control-Request-Method": "GET"}):
        status, headers, body = extended.http("OPTIONS", path, None, fields)
        assert (status, headers["allow"], body) == (204, allowed, b"")
        assert headers.get("access-control-allow-methods") == (allowed if fields else None)
    assert extended.http("OPTIONS", path, b"x" * 100_000)[0] in (204, 413)  # the body of an address has its own bound


def test_a_handler_may_answer_options_itself(extended: Extended) -> None:
    status, headers, _ = extended.http("OPTIONS", "/own/options")
    assert (status, headers["allow"]) == (200, "OPTIONS, PURGE")


@pytest.mark.parametrize("path", ["/own/broken", "/own/broken-later"])
def test_a_handler_that_fails_is_500_without_a_word_of_why_and_the_log_has_it_all(
    extended: Extended, path: str
) -> None:
    before = extended.log.read_text().count("RuntimeError: a secret")
    got, still, data = talk(extended.port, [asking("", "GET", path, "") + asking("", "GET", "/healthz", "")], answers=2)
    assert (got, still) == ([500, 200], OPEN)
    assert b"urn:restmq:internal-server-error" in data
    assert b"secret" not in data and b"Traceback" not in data
    until(lambda: extended.log.read_text().count("RuntimeError: a secret") > before)


def test_an_http_error_of_a_handler_is_json_as_everywhere(extended: Extended) -> None:
    status, headers, body = extended.http("GET", "/own/missing")
    assert (status, json.loads(body)["type"]) == (404, "urn:restmq:not-found")
    assert headers["content-type"] == "application/problem+json"
    assert extended.http("GET", "/own/files/../restmq.conf")[0] in (403, 404)


def test_the_access_rules_hold_for_them_too(extended: Extended) -> None:
    assert extended.http("GET", "/own/guarded")[0] == 403
    assert extended.http("GET", "/own/plain/x", None, {"Origin": "http://evil.example"})[0] == 403
    assert extended.http("GET", "/own/plain/x", None, {"Host": "evil.example"})[0] == 421
    with socket.create_connection(("127.0.0.1", extended.port), source_address=("127.0.0.7", 0)) as link:
        link.sendall(asking("", "GET", "/own/guarded", ""))
        assert link.recv(4096).endswith(b"let in")


def test_who_closed_its_side_is_answered_by_them_too(extended: Extended) -> None:
    for method, path, status, body in ANSWERS:
        one = asking("", method, path, "body" if method == "POST" else "")
        got, still, data = talk(extended.port, [one * 3], half=True)
        assert (got, still, data.count(body.split()[0])) == ([status] * 3, CLOSED, 3), data


def test_a_handler_is_told_that_its_client_left(extended: Extended) -> None:
    link = socket.create_connection(("127.0.0.1", extended.port))
    link.sendall(asking("", "GET", "/own/never", ""))
    until(lambda: "somebody asks" in extended.log.read_text())
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    link.close()
    until(lambda: "somebody left" in extended.log.read_text())


def test_a_handler_that_never_answers_who_closed_its_side_is_told_when_the_idle_time_is_over(
    tmp_path: Path, redis_server: Any
) -> None:
    one = Extended(tmp_path, redis_server.address, "[limits]\nidle_timeout = 1s\n")
    try:
        assert talk(one.port, [asking("", "GET", "/own/never", "")], half=True)[:2] == ([], CLOSED)
        until(lambda: "somebody left" in one.log.read_text())
    finally:
        one.stop()


def test_metrics_count_them_by_their_routes(extended: Extended) -> None:
    for path in ("/own/plain/x", "/own/yields", "/own/files/a.txt", "/own/files/none"):
        extended.http("GET", path)
    text = extended.http("GET", "/metrics")[2].decode()
    for route, status in (("/own/plain/NAME", 200), ("/own/yields", 200), ("/own/files/FILE", 200)):
        assert f'restmq_requests_total{{method="GET",route="{route}",status="{status}"}}' in text
    assert 'route="/own/files/FILE",status="404"' in text
    assert statuses(asking("", "GET", "/metrics", "")) == []


class Given(Handler):
    """A handler of our own with keywords."""


def test_a_route_may_be_written_in_every_way_that_cyclone_has() -> None:
    routes: list[Any] = [
        (r"/q/([^/]+)", Queue),
        (r"/given/([^/]+)", Given, {"a": 1}),
        cyclone.URLSpec(r"/files/(.*)", cyclone.StaticFileHandler, {"path": "."}),
        (r"/by-name", "cyclone.web.RequestHandler"),
        cyclone.url(r"/named$", cyclone.RequestHandler, name="named"),
    ]
    requests = Counts(routes)
    for path in (b"/q/a", b"/given/a", b"/files/a/b", b"/by-name", b"/named", b"/none"):
        requests(as_request("GET", path), 200, 0)
    names = {route for route, *_ in requests.counts()}
    assert names == {"/q/NAME", "/given/NAME", "/files/FILE", "/by-name", "/named", "other"}
    assert route_name(r"/files/(.*)") == "/files/FILE"
