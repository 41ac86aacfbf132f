"""A real instance of RestMQ, started as users start it."""

from __future__ import annotations

import os
import re
import signal
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.support.forkserver import Forked
from tests.support.patience import LONG, PATIENCE, until
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.requests import FORM, http_call

#: Seconds an instance may take to answer: PyPy, on a busy machine and with no compiled modules yet, needs many.
START = LONG
#: Seconds that Redis has to answer, and that an instance may stand still before it counts as dead, for tests whose
#: subject is something else. A test of these two says `deadline` or `silence` in its restmq.conf.
DEADLINE = SILENCE = 60
TWISTD = "from twisted.scripts.twistd import run; run()"


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
            self.process.send_signal(signal.SIGCONT)  # a test that was interrupted may have stopped it
        self.process.wait(PATIENCE)
        return self.log.read_text()


def troubles(log: str) -> list[str]:
    """What no log may hold: no request, however wrong, and no end of Redis is a fault of RestMQ."""
    return [word for word in ("Traceback", "Unhandled") if word in log]


def shared(folder: Path, redis: RedisServer) -> Iterator[Instance]:
    """An instance whose log must hold no traceback at the end."""
    one = Instance(folder, redis.address)
    yield one
    text = one.stop()
    assert not troubles(text), text


class Life:
    """One life of an instance: the id that it has in Redis, found by starting it."""

    def __init__(self, store: Any, start: Any, conf: str = "") -> None:
        self.store = store
        before = self._alive()
        self.instance: Instance = start(conf + "[server]\nsilence = 3s\n")
        (self.id,) = self._alive() - before

    def _alive(self) -> set[bytes]:
        return set(self.store.zrange("restmq:{inst}:alive", 0, -1))

    def traces(self, queue: str) -> list[str]:
        """Where Redis still knows it, in the keys that all share and in those of a queue."""
        of = f"restmq:{{{queue}}}:"
        found = {
            "alive": self.store.zscore("restmq:{inst}:alive", self.id),
            "doomed": self.store.zscore("restmq:{inst}:doomed", self.id),
            "queues": self.store.exists("restmq:{inst}:q:" + self.id.decode()),
            "ring": self.id in self.store.lrange(of + "ring", 0, -1),
            "wt": self.id in self.store.lrange(of + "wt", 0, -1),
            "way": self.store.exists(f"{of}way:{self.id.decode()}"),
            "ways": self.store.sismember(of + "ways", self.id),
            **{key: self.store.hexists(of + key, self.id) for key in ("live", "from", "taps")},
        }
        return [key for key, there in found.items() if there not in (None, False, 0)]
