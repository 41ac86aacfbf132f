"""Proxies: between an instance and Redis, where one can do harm, and between clients and an instance."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.patience import PATIENCE
from tests.support.redis_server import RedisServer


class Carrier:
    """Stands between clients and an instance; `up` carries what a client sends, `down` what comes back."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.target))
            for carry in (self.up, self.down):
                threading.Thread(target=carry, args=(client, there), daemon=True).start()

    def up(self, client: socket.socket, there: socket.socket) -> None:
        """What the client sends, as it is."""
        try:
            while data := client.recv(1 << 16):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)
        except OSError:
            there.close()

    def down(self, client: socket.socket, there: socket.socket) -> None:
        """What comes back."""
        raise NotImplementedError


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
