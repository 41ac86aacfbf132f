"""A real Nginx with the configuration of docs/nginx.conf."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from pathlib import Path

from tests import ROOT
from tests.support.patience import PATIENCE, until
from tests.support.ports import free_port


class Nginx:
    """A real Nginx with docs/nginx.conf, but for its ports, its upstreams and the places it writes to."""

    def __init__(self, folder: Path, upstreams: list[str], more: str = "", listen: tuple[str, ...] = ()) -> None:
        self.folder, self.port, self._listen = folder, free_port(), listen
        self.conf, self.log = folder / "nginx.conf", folder / "nginx.log"
        self.write(upstreams, more)
        command = ["nginx", "-c", str(self.conf), "-p", str(folder), "-e", str(self.log), "-g", "daemon off;"]
        self.process = subprocess.Popen(command)
        until(self.listens, lambda: self.log.read_text())

    def write(self, upstreams: list[str], more: str = "") -> None:
        """Write its configuration; `more` goes into the server."""
        text = (ROOT / "docs" / "nginx.conf").read_text()
        servers = "".join(f"        server {one} max_fails=0;\n" for one in upstreams)
        text, count = re.subn(r"(        server 127\.0\.0\.1:99\d\d max_fails=0;\n)+", servers, text)
        places = (f"127.0.0.1:{self.port}", *self._listen)

        def listening(found: re.Match[str]) -> str:
            options = re.search(r" default_server| sndbuf=\w+", found[0])
            last = f"{options[0] if options else ''};\n"
            lines = "".join(f"        listen {where}{last}" for where in places)
            return lines if "default_server" in found[0] else lines + more

        text, counted = re.subn(r"(        listen .*\n)+", listening, text)
        assert (count, counted) == (1, 2)  # RestMQ's, and the one for other names
        text = text.replace("pid /run/nginx.pid;", f"pid {self.folder}/nginx.pid;\nerror_log {self.log};")
        text = text.replace("http {\n", "http {\n    access_log off;\n")
        self.conf.write_text(text)

    def listens(self) -> bool:
        """Whether it takes connections."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def workers(self) -> set[int]:
        """The process ids of its workers, also of those that are on their way out."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(word) for word in children.split()}

    def reload(self) -> None:
        """Read the configuration again, and wait until the old workers are gone or take nobody new.

        One that ends closes each connection after the answer, without having said so.
        """
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.workers() - before, lambda: self.log.read_text())
        until(lambda: all(map(self._takes_nobody, before)), lambda: self.log.read_text())

    @staticmethod
    def _takes_nobody(worker: int) -> bool:
        try:
            title = Path(f"/proc/{worker}/cmdline").read_bytes()
        except OSError:
            return True
        return not title or b"shutting down" in title

    def troubles(self) -> list[str]:
        """What it logged as an error of an upstream that it could not put right itself."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "while reading response header" in line or "no live upstreams" in line]

    def end(self) -> str:
        """End it; answers its log."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        return self.log.read_text()
