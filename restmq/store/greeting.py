"""What a new connection is asked before it is used: is this a Redis for us?

Owns the check of its version, of the layout of our keys, and that it takes writes; has the library loaded.
Knows no queue. Read store/core.py next.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from restmq.store.connection import Link, Redis, Reply, encode, info, too_old
from restmq.store.pipeline import Loaded, word
from restmq.store.redistime import RedisTime
from restmq.store.timers import QUIET

LAYOUT = b"1"


class Greeting:
    """Greets each new connection. `birthword` is that of the data in Redis, `run` its process, `time` its clock."""

    def __init__(self, redis: Redis, clock: IReactorTime, loaded: Loaded) -> None:
        self.redis, self.clock, self.loaded = redis, clock, loaded
        self.refused: Callable[[str], None] = lambda why: None  # this Redis will never do
        self.time = RedisTime()
        self.birthword = self.run = b""
        self._layout_noted: Reply = None  # what noting the layout answered: OK when it is new here, or an error
        self._young = self._awaited = False  # Redis was started a moment ago; was not there when we began
        redis.greet = self._greet

    @property
    def returned(self) -> bool:
        """Whether a Redis that others used before has just come back."""
        return (self._young or self._awaited) and self._layout_noted is None

    def _greet(self, link: Link) -> None:
        """A new connection: is this a Redis for us? Nothing else is asked of it before that is known."""
        if link.usable:
            self._first(link, [b"INFO", b"server"], self._told)

    def _first(self, link: Link, command: list[bytes], done: Callable[[Link, Reply], None] | None = None) -> None:
        def answered(reply: Reply, error: BaseException | None) -> None:
            if done is not None and error is None:  # with an error it is lost, and the next one is greeted
                done(link, reply)

        link.ask(encode(command), answered, self.redis.until())

    def _told(self, link: Link, reply: Reply) -> None:
        if not isinstance(reply, bytes):
            self._not_yet(link, reply)
            return
        server = info(reply)
        why = too_old(server)
        if why:
            self.refused(f"Redis at {self.redis.name}: {why}")
            return
        self.loaded.load(link)
        self._young = int(server.get("uptime_in_seconds", QUIET)) < QUIET
        self.run = server.get("run_id", "").encode()
        self._layout_noted = None
        asked = self.time.now()
        self._first(link, [b"TIME"], lambda _, reply: self._timed(reply, asked))
        self._first(link, [b"SET", b"restmq:layout", LAYOUT + b" " + word(), b"NX"], self._noted)
        self._first(link, [b"GET", b"restmq:layout"], self._layout)

    def _timed(self, reply: Reply, asked: float) -> None:
        if isinstance(reply, list):
            seconds, micro = map(int, reply)
            self.time.told(seconds * 1000 + micro / 1000, asked)

    def _noted(self, link: Link, reply: Reply) -> None:
        self._layout_noted = reply

    def _layout(self, link: Link, reply: Reply) -> None:
        if not isinstance(reply, bytes):  # loading, or new and not to be written to: full, or a replica
            self._not_yet(link, reply or self._layout_noted)
            return
        version, _, self.birthword = reply.partition(b" ")
        if version != LAYOUT:
            self.refused(
                f"Redis at {self.redis.name} holds layout {version.decode('utf-8', 'replace')} of restmq: keys, "
                f"this RestMQ knows {LAYOUT.decode()}: nothing was touched"
            )
        else:
            self._awaited = self.redis.why != ""
            self.redis.admit(link)

    def _not_yet(self, link: Link, why: Reply) -> None:
        """It is up but does not serve: ask it again soon, over the same connection."""
        self.redis.unusable(str(why).rstrip("."))
        self.clock.callLater(0.5, self._greet, link)
