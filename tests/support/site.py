"""RestMQ deployed as docs/operations.md tells: a folder, a user of its own, several instances, Nginx in front.

Owns what test_deploy.py and test_nginx.py stand on: everything is started by the
scripts that ship, as root, and lies in one temporary folder that others may enter.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import ROOT
from tests.support.instance import patient
from tests.support.patience import LONG, until
from tests.support.ports import free_ports
from tests.support.redis_server import RedisServer
from tests.support.requests import http_call

SHIPPED = ["restmq", "twisted", "_build", "frontend", "scripts", "docs", "requirements.lock", "restmq.conf", "start.sh"]


@functools.cache
def environment() -> Path:
    """Where the first start makes the environment: once for all tests, for they begin with an empty folder.

    Workers that run at once have one together; it is removed by what started them.
    """
    if run := os.environ.get("PYTEST_XDIST_TESTRUNUID"):
        folder = shared(run)
        folder.mkdir(exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="restmq-env-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    return folder


def shared(run: str) -> Path:
    """The folder of the environment that all workers of a run have together."""
    return Path(tempfile.gettempdir()) / f"restmq-env-{run}"


class Site:
    """One deployment. `defaults` is what /etc/default/restmq would be."""

    def __init__(self, folder: Path, instances: int, user: str) -> None:
        self.folder, self.instances, self.user = folder, instances, user
        self.place = folder / "opt"
        self.place.mkdir()
        for name in SHIPPED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.place / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
            else:
                shutil.copy2(source, self.place / name)
        subprocess.run(["chmod", "-R", "a+rX", str(self.place)], check=True)
        (folder / "redis").mkdir()
        self.redis = RedisServer(folder / "redis")
        self.redis.socket.chmod(0o777)
        self.first = free_ports(instances)
        self.ports = [self.first + number for number in range(instances)]
        self.conf = folder / "restmq.conf"
        # An idle connection is Nginx's to close, also when it is late.
        self.configure("[server]\nxheaders = true\ngrace = 30s\ndrain = 60s\n")
        self.defaults: dict[str, str] = {
            "USER": user,
            "INSTANCES": str(instances),
            "FIRST_PORT": str(self.first),
            "REDIS": self.redis.address,
            "CONF": str(self.conf),
            "LOGS": str(folder / "logs"),
            "RUN": str(folder / "run"),
            "DATA": str(folder / "data"),
            "LOCK": str(folder / "lock"),
            # A busy machine may be late; what these are for is tried with times of its own.
            "ENDING": "120",
            "STARTING": "240",
            "READY": "240",
            "PATIENCE": "300",
            # Any user must be able to read it: Debian's own, not one of somebody's home.
            "PYTHON": "/usr/bin/python3",
            "RESTMQ_ENV": str(environment()),
        }

    def configure(self, text: str) -> None:
        """Write restmq.conf, which root owns and the instances may read; what is no test's subject lasts long."""
        self.conf.write_text(patient(text))
        self.conf.chmod(0o644)

    def script(self, verb: str, many: bool = True, **more: str) -> tuple[int, str]:
        """What an init.d script answers: exit code, and what it said."""
        file = self.folder / "default"
        file.write_text("".join(f"{name}='{value}'\n" for name, value in {**self.defaults, **more}.items()))
        command = [str(self.place / "scripts" / ("restmq-multi.init" if many else "restmq.init")), verb]
        said = self.folder / "said"  # a file, not a pipe: what a daemon keeps open must not keep us waiting
        with said.open("wb") as out:
            done = subprocess.run(
                command, env={"RESTMQ_DEFAULTS": str(file), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=2 * LONG, check=False,
            )  # fmt: skip
        return done.returncode, said.read_text()

    def start(self) -> None:
        """Start all, and wait until they are ready."""
        code, said = self.script("start")
        assert code == 0, said + self.logs()
        for port in self.ports:
            until(lambda port=port: self.answers(port), self.logs, LONG)

    def answers(self, port: int) -> bool:
        """Whether an instance is ready."""
        try:
            return http_call(port, "GET", "/readyz")[0] == 200
        except OSError:
            return False

    def processes(self) -> dict[int, int]:
        """Port to process id, of the pid files."""
        found = {}
        for file in (self.folder / "run").glob("*.pid"):
            found[int(file.stem)] = int(file.read_text())
        return found

    def logs(self) -> str:
        """What the instances logged."""
        return "\n".join(path.read_text() for path in sorted((self.folder / "logs").glob("*.log")))

    def end(self) -> None:
        """Leave nothing."""
        code, said = self.script("stop")
        assert code == 0, said
        self.redis.stop()


@contextmanager
def deployed(instances: int) -> Iterator[Site]:
    """A Site with a user made for it; both are gone afterwards."""
    assert os.geteuid() == 0, "the tests of the init.d scripts make a user and need root"
    user = f"restmq{os.getpid()}"
    subprocess.run(
        ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", user], check=True
    )
    folder = Path(tempfile.mkdtemp(prefix="restmq-site-"))
    folder.chmod(0o755)
    try:
        site = Site(folder, instances, user)
        try:
            yield site
        finally:
            site.end()
    finally:
        subprocess.run(["userdel", user], check=True)
        shutil.rmtree(folder)
