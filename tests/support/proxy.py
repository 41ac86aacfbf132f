"""Proxies: between an instance and Redis, where one can do harm, and between clients and an instance."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE
from tests.support.redis_server import RedisServer


class _Link:
    """One connection of the instance, and the one to Redis behind it."""

    def __init__(self, near: asyncio.BaseTransport, far: asyncio.BaseTransport) -> None:
        self._sides = (near, far)
        self.kind = "commands"
        self.deaf = False  # what Redis says on it is swallowed

    def end(self) -> None:
        """Both ends of it, at once."""
        for side in self._sides:
            assert isinstance(side, asyncio.WriteTransport)
            side.abort()


class Proxy:
    """Carries bytes between one instance and Redis: can swallow, hold, slow, cut and refuse.

    It lives in the event loop in which it was started, and so does all that it is told to do.
    """

    def __init__(self, path: Path, redis: Path) -> None:
        self.path, self._redis = path, redis
        self._links: list[_Link] = []
        self._deaf: set[str] = set()  # kinds of which new links are deaf, too
        self._held: list[_Link] | None = None  # links that wait for `flows`; None is all
        self.swallows = b""  # from a command with these words on, all that Redis says on its link
        self.holds = False  # commands, from the next subscription on, over the links that there are then
        self.flows = threading.Event()
        self.flows.set()
        self.asked: Callable[[bytes], object] = lambda data: None  # is told of commands before they are held or go on
        self.slow = 0.0  # seconds that a reply to a command takes longer
        self.late = 0.0  # seconds that a message takes longer
        self.refuses = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            back, out = await asyncio.open_unix_connection(str(self._redis))
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer.transport, out.transport)
        self._links.append(link)
        down = asyncio.ensure_future(self._carry(link, self._down(link, back, writer)))
        await self._carry(link, self._up(link, reader, out))
        await down

    async def _carry(self, link: _Link, way: Coroutine[Any, Any, None]) -> None:
        with suppress(OSError):  # one side has gone, and then the other goes, too
            await way
        link.end()
        with suppress(ValueError):
            self._links.remove(link)

    async def _up(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if b"SUBSCRIBE" in data:
                link.kind = "messages"
                if self.holds:
                    self._held = [one for one in self._links if one.kind == "commands"]
                    self.flows.clear()
            if self.swallows and self.swallows in data:
                link.deaf = True
            if link.kind == "commands":
                self.asked(data)
                while not self.flows.is_set() and (self._held is None or link in self._held):
                    await asyncio.sleep(0.005)
            writer.write(data)
            await writer.drain()

    async def _down(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if longer := self.slow if link.kind == "commands" else self.late:
                await asyncio.sleep(longer)
            if not link.deaf and link.kind not in self._deaf:
                writer.write(data)
                await writer.drain()

    def cut(self, kind: str = "both") -> None:
        """The links for commands, for messages or both end; what was held does not arrive."""
        for link in [one for one in self._links if kind in (one.kind, "both")]:
            link.end()
        self.flows.set()

    def deafen(self, kind: str) -> None:
        """What Redis says on the link for commands or messages is swallowed; a new link hears again."""
        (link,) = (one for one in self._links if one.kind == kind)
        link.deaf = True

    def deafen_all(self, kind: str) -> None:
        """The same for the links that there will be, too, until all is healed; of one kind or both."""
        self._deaf = {"commands", "messages"} if kind == "both" else {kind}

    def heal(self) -> None:
        """Carry everything again; what was swallowed is lost, so those connections end."""
        for kind in self._deaf:
            self.cut(kind)
        self._deaf.clear()
        self.refuses = False

    def stop(self) -> None:
        """Nobody connects any more."""
        self._server.close()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all Betweens of this process, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class Between(Proxy):
    """A Proxy for tests that have no event loop."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder / "between.sock", server.socket)
        asyncio.run_coroutine_threadsafe(self.start(), _loop()).result(PATIENCE)

    def _tell(self, function: Callable[..., None], *words: str) -> None:
        async def tell() -> None:
            function(*words)

        asyncio.run_coroutine_threadsafe(tell(), _loop()).result(PATIENCE)

    def cut(self, kind: str = "both") -> None:
        """The links for commands, for messages or both end; what was held does not arrive."""
        self._tell(super().cut, kind)

    def deafen(self, kind: str) -> None:
        """What Redis says on the link for commands or messages is swallowed; a new link hears again."""
        self._tell(super().deafen, kind)

    def stop(self) -> None:
        """Nobody connects any more."""
        self._tell(super().stop)


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
