"""A private Redis and real instances, in temporary directories, for every test that speaks the wire."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import reactor
from tests.support.instance import Instance, shared, troubles
from tests.support.listener import Listener
from tests.support.pair import Pair
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer, emptied
from tests.support.websocket import Socket

pytest_plugins = ["tests.support.workers"]
#: These need what is installed on CPython only; what they look at does not depend on the Python that serves it.
CPYTHON = [
    "wire/test_browser.py",
    "wire/test_cycles.py",
    "wire/test_other_sites.py",
    "wire/test_openapi.py",
    "deploy/test_path.py",
]
CPYTHON += ["wire/test_memory.py"]  # PyPy gives memory back later
CPYTHON += ["wire/test_sse_clients.py"]
collect_ignore = CPYTHON if sys.implementation.name == "pypy" else []
# A shell that starts the tests in the background lets them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def pair(start: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """here and there; a parameter is the restmq.conf of `here`."""
    server = RedisServer(tmp_path)
    try:
        made = Pair(server, start, getattr(request, "param", ""))
        yield made
        made.between.stop()
        made.link.close()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser as most are."""
    from tests.support.browser import chromium  # selenium is there on CPython only

    driver = chromium(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
