"""Instances that begin with Twisted imported.

Most of a start is importing Twisted: half a second of a core on CPython, two on PyPy, and the tests start
some hundred instances. So one process imports once what RestMQ stands on, and forks for each; from there on the
child does what `python -c PROGRAM ARGUMENTS` would, and imports RestMQ itself, which draws its random words then.
What start.sh, init.d or twistd start is not of these.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_lock = threading.Lock()


@cache
def _server(paths: str) -> subprocess.Popen[str]:
    """The one process; it ends when this one closes its input."""
    command, environment = [sys.executable, "-m", "tests.support.forkserver"], {**os.environ, "PYTHONPATH": paths}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)


class Forked:
    """One child of it, as subprocess.Popen shows those of this process."""

    def __init__(self, program: str, words: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path) -> None:
        self._of, self.args, self.returncode = _server(env["PYTHONPATH"]), [program, *words], None
        asked = {"program": program, "words": [*words], "cwd": str(cwd), "env": {**env}, "output": str(output)}
        self.pid = self._ask(asked)

    def _ask(self, asked: Any) -> Any:
        with _lock:
            assert self._of.stdin is not None and self._of.stdout is not None
            self._of.stdin.write(json.dumps(asked) + "\n")
            self._of.stdin.flush()
            return json.loads(self._of.stdout.readline())

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def become(asked: dict[str, Any]) -> None:
    """The child is what was asked for; does not return."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(os.devnull) as nothing, open(asked["output"], "ab") as output:
        for here, there in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(here.fileno(), there)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["-c", *asked["words"]]
    from twisted.internet import reactor
    from twisted.internet.epollreactor import EPollReactor
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    for of_all in reactor.removeAll():  # the waker, whose pipe is everybody's
        of_all.connectionLost(Failure(ConnectionDone()))
    assert isinstance(reactor, EPollReactor)
    vars(reactor).clear()  # its epoll is everybody's, too
    EPollReactor.__init__(reactor)
    exec(asked["program"], {"__name__": "__main__"})
    sys.exit()


def serve() -> None:
    """Fork, and say who has ended, for each line of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has started this
    sys.path[0] = ""  # as with -c
    for name in ("twisted.scripts.twistd", "restmq.tap", "restmq.broker"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "restmq"]:
        del sys.modules[name]
    running: set[int] = set()
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        if isinstance(asked, int):
            ended, status = os.waitpid(asked, os.WNOHANG)
            running.discard(ended)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if answer == 0:
                become(asked)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for left in running:  # the tests were interrupted while it began
        os.kill(left, signal.SIGTERM)
        os.kill(left, signal.SIGCONT)


if __name__ == "__main__":
    serve()
