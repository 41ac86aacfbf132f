"""Nothing of an answered request stays: what the garbage collector finds after hundreds of requests of each kind.

CPython frees an object with its last reference, unless it is part of a cycle; such a one stays until the collector
comes by, and holds whatever it can reach: the request, and its body. So no request may leave a cycle. The tests end
the collector inside a real instance and count what it finds when they ask for it. PyPy has no reference counts.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.exchange import statuses
from tests.support.instance import TWISTD, Instance
from tests.support.load import many
from tests.support.patience import until
from tests.support.redis_server import RedisServer
from tests.support.tls import Secure, certify
from tests.support.websocket import HANDSHAKE, Talker

TOGETHER = 100  # connections at a time: some of them linger for seconds
MANY = many(1000, 200)
#: Objects that the instance may leave beside requests while they are made: its timers, its beat, its log. A cycle for
#: each request is more.
BESIDE = 100
CONF = """
[server]
xheaders = true
hosts = localhost, 127.0.0.1
allowed_origins = https://friend.example
access_log = yes
[limits]
max_value = 1000
max_body = 100000
head_timeout = 1s
[live]
per_client = 1
[admin]
username = a
password = b
"""
#: A handler that tells what the collector finds, by type, and forgets it.
COLLECTED = rf"""
import gc
from collections import Counter

from cyclone import web as cyclone
from restmq import web
from restmq.http.handler import Handler


class Collected(Handler):
    def get(self):
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found = Counter(type(one).__module__+"."+type(one).__qualname__ for one in gc.garbage)
        gc.garbage.clear()
        gc.collect()
        gc.freeze()  # what is there now is not looked at again: that would take longer than the requests
        return self.json(dict(found))

    verbs = {{"GET": get}}


class Ordinary(cyclone.RequestHandler):
    def get(self, word):
        if word == "missing":
            raise cyclone.HTTPError(404)
        self.write(word)

    async def post(self, word):
        self.write(self.get_argument("value"))


web.ROUTES += [(r"/ordinary/(\w+)", Ordinary)]
web.ROUTES += [(r"/collected", Collected)]
{TWISTD}
"""


class Watched(Instance):
    """An instance that tells what its garbage collector finds."""

    program = COLLECTED


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for all of them, with a Redis of its own."""
    folder = tmp_path_factory.mktemp("cycles")
    (folder / "redis").mkdir()
    server = RedisServer(folder / "redis")
    one = Watched(folder, server.address, CONF)
    yield one
    one.stop()
    server.stop()


def collected(one: Instance) -> dict[str, int]:
    """What the collector finds now."""
    found: dict[str, int] = json.loads(one.http("GET", "/collected")[2])
    return found


def request(method: str, target: str, body: str = "", headers: str = "", version: str = "1.1") -> bytes:
    """A request as bytes; a body is a form unless the header lines say otherwise."""
    if body and "Content-Type" not in headers:
        headers += "Content-Type: application/x-www-form-urlencoded\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body and "Transfer-Encoding" not in headers else ""
    return f"{method} {target} HTTP/{version}\r\nHost: localhost\r\n{headers}{length}\r\n{body}".encode()


def answered(one: Instance, sent: bytes, status: int | list[int], many: int = MANY) -> None:
    """Send the same again and again on one connection, some of it ahead; all is answered with a status, or some."""
    wanted = status if isinstance(status, list) else [status]
    ahead = min(50, many)
    with socket.create_connection(("127.0.0.1", one.port), 60) as link:
        for _ in range(many // ahead):
            link.sendall(sent * ahead)
            data = b""
            while len(statuses(data)) < ahead * len(wanted):
                part = link.recv(1 << 18)
                assert part, (sent[:100], data[-500:])
                data += part
            assert statuses(data) == wanted * ahead, (sent[:100], data[:500])


def closed(one: Instance, sent: bytes, status: int, many: int = MANY) -> None:
    """Send the same on connections of their own: each is answered with a status, and closed."""
    together = min(TOGETHER, many)
    for _ in range(many // together):
        links = [socket.create_connection(("127.0.0.1", one.port), 60) for _ in range(together)]
        for link in links:
            link.sendall(sent)
        for link in links:
            data = b""
            with link:
                while part := link.recv(65536):
                    data += part
            assert statuses(data) == [status], (sent[:100], data[:500])


def reset(one: Instance, sent: bytes, first: bytes, many: int = MANY) -> None:
    """Send the same on connections of their own, wait for the first bytes of an answer if any, and reset them."""
    for _ in range(many // 50):
        links = [socket.create_connection(("127.0.0.1", one.port), 60) for _ in range(min(50, many))]
        for link in links:
            link.sendall(sent)
        for link in links:
            if first:
                assert link.recv(65536).startswith(first)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            link.close()


PASS = "Authorization: Basic YTpi\r\n"
JSON = "Content-Type: application/json\r\n"
LINES = "Content-Type: application/x-ndjson\r\n"
PARTS = "Content-Type: multipart/form-data; boundary=B\r\n"
PART = '--B\r\nContent-Disposition: form-data; name="value"\r\n\r\nv\r\n--B--\r\n'
CHUNKS = "Transfer-Encoding: chunked\r\n"
FOREIGN, FRIEND = "Origin: https://evil.example\r\n", "Origin: https://friend.example\r\n"
LOST = 'If-Match: "1.7@another"\r\n'
FAR = "X-Real-IP: 192.0.2.1\r\n"


def command(**fields: Any) -> bytes:
    """A command of the JSON protocol."""
    return request("POST", "/queue", json.dumps(fields), JSON)


#: Requests whose answer leaves the connection open.
KEPT: dict[str, tuple[bytes, int]] = {
    "page": (request("GET", "/"), 200),
    "head of a page": (request("HEAD", "/"), 200),
    "form": (request("GET", "/queue"), 200),
    "listing": (request("GET", "/q/"), 200),
    "jobs": (request("GET", "/j/some"), 200),
    "robots": (request("GET", "/robots.txt"), 200),
    "description": (request("GET", "/openapi.json"), 200),
    "static": (request("GET", "/static/none"), 404),
    "health": (request("GET", "/healthz"), 200),
    "ready": (request("GET", "/readyz"), 200),
    "metrics": (request("GET", "/metrics"), 200),
    "all stats": (request("GET", "/stats/"), 200),
    "stats": (request("GET", "/stats/some"), 200),
    "settings": (request("GET", "/settings/some"), 200),
    "new settings": (request("POST", "/settings/set", "history=10", PASS), 200),
    "a bad setting": (request("POST", "/settings/set", "history=-1", PASS), 400),
    "peek": (request("GET", "/peek/some"), 200),
    "dead": (request("GET", "/dead/some"), 200),
    "kick": (request("POST", "/dead/some", "kick=1", PASS), 200),
    "ledger": (request("GET", "/ledger/some"), 200),
    "policy": (request("GET", "/p/some"), 200),
    "new policy": (request("POST", "/p/set", "policy=roundrobin", PASS), 200),
    "a bad policy": (request("POST", "/p/set", "policy=x", PASS), 400),
    "controls": (request("GET", "/control/"), 200),
    "control": (request("GET", "/control/some"), 200),
    "start": (request("POST", "/control/set", "status=start", PASS), 200),
    "add": (request("POST", "/q/some", "value=v"), 200),
    "add multipart": (request("POST", "/q/some", PART, PARTS), 200),
    "add in chunks": (request("POST", "/q/some", "1\r\nv\r\n0\r\n\r\n", "Content-Type: a/b\r\n" + CHUNKS), 200),
    "add json": (request("POST", "/q/some", "{}", JSON), 200),
    "add a batch": (request("POST", "/q/batch", "a\nb", LINES), 200),
    "add with ttl": (request("POST", "/q/some?ttl=1h", "value=v"), 200),
    "add with delay": (request("POST", "/q/delayed?delay=1h", "value=v"), 200),
    "add with a key": (request("POST", "/q/some", "value=v", "Idempotency-Key: a\r\n"), 200),
    "add at the root": (request("POST", "/", "queue=some&value=v"), 200),
    "take": (request("GET", "/q/some"), 200),
    "take for a page": (request("GET", "/q/some", "", FRIEND), 200),
    "take several": (request("GET", "/q/some?max=2"), 200),
    "take leased": (request("GET", "/q/some?lease=1h"), 200),
    "take with POST": (request("POST", "/q/some/take"), 200),
    "take at the root": (request("GET", "/?queue=some"), 200),
    "take in a callback": (request("GET", "/q/some?callback=f"), 200),
    "nothing": (request("GET", "/q/none"), 204),
    "nothing for HTTP/1.0": (request("GET", "/q/none", "", "Connection: keep-alive\r\n", "1.0"), 204),
    "nothing leased": (request("GET", "/q/none?lease=1h"), 204),
    "nothing in time": (request("GET", "/q/none?wait=1ms"), 204),
    "nothing at the root": (request("GET", "/?queue=none"), 404),
    "lengths": (request("HEAD", "/q/some"), 200),
    "look at one": (request("GET", "/q/some/1"), 404),
    "touch one": (request("POST", "/q/some/1", "lease=1m"), 404),
    "touch one that is not leased": (request("POST", "/q/kept/1", "lease=1m"), 412),
    "delete one": (request("DELETE", "/q/some/1"), 200),
    "acknowledge one that is lost": (request("DELETE", "/q/kept/1", "", LOST), 412),
    "acknowledge": (request("POST", "/q/some/ack", '{"ack": ["9.1@gone"]}', JSON), 200),
    "acknowledge nonsense": (request("POST", "/q/some/ack", '{"ack": [', JSON), 400),
    "purge": (request("DELETE", "/q/none", "", PASS), 200),
    "purge without a password": (request("DELETE", "/q/none"), 401),
    "command add": (command(cmd="add", queue="some", value="v"), 200),
    "command get": (command(cmd="get", queue="some"), 200),
    "command take": (command(cmd="take", queue="some"), 200),
    "command take that waits": (command(cmd="take", queue="none", wait="1ms"), 200),
    "command del": (command(cmd="del", queue="some", key="some:1"), 200),
    "command touch": (command(cmd="touch", queue="some", key="some:1", lease=1), 200),
    "a command that is none": (command(cmd="x"), 200),
    "no JSON": (request("POST", "/queue", "{", JSON), 400),
    "a preflight": (request("OPTIONS", "/q/some", "", FRIEND + "Access-Control-Request-Method: GET\r\n"), 204),
    "a bad option": (request("GET", "/q/some?x=1"), 400),
    "a bad name": (request("GET", "/q/%20"), 400),
    "a value that is no UTF-8": (request("POST", "/q/some", "value=%FF"), 400),
    "another origin": (request("GET", "/q/some", "", FOREIGN), 403),
    "no such path": (request("GET", "/nothing"), 404),
    "no such method": (request("PUT", "/q/some"), 405),
    "a value too large": (request("POST", "/q/some", "value=" + "x" * 1001), 413),
    "another host": (request("GET", "/q/some").replace(b"localhost", b"evil.example"), 421),
    "a key reused": (request("POST", "/q/some", "value=w", "Idempotency-Key: a\r\n"), 422),
    "no handshake": (request("GET", "/ws/some"), 426),
    "a full queue": (request("POST", "/q/full", "value=v"), 429),
    "a full queue and options": (request("POST", "/q/full", "value=v&ttl=1h"), 429),
    "a stopped queue": (request("POST", "/q/stopped", "value=v"), 503),
    "a prefetch": (request("GET", "/q/some", "", "Sec-Purpose: prefetch\r\n"), 503),
    "live, a bad name": (request("GET", "/c/%20"), 400),
    "live, bad options": (request("GET", "/sse/some?prefetch=2"), 400),
    "live, a bad start": (request("GET", "/c/some?since=x"), 400),
    "ordinary": (request("GET", "/ordinary/word"), 200),
    "ordinary async": (request("POST", "/ordinary/word", "value=v"), 200),
    "ordinary missing": (request("GET", "/ordinary/missing"), 404),
    "ordinary 400": (request("POST", "/ordinary/word", "x=v"), 400),
    "ordinary 405": (request("DELETE", "/ordinary/word"), 405),
}
#: Requests whose answer closes the connection.
ENDED: dict[str, tuple[bytes, int]] = {
    "take and close": (request("GET", "/q/some", "", "Connection: close\r\n"), 200),
    "HTTP/1.0": (request("GET", "/q/none", version="1.0"), 204),
    "malformed": (b"GET /\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a bad length": (request("GET", "/", "", "Content-Length: x\r\n"), 400),
    "a bad chunk": (request("POST", "/q/some", "x\r\n", CHUNKS), 400),
    "a body too large": (request("POST", "/q/some", "x" * 100_001), 413),
    "a body that says it is too large": (request("POST", "/q/some", "", "Content-Length: 100001\r\n"), 413),
    "a body that grows too large": (request("POST", "/q/some", "186a1\r\n", CHUNKS), 413),
    "a target too long": (request("GET", "/q/" + "x" * 9000), 414),
    "a head too large": (request("GET", "/", "", "X: y\r\n" * 101), 431),
    "a coding": (request("POST", "/q/some", "x", "Transfer-Encoding: gzip, chunked\r\n"), 501),
    "a head that does not end": (b"GET / HTTP/1.1\r\n", 408),
}
#: Requests in whose middle the client resets its connection, and how their answer begins.
CUT: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a head": (b"GET / HT", b""),
    "half a body": (request("POST", "/q/some", "", "Content-Type: a/b\r\nContent-Length: 9\r\n") + b"x", b""),
    "half a chunk": (request("POST", "/q/some", "9\r\nx", CHUNKS), b""),
    "an add": (request("POST", "/q/some", "value=v"), b""),
    "a wait": (request("GET", "/q/none?wait=60"), b""),
    "a wait for a lease": (request("GET", "/q/none?wait=60&lease=1m&max=5"), b""),
    "comet that joins": (request("GET", "/c/none"), b""),
    "comet": (request("GET", "/c/none"), b"HTTP/1.1 200"),
    "comet of several": (request("GET", "/c/none,two,three"), b"HTTP/1.1 200"),
    "comet with its past": (request("GET", "/c/past?since=all"), b"HTTP/1.1 200"),
    "comet that leases": (request("GET", "/c/dealt?lease=1m&prefetch=5"), b"HTTP/1.1 200"),
    "a tap": (request("GET", "/c/none?tap=1"), b"HTTP/1.1 200"),
    "sse": (request("GET", "/sse/none"), b"HTTP/1.1 200"),
    "sse of several": (request("GET", "/sse/none,past"), b"HTTP/1.1 200"),
    "sse again": (request("GET", "/sse/past", "", "Last-Event-ID: 1@gone\r\n"), b"HTTP/1.1 200"),
    "a WebSocket": (request("GET", "/ws/none", "", HANDSHAKE), b"HTTP/1.1 101"),
    "a WebSocket that leases": (request("GET", "/ws/dealt?lease=1m", "", HANDSHAKE), b"HTTP/1.1 101"),
    "an ordinary one": (request("POST", "/ordinary/word", "value=v"), b""),
}


@pytest.fixture(scope="module")
def prepared(watched: Watched) -> Watched:
    """Queues with elements, a full one, a stopped one, one that deals and one with a past."""
    for sent in (
        request("POST", "/q/kept", "value=v"),
        request("POST", "/settings/full", "max_length=1", PASS),
        request("POST", "/q/full", "value=v"),
        request("POST", "/control/stopped", "status=stop&what=add", PASS),
        request("POST", "/settings/dealt", "policy=roundrobin", PASS),
    ):
        answered(watched, sent, 200, 1)
    return watched


def stocked(one: Watched) -> None:
    """More elements than will be taken."""
    answered(one, request("POST", "/q/some", "\n".join("v" * 2500), LINES), 200, 1)


def leaves_nothing(one: Watched | WatchedOverTls, ask: Callable[[int], object]) -> None:
    """Ask again and again: what the collector finds then is no object for each."""
    ask(50)  # what is made once
    collected(one)
    ask(MANY)
    found = collected(one)
    assert sum(found.values()) < BESIDE, dict(sorted(found.items(), key=lambda one: -one[1])[:25])


@pytest.mark.parametrize("kind", KEPT)
def test_an_answered_request_leaves_no_cycle(prepared: Watched, kind: str) -> None:
    sent, status = KEPT[kind]
    if status == 200 and "take" in kind:
        stocked(prepared)
    leaves_nothing(prepared, lambda many: answered(prepared, sent, status, many))


def guess(address: str) -> bytes:
    """A request with a wrong password, of a name that no other test uses."""
    return request("DELETE", "/q/none", "", f"Authorization: Basic eno6eg==\r\nX-Real-IP: {address}\r\n")


def test_a_wrong_password_leaves_no_cycle(prepared: Watched) -> None:
    addresses = (f"10.0.{place // 250}.{place % 250 + 1}" for place in itertools.count())

    def ask(many: int) -> None:
        for _ in range(many // 50):
            answered(prepared, b"".join(guess(next(addresses)) for _ in range(50)), [401] * 50, 1)

    leaves_nothing(prepared, ask)


def test_guesses_that_have_to_wait_leave_no_cycle(prepared: Watched) -> None:
    def ask(many: int) -> None:
        links = [socket.create_connection(("127.0.0.1", prepared.port), 60) for _ in range(many // 50)]
        for link in links:
            link.sendall(guess("192.0.2.9") * 50)
        for link in links:  # a few wait for seconds, the others are told at once
            data = b""
            with link:
                while len(statuses(data)) < 50:
                    data += link.recv(1 << 18)
            assert set(statuses(data)) <= {401, 429}

    leaves_nothing(prepared, ask)


@pytest.mark.parametrize("kind", ENDED)
def test_a_request_that_closes_its_connection_leaves_no_cycle(prepared: Watched, kind: str) -> None:
    sent, status = ENDED[kind]
    stocked(prepared)
    leaves_nothing(prepared, lambda many: closed(prepared, sent, status, many))


@pytest.mark.parametrize("kind", CUT)
def test_a_connection_that_is_reset_leaves_no_cycle(prepared: Watched, kind: str) -> None:
    sent, first = CUT[kind]
    leaves_nothing(prepared, lambda many: reset(prepared, sent, first, many))


class Streams:
    """Many streams of one kind, opened and closed."""

    def __init__(self, one: Instance, target: str, headers: str, many: int) -> None:
        self.links = [socket.create_connection(("127.0.0.1", one.port), 60) for _ in range(many)]
        for link in self.links:
            link.sendall(request("GET", target, "", headers))
        self.read = [link.recv(65536) for link in self.links]

    def heard(self, what: bytes) -> None:
        """All of them have read these bytes."""
        for place, link in enumerate(self.links):
            while what not in self.read[place]:
                part = link.recv(65536)
                assert part, self.read[place][-300:]
                self.read[place] += part

    def end(self, last: bytes = b"") -> None:
        """Say the last words, close our side, and read to the end."""
        for link in self.links:
            if last:
                link.sendall(last)
            else:
                link.shutdown(socket.SHUT_WR)
        for link in self.links:
            with link:
                while link.recv(65536):
                    pass


MASKED_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


@pytest.mark.parametrize(
    ("target", "headers", "last"),
    [
        ("/c/heard", "", b""),
        ("/c/heard,other", "", b""),
        ("/c/heard?since=-3", "", b""),
        ("/c/heard?tap=1", "", b""),
        ("/sse/heard", "", b""),
        ("/sse/heard,other", "", b""),
        ("/ws/heard", HANDSHAKE, MASKED_CLOSE),
        ("/ws/heard?since=-3", HANDSHAKE, MASKED_CLOSE),
        ("/ws/heard", HANDSHAKE, b"\x82\x80\0\0\0\0"),  # a binary message, which ends it with 1003
        ("/ws/heard", HANDSHAKE, b"\xff\xff\xff\xff"),  # what is no frame
    ],
)
def test_a_live_consumer_that_heard_something_leaves_no_cycle(
    prepared: Watched, target: str, headers: str, last: bytes
) -> None:
    count = iter(range(1 << 30))

    def ask(many: int) -> None:
        together = min(TOGETHER, many)
        for _ in range(many // together):
            streams = Streams(prepared, target, headers, together)
            word = f"word{next(count)}."
            answered(prepared, request("POST", "/q/heard", f"value={word}"), 200, 1)
            streams.heard(word.encode())
            streams.end(last)

    leaves_nothing(prepared, ask)


def test_a_live_consumer_that_is_one_too_many_leaves_no_cycle(prepared: Watched) -> None:
    streams = Streams(prepared, "/c/one", FAR, 1)
    leaves_nothing(prepared, lambda many: answered(prepared, request("GET", "/c/one", "", FAR), 429, many))
    leaves_nothing(prepared, lambda many: answered(prepared, request("GET", "/sse/one", "", FAR), 200, many))
    streams.end()


COMMANDS: list[dict[str, Any]] = [
    {"cmd": "add", "queue": "some", "value": "v"},
    {"cmd": "get", "queue": "some"},
    {"cmd": "take", "queue": "some"},
    {"cmd": "take", "queue": "some", "lease": "1h"},
    {"cmd": "take", "queue": "none", "wait": "1ms", "id": 1},
    {"cmd": "del", "queue": "some", "key": "some:1"},
    {"cmd": "touch", "queue": "some", "key": "some:1", "lease": 1},
    {"cmd": "add", "queue": "full", "value": "v"},
    {"cmd": "add", "queue": "stopped", "value": "v"},
    {"cmd": "add", "queue": "some", "value": "x" * 1001},
    {"cmd": "none"},
]


@pytest.mark.parametrize("said", COMMANDS, ids=str)
def test_a_command_on_a_websocket_leaves_no_cycle(prepared: Watched, said: dict[str, Any]) -> None:
    with Talker(prepared.port, "/ws/quiet") as talker:
        stocked(prepared)

        def ask(many: int) -> None:
            for _ in range(many // 50):
                for _ in range(50):
                    talker.send(json.dumps(said))
                for _ in range(50):
                    talker.recv()

        leaves_nothing(prepared, ask)


def test_requests_while_redis_is_away_leave_no_cycle(tmp_path: Path, own: RedisServer) -> None:
    one = Watched(tmp_path, own.address, CONF)
    try:
        own.process.kill()
        own.process.wait(60)
        until(lambda: one.http("GET", "/readyz")[0] == 503)
        for sent in (
            request("POST", "/q/some", "value=v"),
            request("POST", "/q/some?ttl=1h", "value=v"),
            request("GET", "/q/some"),
            request("GET", "/q/some?wait=1"),
            request("GET", "/q/some?lease=1m"),
            request("GET", "/c/some"),
            request("GET", "/stats/some"),
            request("GET", "/readyz"),
        ):
            leaves_nothing(one, partial(answered, one, sent, 503))
    finally:
        one.stop()


class WatchedOverTls(Secure):
    """The same over TLS."""

    program = COLLECTED


def test_a_connection_over_tls_leaves_no_cycle_whether_it_says_goodbye_or_not(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    certify(tmp_path)
    one = WatchedOverTls(tmp_path, redis_server.address, tmp_path)

    def ask(many: int, goodbye: bool) -> None:
        for _ in range(200 if many == MANY else 10):  # a handshake is dear: so many will do
            link = one.context.wrap_socket(
                socket.create_connection(("127.0.0.1", one.port), 60), server_hostname="localhost"
            )
            link.sendall(request("GET", "/healthz"))
            assert statuses(link.recv(65536)) == [200]
            (link.unwrap() if goodbye else link).close()
        until(lambda: b"restmq_connections 1.0" in one.http("GET", "/metrics")[2])

    try:
        for goodbye in (True, False):
            leaves_nothing(one, partial(ask, goodbye=goodbye))
    finally:
        one.stop()
