"""The reactor in a thread, for tests that talk to the layers below HTTP: they need no instance, but a real Redis."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from twisted.internet import reactor as real
from twisted.internet.threads import blockingCallFromThread

from restmq.runtime.future import deferred
from restmq.store.connection import Redis
from restmq.store.core import Core
from tests.support.patience import PATIENCE

reactor: Any = real
_lock = threading.Lock()


def run() -> None:
    """Begin to turn, once for all tests of this process: a reactor cannot be started again."""
    with _lock:
        if not reactor.running:
            running = threading.Event()
            reactor.callWhenRunning(running.set)
            threading.Thread(target=reactor.run, args=(False,), daemon=True).start()
            assert running.wait(PATIENCE)


def call(function: Callable[..., Any], *words: Any) -> Any:
    """Call it in the reactor's thread; answers what it answers, or what its Deferred does."""
    return blockingCallFromThread(reactor, function, *words)


async def _value(slot: Any) -> Any:
    return await slot


def wait(function: Callable[..., Any], *words: Any) -> Any:
    """Call what answers a Slot or a coroutine; answers what that brings."""

    def begin() -> Any:
        asked = function(*words)
        return deferred(asked if isinstance(asked, Coroutine) else _value(asked))

    return call(begin)


@contextlib.contextmanager
def core(address: str, db: int = 0, **words: Any) -> Iterator[Core]:
    """A Core on a Redis, connected when Redis lets it."""
    run()
    redis = Redis(address, reactor, db, **{"deadline": 60.0, **words})
    made = call(lambda: Core(redis, reactor))
    call(redis.start)
    try:
        yield made
    finally:
        call(redis.disconnect)
