"""Taps: live streams that see every add, and take nothing.

Owns which stream taps which queue in this instance. Knows neither HTTP nor what becomes of an element. A tap does not
count as a consumer.
"""

from __future__ import annotations

from restmq.delivery.batch import Batch
from restmq.delivery.channels import Channels
from restmq.delivery.consumer import Consumer, offer
from restmq.delivery.message import Message
from restmq.delivery.presence import Presence
from restmq.model.errors import Error, Unavailable
from restmq.runtime.future import ignored
from restmq.store.core import Core


class Taps:
    """Queue -> taps."""

    def __init__(self, core: Core, channels: Channels, presence: Presence) -> None:
        self.core, self.channels, self.presence = core, channels, presence
        self.queues_of: dict[Consumer, list[bytes]] = {}
        self._queues: dict[bytes, list[Consumer]] = {}
        self._closing = False

    async def join(self, consumer: Consumer, queues: list[bytes]) -> None:
        """Show a consumer every element that is added from now on. Raises Unavailable."""
        if self._closing:
            raise Unavailable("this instance is ending; connect again")
        self.queues_of[consumer] = queues
        try:
            for name in queues:
                if consumer in self.queues_of:  # it may leave while it waits
                    self._queues.setdefault(name, []).append(consumer)
                    await self.channels.open(name, self, b"t")
                if consumer in self.queues_of:
                    await self.core.instances.tap(name, self.presence.instance, True)
        except Error:
            self.leave(consumer)
            raise

    def leave(self, consumer: Consumer) -> None:
        """A tap left. When it was a queue's last one, this instance needs to hear no more adds."""
        for name in self.queues_of.pop(consumer, ()):
            taps = self._queues.get(name, [])
            if consumer in taps:
                taps.remove(consumer)
            if not taps and self._queues.pop(name, None) is not None:
                self.channels.close(name, self)
                self.core.instances.tap(name, self.presence.instance, False).then(ignored)

    def on_links_lost(self) -> None:
        """The links to Redis were away, or this instance was given up: end all taps."""
        self._end("Redis was away, or this instance was silent: it did not see what was added meanwhile; connect again")

    def close(self) -> None:
        """The instance ends, and with it all taps."""
        self._closing = True
        self._end("the server is ending")

    def _end(self, why: str) -> None:
        for consumer in list(self.queues_of):
            consumer.close(why)

    def on_message(self, queue: bytes, message: Message) -> None:
        """Elements were added."""
        taps = list(self._queues.get(queue, ()))
        if taps:
            batch = Batch(queue, message.elements(queue), 0, message.epoch)
            for consumer in taps:
                offer(consumer, batch)
