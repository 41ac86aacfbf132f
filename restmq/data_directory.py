"""The data directory, which belongs to one running RestMQ: its lock, and the texts that are remembered in it.

Knows nothing of Redis. Read embedded.py next.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from twisted.application.service import Service

from restmq.model.ini import ConfigError
from restmq.runtime import plainfile

#: Most bytes of a remembered text.
LINE = 5000
#: Most bytes of a unix socket's path: sun_path has 108 on Linux and 104 on BSD, with a zero at its end.
PATH_LIMIT = 103


class Directory(Service):
    """The data directory, which belongs to one running RestMQ. A lock holds as long as the process runs.

    The directory is made with mode 0700. Raises ConfigError if another process holds the lock, with its process id, or
    if the directory is not RestMQ's own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self._make()
            self._lock = self._claim()
        except OSError as error:
            raise ConfigError(f"the data directory {self.path}: {error.strerror}; --data names another") from None

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found, names = os.fstat(number), os.listdir(number)
            if found.st_uid != os.geteuid():
                raise ConfigError(f"the data directory {self.path} belongs to another user; --data names another")
            if stat.S_IMODE(found.st_mode) & 0o077:
                # A home directory or /tmp that was named by mistake must not be closed to others.
                if names and "lock" not in names:
                    raise ConfigError(
                        f"{self.path} is open to others and holds files that are not RestMQ's: "
                        "give --data a directory of its own"
                    )
                os.fchmod(number, 0o700)
            # While the directory was open, others may have put files there, which Redis would follow or run.
            for name in os.listdir(number):
                if not plainfile.trusted(os.lstat(name, dir_fd=number)):
                    raise ConfigError(
                        f"{self.path / name} belongs to another user: remove it, or name another directory with --data"
                    )
        finally:
            os.close(number)

    def _claim(self) -> IO[str]:
        # Not closed, and not inherited by Redis: the lock lasts exactly as long as this process (flock(2)).
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        lock = open(plainfile.opened(self.path / "lock", flags, own=True), "a+")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read(20).strip()
            lock.close()
            raise ConfigError(
                f"the data directory {self.path} is in use by the RestMQ with process id {owner or '(just starting)'}: "
                "end that process, or give this one its own directory with --data; several instances share one "
                "Redis that all of them name, with --redis HOST:PORT"
            ) from None
        return lock

    def startService(self) -> None:
        """Write the process id into the lock. Not earlier, because a daemon's process id differs from its starter's."""
        Service.startService(self)
        if self.path.stat().st_uid != os.geteuid():
            raise ConfigError(
                f"the data directory {self.path} was made by another user than RestMQ runs as: with --uid, name a Redis"
            )
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def stopService(self) -> None:
        """Release the lock."""
        Service.stopService(self)
        self._lock.close()

    def recall(self, name: str) -> str:
        """The text that is remembered under a name, or "". Raises ConfigError if something else lies there."""
        try:
            return plainfile.read(self.path / name, LINE, own=True).decode("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"{self.path / name}: {why}: remove the file, so that RestMQ chooses again, or name another "
                "directory with --data"
            ) from None

    def remember(self, name: str, text: str) -> None:
        """Keep a line under a name. A crash leaves the old line or the new one."""
        plainfile.write(self.path / name, f"{text}\n".encode())

    def socket(self) -> Path:
        """The path of Redis' unix socket: in this directory, or in a private one if that path is too long."""
        here = self.path / "redis.sock"
        if len(os.fsencode(here)) <= PATH_LIMIT:
            return here
        kept = self.recall("socket")
        if kept and _is_private(Path(kept).parent):
            return Path(kept)
        other = Path(tempfile.mkdtemp(prefix="restmq-")) / "redis.sock"
        self.remember("socket", str(other))
        return other


def _is_private(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
