"""A private Redis and real instances, in temporary directories, for every test that speaks the wire."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import reactor
import redis
from forkserver import Forked
from redis.backoff import NoBackoff
from redis.retry import Retry
from stored import DB
from wire import FORM, LONG, PATIENCE, Listener, Socket, until

pytest_plugins = ["between"]
#: These need what is installed on CPython only; what they look at does not depend on the Python that serves it.
CPYTHON = ["test_browser.py", "test_cycles.py", "test_elsewhere.py", "test_openapi.py", "test_path.py"]
CPYTHON += ["test_memory.py"]  # PyPy gives memory back later
CPYTHON += ["test_sse_clients.py"]
collect_ignore = CPYTHON if sys.implementation.name == "pypy" else []
ROOT = Path(__file__).resolve().parent.parent
#: Seconds an instance may take to answer: PyPy, on a busy machine and with no compiled modules yet, needs many.
START = LONG
#: Seconds that Redis has to answer, and that an instance may stand still before it counts as dead, for tests whose
#: subject is something else. A test of these two says `deadline` or `silence` in its restmq.conf.
DEADLINE = SILENCE = 60
#: Milliseconds after which Redis refuses others because of a script: as many as a Redis that does not run may spend.
SCRIPT = 600_000
# A shell that starts the tests in the background lets them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
TWISTD = "from twisted.scripts.twistd import run; run()"


#: Ports of one run of the tests. They lie below those that the kernel gives to outgoing connections: an instance
#: that takes seconds to start would find such a one taken by another test's client.
PORTS = 1000


def claim() -> tuple[socket.socket, int]:
    """Ports that are this run's alone, so that two runs at once do not choose the same before either listens.

    A name among the sockets of this machine says who has them; it goes with the process, however that ends.
    """
    for first in range(10_000, 32_000, PORTS):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0restmq-tests-{first}")
        except OSError:
            name.close()  # another run's
        else:
            return name, first
    raise AssertionError("too many runs of the tests at once")


_claim, FIRST_PORT = claim()
_ports = itertools.count()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Runs at once begin at different files, or what loads the machine most would come in all of them together.

    RESTMQ_TEST_ROTATE asks for that: the shorter run of every change has one order.
    """
    if "RESTMQ_TEST_ROTATE" not in os.environ:
        return
    files = list(dict.fromkeys(item.path for item in items))
    cut = len(files) * ((FIRST_PORT - 10_000) // PORTS % 3) // 3
    order = {path: place for place, path in enumerate(files[cut:] + files[:cut])}
    items.sort(key=lambda item: order[item.path])


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody uses now, and that no other test was given lately."""
    for _ in range(PORTS):
        places = [next(_ports) % PORTS for _ in range(count)]
        if places[-1] - places[0] == count - 1 and all(unused(FIRST_PORT + place) for place in places):
            return FIRST_PORT + places[0]
    raise AssertionError("there are no free ports")


def unused(port: int) -> bool:
    """Whether nobody listens there, nor did a moment ago."""
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody uses now."""
    return free_ports(1)


def http_call(
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own, with a context over TLS: status, headers by lower-case name, body."""
    plain, secure = http.client.HTTPConnection, partial(http.client.HTTPSConnection, context=context)
    link = (secure if context else plain)("127.0.0.1", port, timeout=PATIENCE)
    try:
        link.request(method, path, body, headers or {})
        reply = link.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        link.close()


class RedisServer:
    """A redis-server (or RESTMQ_TEST_REDIS) on a unix socket."""

    def __init__(self, folder: Path, options: str = "", binary: str = "", env: dict[str, str] | None = None) -> None:
        self.options, self.env = options, env
        binary = shutil.which(binary or os.environ.get("RESTMQ_TEST_REDIS", "redis-server")) or ""
        assert binary, "no redis-server: apt-get install redis-server, or set RESTMQ_TEST_REDIS"
        self.folder, self.socket, self.binary = folder, folder / "redis.sock", binary
        self.address = f"unix:{self.socket}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"--port 0 --unixsocket {self.socket} --appendonly yes --dir {self.folder} {self.options}".split()
        options += ["--lua-time-limit", str(SCRIPT)]
        log = str(self.folder / "redis.log")
        self.process = subprocess.Popen([self.binary, *options, "--save", "", "--logfile", log], env=self.env)
        until(self._answers, lambda: "redis-server does not answer")

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(str(self.socket))
                one.sendall(b"PING\r\n")
                return one.recv(100).startswith(b"+PONG")
        except OSError:
            return False  # not there yet

    def client(self, **words: Any) -> Any:
        """A client that asks each command once, however late it is answered.

        redis-py's own gives up after five seconds and asks again: what is counted, added or taken came twice then.
        """
        once = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=LONG, retry=once, **words)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(PATIENCE)


def patient(conf: str) -> str:
    """A restmq.conf in which what a busy machine could trip lasts long, but for what it sets itself."""
    for section, key, seconds in (("redis", "deadline", DEADLINE), ("server", "silence", SILENCE)):
        if not re.search(rf"^{key} *=", conf, re.MULTILINE):
            line, title = f"{key} = {seconds}s\n", f"[{section}]\n"
            conf = conf.replace(title, title + line, 1) if title in conf else f"{conf}\n{title}{line}"
    return conf


class Instance:
    """A RestMQ under twistd, as users run it."""

    program = TWISTD
    options: Sequence[str] = ()
    context: ssl.SSLContext | None = None  # of one that speaks TLS

    def __init__(self, folder: Path, redis: str, conf: str = "") -> None:
        self.port, self.folder, self.redis = free_port(), folder, redis
        self.log = folder / "restmq.log"
        self.conf = folder / "restmq.conf"
        self.conf.write_text(patient(conf))
        self.start()

    def launch(self) -> None:
        """Start it."""
        words = ["-n", "--pidfile=", "restmq", "--port", str(self.port), "--redis", self.redis]
        words += ["--data", str(self.folder / "data"), "--config", str(self.conf), *self.options]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = Forked(self.program, words, self.folder, {**os.environ, "PYTHONPATH": paths}, self.log)

    def start(self) -> None:
        """Start it and wait until /readyz answers 200."""
        self.launch()
        until(self._ready, self.log.read_text, START)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http("GET", "/readyz")[0] == 200
        except OSError:
            return False  # not listening yet

    def http(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, dict[str, str], bytes]:
        """One request to this instance."""
        return http_call(self.port, method, path, body, headers, self.context)

    def form(self, path: str, body: str) -> tuple[int, bytes]:
        """POST a form, as curl -d does."""
        status, _, answer = self.http("POST", path, body, FORM)
        return status, answer

    def stop(self) -> str:
        """End it as init does; answers its log."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)
        return self.log.read_text()


def troubles(log: str) -> list[str]:
    """What no log may hold: no request, however wrong, and no end of Redis is a fault of RestMQ."""
    return [word for word in ("Traceback", "Unhandled") if word in log]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """A test that fails shows the last lines its instances logged."""
    report = yield
    if report.failed and report.when == "call":
        given = getattr(item, "funcargs", {})
        both = [given[name] for name in ("instance", "other") if name in given]
        for one in [*getattr(item, "started", ()), *both]:
            report.sections.append((f"log of the instance on port {one.port}", one.log.read_text()[-4000:]))
    return report


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


def shared(folder: Path, redis: RedisServer) -> Iterator[Instance]:
    """An instance whose log must hold no traceback at the end."""
    one = Instance(folder, redis.address)
    yield one
    text = one.stop()
    assert not troubles(text), text


@pytest.fixture(scope="session")
def instance(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One instance for all tests that need nothing special."""
    yield from shared(tmp_path_factory.mktemp("instance"), redis_server)


@pytest.fixture(scope="session")
def other(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Another on the same Redis, for all tests that need two and end neither."""
    yield from shared(tmp_path_factory.mktemp("other"), redis_server)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of its own, that a test may stop, end, fill, lock and change."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    yield server
    server.process.kill()  # it may be stopped, and a SIGTERM waits for a file that was switched on again
    server.process.wait(PATIENCE)


def emptied(server: RedisServer) -> Iterator[Any]:
    """A client on a database of its own, which is empty."""
    client = server.client(db=DB)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@pytest.fixture
def link(redis_server: RedisServer) -> Iterator[Any]:
    """A client of the same Redis."""
    yield from emptied(redis_server)


@pytest.fixture
def core(redis_server: RedisServer) -> Iterator[Any]:
    """The layer below HTTP, on the same Redis: it says what settings and flow of a queue are to be."""
    with reactor.core(redis_server.address) as one:
        until(lambda: one.redis.link is not None)
        yield one


_count = itertools.count(1)


@pytest.fixture
def queue() -> str:
    """A name that no other test uses."""
    return f"queue{next(_count)}"


@pytest.fixture
def start(redis_server: RedisServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Starts instances with a restmq.conf of their own: start(conf). Their logs must hold no traceback."""
    started: list[Instance] = []

    def one(conf: str = "", redis: str | None = None, kind: Callable[[Path, str, str], Instance] = Instance) -> Any:
        folder = tmp_path / f"instance{len(started)}"
        folder.mkdir()
        made = kind(folder, redis or redis_server.address, conf)
        started.append(made)
        return made

    request.node.started = started
    yield one
    texts = [made.stop() for made in started]
    assert not [text for text in texts if troubles(text)], texts


@pytest.fixture
def listen() -> Iterator[Any]:
    """Opens live consumers, and leaves them at the end: listen(instance, target), on /ws with the handshake."""
    opened: list[Listener] = []

    def one(instance: Instance, target: str, **options: Any) -> Listener:
        kind = Socket if target.startswith("/ws/") and "headers" not in options else Listener
        listener = kind(instance.port, target, **options)
        opened.append(listener)
        return listener

    yield one
    for listener in opened:
        listener.close()
