"""Two instances on one Redis, the second behind a proxy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.instance import Instance
from tests.support.proxy import Between
from tests.support.redis_server import RedisServer


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
