"""Joining a queue: subscribe, tell Redis, and read what was missed.

Owns one attempt, which holds only as long as both links and the instance's id stay what they were. The subscription
holds messages back meanwhile. delivery/subscription.py is the queue itself, lua/listen.lua is Redis' part.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from restmq.delivery.channels import Channels
from restmq.delivery.confirming import Confirmations
from restmq.delivery.consumers import Consumers
from restmq.delivery.presence import Presence
from restmq.model.errors import Unavailable
from restmq.store.connection import Redis
from restmq.store.core import Core
from restmq.store.instances import History, Listening, ListenReply

PAGE = 1000  # elements of history at a time


class Owner(Protocol):
    """The part of Delivery that joining needs."""

    core: Core
    messages: Redis
    presence: Presence
    channels: Channels

    def give_back(self, name: bytes, epoch: bytes, numbers: list[int]) -> None:
        """Give round-robin elements that no consumer here takes to other instances."""


class Queue(Protocol):
    """The part of a Subscription that joining needs. Subscription describes it."""

    name: bytes
    consumers: Consumers
    confirmations: Confirmations
    announced: bool
    epoch: bytes
    epoch_is_new: bool
    position: int
    number: int
    policy: bytes

    @property
    def listening(self) -> Listening: ...
    @property
    def unconfirmed(self) -> set[int]: ...
    @property
    def dealt(self) -> set[int]: ...
    def listen(self, listening: Listening) -> Awaitable[ListenReply]: ...
    def note_settings(self, settings: dict[str, str]) -> None: ...
    def begin_epoch(self, epoch: bytes, position: int) -> None: ...
    def on_gap(self, last: int) -> None: ...
    def replay(self, page: History) -> None: ...


class Joining:
    """One attempt to join a queue."""

    def __init__(self, queue: Queue, owner: Owner) -> None:
        self._queue, self._owner, self._instances = queue, owner, owner.core.instances
        self._link_ups, self._instance = owner.channels.link_ups, owner.presence.instance

    async def run(self) -> Listening:
        """Join. Answers what Redis was told of the consumers.

        Raises Unavailable, also when a link was lost or the instance was given up meanwhile.
        """
        queue = self._queue
        await self._owner.channels.open(queue.name, self._owner, b"ci")
        listening = queue.listening if queue.consumers.all else Listening(0, 0, 1)
        queue.announced = True
        known = queue.epoch != b""
        reply = await queue.listen(listening)
        self._check()
        queue.policy = reply.policy
        queue.note_settings(reply.settings)
        start = await self._start(reply)
        if known and reply.epoch != queue.epoch:
            queue.begin_epoch(reply.epoch, start)
            known = False
        elif queue.epoch_is_new or not known:
            queue.position = start
        if not known:
            queue.confirmations.begin_at(start)
        queue.epoch, queue.number, queue.epoch_is_new = reply.epoch, max(queue.number, reply.number), False
        await self._read_missed(reply)
        if known:
            await self._give_back_strays()
        return listening

    def _check(self) -> None:
        if self._link_ups != self._owner.channels.link_ups or self._instance != self._owner.presence.instance:
            raise Unavailable("the connection to Redis was lost while joining")

    async def _start(self, reply: ListenReply) -> int:
        """The position after which this instance hears the queue."""
        queue = self._queue
        if not (queue.epoch and (reply.epoch != queue.epoch or queue.epoch_is_new) and queue.consumers.all):
            return reply.position
        # This instance heard no broadcast of this epoch, so all that history keeps of it comes first.
        kept = await self._history(reply, "all", 0, 0)
        return min(kept.start, reply.position)

    async def _read_missed(self, reply: ListenReply) -> None:
        """Read from history the broadcasts that this instance missed, up to the position in the reply."""
        queue = self._queue
        while queue.position < reply.position:
            page = await self._history(reply, "after", queue.position, PAGE)
            if page.floor > queue.position:
                queue.on_gap(page.floor)
            queue.replay(page)
            queue.position = max(queue.position, page.end)
        # Broadcasts that history lacks were taken back, and come again.
        queue.position = max(queue.position, reply.position)

    async def _history(self, reply: ListenReply, what: str, which: int, most: int) -> History:
        """A page of history. Raises Unavailable when it is not of the epoch in the reply."""
        page = await self._instances.history(self._queue.name, what, which, most)
        self._check()
        if page.epoch != reply.epoch:
            raise Unavailable("the queue was forgotten while it was joined")
        return page

    async def _give_back_strays(self) -> None:
        """Give back round-robin elements that were in flight to this instance when the connection was lost."""
        queue = self._queue
        strays = await self._instances.held_by(queue.name, self._instance)
        if strays:  # Redis may have sent some just now: after a PING their messages are here
            await self._owner.messages.ping()
        self._check()
        self._owner.give_back(queue.name, queue.epoch, sorted(strays - queue.unconfirmed - queue.dealt))
