"""The settings of a queue, its policy, and its stopped flows.

Owns how they are asked for and changed. model/settings.py has their meaning. lua/lib/settings.lua reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from restmq.model.settings import DEFAULTS
from restmq.store import replies
from restmq.store.known import KnownQueues
from restmq.store.pipeline import Turn, unique_id
from restmq.store.timers import CHECK_AFTER, Timers


class QueueSettings:
    """The settings of each queue. Every method raises errors.Unavailable while Redis is away or slow."""

    def __init__(self, turn: Turn, context: bytes, timers: Timers, known: KnownQueues) -> None:
        self._redis, self._call, self._context = turn.redis, turn.call, context
        self._timers, self._known = timers, known

    async def policy(self, queue: bytes) -> str:
        """How the queue's elements are given to live consumers: broadcast or roundrobin."""
        return replies.policy(await self._call("look", queue, self._context))

    async def set_policy(self, queue: bytes, policy: str) -> None:
        """Set the policy for every element that is added from now on."""
        await self.set(queue, {"policy": policy})

    async def set(self, queue: bytes, settings: Mapping[str, str]) -> None:
        """Change settings (model/settings.py has their names); "" takes one back to what restmq.conf says."""
        self._known.register(queue)
        words = [text.encode() for pair in settings.items() for text in pair]
        if settings.get("idle_ttl"):
            self._timers.schedule(queue, CHECK_AFTER)  # the answer tells what is due, and it may be lost
        due_in, *own = await self._call("set", queue, self._context, unique_id(), *words)
        if due_in >= 0:
            self._timers.schedule(queue, due_in)
        self._known.note_settings(queue, replies.settings_in(own))

    async def own(self, queue: bytes) -> dict[str, str]:
        """The settings that the queue has in place of those of restmq.conf: name -> text (HMGET)."""
        names = [name.encode() for name in DEFAULTS]
        texts = await self._redis.call(b"HMGET", b"restmq:{%b}:a" % queue, *names)
        return {name.decode(): text.decode() for name, text in zip(names, texts) if text is not None}

    async def status(self, queue: bytes) -> int:
        """1 while elements flow to live consumers, 0 while that flow is stopped."""
        return replies.status(await self._call("look", queue, self._context))

    async def set_status(self, queue: bytes, started: bool, scopes: Sequence[str] = ("live",), ms: int = 0) -> None:
        """Start or stop flows: live, pull, add. A stop ends by itself after `ms`, 0 for never."""
        self._known.register(queue)
        if ms:
            self._timers.schedule(queue, ms)
        words = [scope.encode() for scope in scopes]
        await self._call("flow", queue, self._context, b"0" if started else b"1", b"%d" % ms, *words)

    async def stops(self, queue: bytes) -> dict[str, float | None]:
        """Which flows are stopped, and for how many seconds more; None until somebody starts it."""
        stops = await self._call("stops", queue, self._context)
        return {scope.decode(): left / 1000 if left >= 0 else None for scope, left in zip(stops[::2], stops[1::2])}
