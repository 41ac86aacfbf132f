"""The fence: messages are kept while the others may have given this instance up.

Owns the messages that were heard meanwhile, and the way back of an instance that was given up. Knows no consumer. An
instance may stand still for longer than its beat lasts. Then it must not hand out elements that other instances have
been given since. Read delivery/service.py next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from restmq.delivery.channels import Channels
from restmq.delivery.message import Message
from restmq.delivery.presence import Presence
from restmq.delivery.subscription import RETRY_AFTER, Subscription
from restmq.runtime.future import drive, fault, nothing
from restmq.store.core import Core
from restmq.store.instances import queue_of


class Behind(Protocol):
    """Delivery, as the fence sees it."""

    closing: bool

    @property
    def queues(self) -> Mapping[bytes, Subscription]: ...

    def on_message(self, channel: bytes, data: bytes) -> None:
        """A message came, and this instance is alive."""

    def on_alive(self) -> None:
        """A beat was answered."""

    def on_open(self) -> None:
        """All messages that were kept have come through the fence."""

    def on_link_up(self) -> None:
        """Join everything, as when the links came up."""


class Fence:
    """Stands between the message link and Delivery. `closed` while the instance may have been given up."""

    def __init__(self, core: Core, presence: Presence, channels: Channels, clock: IReactorTime, behind: Behind) -> None:
        self.core, self.presence, self.channels, self.clock, self.behind = core, presence, channels, clock, behind
        self.closed = False
        self._kept: list[tuple[bytes, bytes]] = []  # channel and data of each message heard meanwhile
        self._former: set[bytes] = set()  # former ids of this instance, until nothing is left under them
        presence.on_alive, presence.on_given_up = self.on_alive, self.on_given_up

    def on_message(self, channel: bytes, data: bytes) -> None:
        """Redis sent a message."""
        if not self.closed and self.presence.fenced():
            self.closed = True
            self.presence.beat()
        if self.closed:
            self._kept.append((channel, data))
        else:
            self.behind.on_message(channel, data)

    def on_alive(self) -> None:
        """The beat was answered: this instance still owns the elements that it held."""
        if self._former:
            return  # it was given up, and other instances own the elements that it held before
        self.behind.on_alive()
        if self.closed:
            for channel, data in self._open():
                self.on_message(channel, data)
            self.behind.on_open()

    def _open(self) -> list[tuple[bytes, bytes]]:
        kept, self._kept = self._kept, []
        self.closed = False
        return kept

    def on_given_up(self) -> None:
        """Other instances own the round-robin elements now. Broadcasts still go out."""
        begun, self.closed = bool(self._former), True
        self._former.add(self.presence.instance)
        self.presence.renew()
        for subscription in self.behind.queues.values():
            subscription.drop()
        if not begun:
            self._come_back()

    def _come_back(self) -> None:
        drive(self._coming_back(), nothing, self._on_not_back)

    def _on_not_back(self, error: BaseException) -> None:
        fault("joining again", error)
        if not self.behind.closing:
            self.clock.callLater(RETRY_AFTER, self._come_back)

    async def _coming_back(self) -> None:
        """Reap the former ids, hand over the broadcasts that came meanwhile, and join again."""
        taken_back: dict[bytes, list[tuple[int, int]]] = {}
        while self._former:
            formers = list(self._former)
            # After it was given up, this instance may have asked Redis for things that put the old id back.
            for former in formers:
                await self.core.instances.reap(former, {*self.behind.queues, *self.channels.queues})
            for name in list(self.behind.queues):
                taken_back[name] = await self.core.instances.taken_back(name)
            self._former.difference_update(formers)
        for channel, data in self._open():
            subscription, message = self.behind.queues.get(queue_of(channel)), Message(data)
            if subscription is None or message.kind != b"B":
                continue
            if not any(low <= message.first <= high for low, high in taken_back.get(subscription.name, ())):
                subscription.handle(message)
        self.behind.on_link_up()
