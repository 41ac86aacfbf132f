"""The data directory, which belongs to one running RestMQ: its lock, and what is remembered in it.

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

#: Bytes of what is remembered under a name.
LINE = 5000
#: Bytes of a unix socket's path: sun_path holds 108 on Linux and 104 on BSD, with a zero at its end.
PATH_LIMIT = 103


class Directory(Service):
    """The data directory, which belongs to one running RestMQ: a lock says so as long as it lives.

    Made with mode 0700. Raises ConfigError when another process has it, naming that
    one, or when it is not RestMQ's own.
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
                # Somebody's home or /tmp must not be closed because it was named by mistake.
                if names and "lock" not in names:
                    raise ConfigError(
                        f"{self.path} is open to others and holds what is not RestMQ's: "
                        "--data takes a directory of its own"
                    )
                os.fchmod(number, 0o700)
            # While it was open, others may have put something there, which Redis would follow or run.
            for name in os.listdir(number):
                if not plainfile.trusted(os.lstat(name, dir_fd=number)):
                    raise ConfigError(
                        f"{self.path / name} belongs to another user: remove it, or name another directory with --data"
                    )
        finally:
            os.close(number)

    def _claim(self) -> IO[str]:
        # Not closed and not inherited by Redis: it lasts exactly as long as this process (flock(2)).
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
                "end that one, or give this one its own with --data; several instances share one "
                "Redis that all of them name, with --redis HOST:PORT"
            ) from None
        return lock

    def startService(self) -> None:
        """Write down who owns it; not before, as a daemon's process id is another than its starter's."""
        Service.startService(self)
        if self.path.stat().st_uid != os.geteuid():
            raise ConfigError(
                f"the data directory {self.path} was made as another user than RestMQ now is: with --uid, name a Redis"
            )
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def stopService(self) -> None:
        """Let the directory go."""
        Service.stopService(self)
        self._lock.close()

    def recall(self, name: str) -> str:
        """What was remembered under a name, "" if nothing. Raises ConfigError when something else lies there."""
        try:
            return plainfile.read(self.path / name, LINE, own=True).decode("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"{self.path / name}: {why}: remove it, and RestMQ chooses anew, or name another directory with --data"
            ) from None

    def remember(self, name: str, text: str) -> None:
        """Keep a line under a name; a crash leaves the old one or the new one."""
        plainfile.write(self.path / name, f"{text}\n".encode())

    def socket(self) -> Path:
        """The path of Redis' unix socket: in here, or in a private directory when that is too long."""
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
