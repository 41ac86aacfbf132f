"""What stands between an instance and Redis, and can do harm there; and two instances, one of them behind it."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Instance, RedisServer
from wire import PATIENCE


class Between:
    """Carries bytes between one instance and Redis: can swallow, hold, slow, cut and refuse."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.path = folder / "between.sock"
        self._redis = str(server.socket)
        self._kinds: dict[socket.socket, str] = {}
        self._deaf: set[socket.socket] = set()
        self._held: set[socket.socket] | None = None  # links that wait for `flows`; None is all
        self.swallows = b""  # from a command with these words on, all that Redis says on its link
        self.holds = False  # commands, from the next subscription on, over the links that there are then
        self.flows = threading.Event()
        self.flows.set()
        self.asked: Callable[[bytes], object] = lambda data: None  # is told of commands before they are held or go on
        self.slow = 0.0  # seconds that a reply to a command takes longer
        self.late = 0.0  # seconds that a message takes longer
        self.refuses = False
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listening.accept()[0]
            except OSError:
                return  # this is the end
            if self.refuses:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._redis)
            self._kinds[far] = "commands"
            for words in ((near, far, None), (far, near, far)):
                threading.Thread(target=self._carry, args=words, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, far: socket.socket | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if far is None and b"SUBSCRIBE" in data:
                    self._kinds[target] = "messages"
                    if self.holds:
                        self._held = {one for one, its in list(self._kinds.items()) if its == "commands"}
                        self.flows.clear()
                if far is None and self.swallows and self.swallows in data:
                    self._deaf.add(target)
                if self._kinds.get(target) == "commands":
                    self.asked(data)
                    if self._held is None or target in self._held:
                        self.flows.wait(PATIENCE)
                elif far is not None:
                    time.sleep(self.slow if self._kinds.get(far) == "commands" else self.late)
                if far not in self._deaf:
                    target.sendall(data)
        except OSError:
            pass  # one side has gone, and then the other goes, too
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._kinds.pop(source, None)

    def deafen(self, kind: str) -> None:
        """What Redis says on the link for commands or messages is swallowed; a new link hears again."""
        deaf = {far for far, its in self._kinds.items() if its == kind}
        assert len(deaf) == 1
        self._deaf |= deaf

    def cut(self) -> None:
        """The links that there are now end; what was held does not arrive."""
        for far in list(self._kinds):
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
        self.flows.set()

    def stop(self) -> None:
        """Nobody connects any more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class Pair:
    """Two instances on a Redis of their own; the links of the second can be cut while it is stopped."""

    def __init__(self, server: RedisServer, start: Any, conf: str) -> None:
        self.link = server.client()
        self.there: Instance = start("", server.address)
        self.between = Between(server.folder, server)
        self.others = {client["id"] for client in self.link.client_list()}
        self.here: Instance = start(conf, f"unix:{self.between.path}")
        self.links = [client["id"] for client in self.own()]

    def own(self) -> list[dict[str, str]]:
        """The links of `here`."""
        return [client for client in self.link.client_list() if client["id"] not in self.others]

    def one(self, kind: str) -> str:
        """The id of its link for commands or messages."""
        (found,) = (client["id"] for client in self.own() if (client["sub"] != "0") == (kind == "messages"))
        return found

    def told(self, kind: str) -> None:
        """The log of `here` says that this one of its links was lost, and not the other."""
        lost = {"commands": "cannot be used: ", "messages": "Redis' messages are not heard: "}
        text = self.here.log.read_text()
        assert {name for name, words in lost.items() if words in text} == {kind}, text

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """`here` does nothing meanwhile, and then finds its links cut."""
        self.here.process.send_signal(signal.SIGSTOP)
        try:
            yield
            for one in self.links:
                self.link.client_kill_filter(_id=one)
        finally:
            self.here.process.send_signal(signal.SIGCONT)


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
