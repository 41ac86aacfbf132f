"""A real Redis, or Valkey, of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.patience import LONG, PATIENCE, until
from tests.support.stored import DB

#: Milliseconds after which Redis refuses others because of a script: as many as a Redis that does not run may spend.
SCRIPT = 600_000


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


def emptied(server: RedisServer) -> Iterator[Any]:
    """A client on a database of its own, which is empty."""
    client = server.client(db=DB)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()
