"""The server: what all connections of an instance, and their handlers, share.

Owns the limits of requests, the room for bodies and answers, the set of connections and the first lines of answers.
Knows no route and no queue. Read http/application.py next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from http.client import responses
from typing import NamedTuple, Protocol

from restmq.access.acl import Acl
from restmq.config import Config
from restmq.http.accesslog import Refusals
from restmq.http.proxies import Proxies
from restmq.http.request import Request
from restmq.runtime import freed_memory
from restmq.runtime.room import Room
from restmq.runtime.ticker import Wheel
from restmq.runtime.unread_answers import Answers


class Limits(NamedTuple):
    """Seconds for a head, a body and idling, and the most bytes of a body."""

    head: int
    body: int
    idle: int
    size: int


class Open(Protocol):
    """A connection, as far as the server watches it and ends it."""

    deadline: int

    def on_deadline(self) -> None: ...
    def check_reading(self) -> None: ...
    def check_body_rate(self) -> None: ...
    def drain(self, grace: float) -> None: ...
    def cut(self, linger: bool = True, patience: float = 0) -> None: ...


class Server:
    """What connections and handlers share.

    `on_answer` is called with (request, status, bytes) for every answer. `answers` counts the answers that clients
    have not read yet; the store shares it.
    """

    def __init__(
        self,
        config: Config,
        acl: Acl,
        wheel: Wheel,
        answers: Answers,
        on_answer: Callable[[Request, int, int], None] | None = None,
    ) -> None:
        self.config, self.acl, self.wheel, self.answers, self.on_answer = config, acl, wheel, answers, on_answer
        self.limits = Limits(
            int(config.head_timeout), int(config.body_timeout), int(config.idle_timeout), config.max_body
        )
        self.answers.most = config.max_answers
        self.bodies = Room(max(config.max_bodies, config.max_body))
        self.proxies = Proxies(config.xheader, tuple(config.trusted_proxies)) if config.xheaders else None
        self.connections: set[Open] = set()
        self.choked: set[Open] = set()  # connections whose clients read more slowly than RestMQ writes
        self.live: Counter[str] = Counter()  # live consumers by the client's address, without this machine's
        self.draining = False
        self.refusals = Refusals(wheel)
        self._heads: dict[tuple[int, bytes, bytes], bytes] = {}
        wheel.each(self._tick)

    def _tick(self) -> None:
        self._heads.clear()
        now = self.wheel.now
        for connection in [one for one in self.connections if one.deadline < now]:
            connection.on_deadline()
        for connection in list(self.choked):
            connection.check_reading()
        if self.bodies.line:  # others wait for room, so a body that has room must come fast
            for connection in list(self.connections):
                connection.check_body_rate()
        if self.bodies.used:
            self.bodies.used = self.bodies.held > 0
            freed_memory.trim(0)

    def head(self, status: int, type: bytes, cache: bytes = b"no-store") -> bytes:
        """The first lines of an answer, remembered for a second.

        `cache` is its Cache-Control (RFC 9111 section 5.2.2).
        """
        head = self._heads.get((status, type, cache))
        if head is None:
            lines = (
                b"HTTP/1.1 %d %b" % (status, responses.get(status, "Error").encode("ascii")),
                b"Server: RestMQ",
                b"Date: " + self.wheel.date,
                b"Cache-Control: " + cache,
                b"X-Content-Type-Options: nosniff",
                *((b"Content-Type: " + type,) if type else ()),
            )
            head = self._heads[(status, type, cache)] = b"\r\n".join((*lines, b""))
        return head
