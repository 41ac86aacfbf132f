"""The greeting: the questions to a new connection before it is used.

Owns three checks: is the version new enough, are the keys of our layout, does Redis take writes? It also has the
library loaded. Knows no queue.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from restmq.store.connection import Link, Redis, Reply, encode, info, too_old
from restmq.store.pipeline import Loader, unique_id
from restmq.store.redistime import RedisTime
from restmq.store.timers import LEASES_HELD

LAYOUT = b"1"


class Greeting:
    """Greets each new connection. `data_id` is the id of the data in Redis, `run_id` that of its process."""

    def __init__(self, redis: Redis, clock: IReactorTime, loader: Loader) -> None:
        self.redis, self.clock, self.loader = redis, clock, loader
        self.on_unsuitable: Callable[[str], None] = lambda why: None  # this Redis can never be used
        self.time = RedisTime()
        self.data_id = self.run_id = b""
        self._layout_reply: Reply = None  # the reply to SET restmq:layout: OK when it is new here, or an error
        self._just_started = self._was_away = False  # Redis started a moment ago; it was away when we began
        redis.on_connected = self._greet

    @property
    def returned(self) -> bool:
        """Whether a Redis that has been used before has just come back."""
        return (self._just_started or self._was_away) and self._layout_reply is None

    def _greet(self, link: Link) -> None:
        """Check a new connection. Nothing else is asked over it before the checks are done."""
        if link.usable:
            self._ask(link, [b"INFO", b"server"], self._on_info)

    def _ask(self, link: Link, command: list[bytes], done: Callable[[Link, Reply], None] | None = None) -> None:
        def answered(reply: Reply, error: BaseException | None) -> None:
            if done is not None and error is None:  # with an error the link is lost, and the next one is greeted
                done(link, reply)

        link.ask(encode(command), answered, self.redis.until())

    def _on_info(self, link: Link, reply: Reply) -> None:
        if not isinstance(reply, bytes):
            self._try_later(link, reply)
            return
        server = info(reply)
        why = too_old(server)
        if why:
            self.on_unsuitable(f"Redis at {self.redis.name}: {why}")
            return
        self.loader.load(link)
        self._just_started = int(server.get("uptime_in_seconds", LEASES_HELD)) < LEASES_HELD
        self.run_id = server.get("run_id", "").encode()
        self._layout_reply = None
        asked = self.time.now()
        self._ask(link, [b"TIME"], lambda _, reply: self._on_time(reply, asked))
        self._ask(link, [b"SET", b"restmq:layout", LAYOUT + b" " + unique_id(), b"NX"], self._on_layout_set)
        self._ask(link, [b"GET", b"restmq:layout"], self._on_layout)

    def _on_time(self, reply: Reply, asked: float) -> None:
        if isinstance(reply, list):
            seconds, micro = map(int, reply)
            self.time.learn(seconds * 1000 + micro / 1000, asked)

    def _on_layout_set(self, link: Link, reply: Reply) -> None:
        self._layout_reply = reply

    def _on_layout(self, link: Link, reply: Reply) -> None:
        if not isinstance(reply, bytes):  # Redis is loading; or it is new and takes no writes: it is full, or a replica
            self._try_later(link, reply or self._layout_reply)
            return
        version, _, self.data_id = reply.partition(b" ")
        if version != LAYOUT:
            self.on_unsuitable(
                f"Redis at {self.redis.name} holds layout {version.decode('utf-8', 'replace')} of restmq: keys, "
                f"this RestMQ knows {LAYOUT.decode()}: nothing was touched"
            )
        else:
            self._was_away = self.redis.why != ""
            self.redis.admit(link)

    def _try_later(self, link: Link, why: Reply) -> None:
        """Redis is up but does not serve yet. Ask it again soon, over the same connection."""
        self.redis.unusable(str(why).rstrip("."))
        self.clock.callLater(0.5, self._greet, link)
