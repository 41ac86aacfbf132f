"""The channels of Redis that this instance hears, and for whom.

Owns the subscriptions of the message link, and the note by which others find the queues of a dead instance. Knows
nothing of the content of messages. Several owners may hear one channel.
"""

from __future__ import annotations

from functools import partial

from restmq.delivery.presence import Presence
from restmq.runtime.future import drive, fault, ignored, nothing
from restmq.store.connection import Redis
from restmq.store.core import Core

_failed = partial(fault, "unsubscribing from a channel")  # a link that is lost has no subscriptions


class Channels:
    """Subscribes before anybody is told to write to a channel, and unsubscribes when nobody listens any more."""

    def __init__(self, core: Core, messages: Redis, presence: Presence) -> None:
        self.core, self.messages, self.presence = core, messages, presence
        self.link_ups = 0  # how often both links came up
        self._owners: dict[bytes, dict[object, tuple[bytes, ...]]] = {}  # queue -> owner -> channels

    @property
    def connected(self) -> bool:
        """Whether both links can be used."""
        return self.messages.connected and self.core.connected and bool(self.core.data_id)

    @property
    def queues(self) -> list[bytes]:
        """The queues of which any channel is heard."""
        return list(self._owners)

    async def open(self, queue: bytes, owner: object, kinds: bytes) -> None:
        """Hear channels of these kinds (Instances.channel()). They are subscribed when this returns.

        Raises Unavailable. An owner that closes meanwhile hears none of them.
        """
        instances, instance = self.core.instances, self.presence.instance
        channels = tuple(instances.channel(queue, kinds[at : at + 1], instance) for at in range(len(kinds)))
        owners = self._owners.setdefault(queue, {})
        before, owners[owner] = owners.get(owner, ()), channels
        for channel in set(before).difference(channels):  # those of the id before it was given up
            self.messages.unsubscribe(channel).then(ignored)
        await self.core.instances.note(self.presence.instance, queue)
        for channel in channels:
            if owner in self._owners.get(queue, ()):
                await self.messages.subscribe(channel)

    def close(self, queue: bytes, owner: object) -> None:
        """Stop hearing a queue's channels for this owner."""
        owners = self._owners.get(queue, {})
        channels = set(owners.pop(owner, ()))
        for others in owners.values():
            channels -= set(others)
        if not owners:
            self._owners.pop(queue, None)
        if channels:
            drive(self._unsubscribe(queue, sorted(channels)), nothing, _failed)

    async def _unsubscribe(self, queue: bytes, channels: list[bytes]) -> None:
        await self.messages.unsubscribe(*channels)
        if queue not in self._owners:
            await self.core.instances.unnote(self.presence.instance, queue)
