"""Delivery: the service that owns the live consumers of all queues, and carries elements to them.

Owns which queues this instance hears, which consumers listen to which, and what happens when links come and go. Knows
neither HTTP nor how Redis is spoken to. Writes the messages of one turn together, once to each consumer. Two turns
later, one call for each queue confirms the elements that the sockets took. docs/architecture.md has the protocol
between instances. Read delivery/message.py next, then delivery/subscription.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.delivery.channels import Channels
from restmq.delivery.confirming import MERGED
from restmq.delivery.consumer import Consumer
from restmq.delivery.fence import Fence
from restmq.delivery.message import Message
from restmq.delivery.presence import Presence
from restmq.delivery.subscription import RETRY_AFTER, Subscription
from restmq.delivery.taps import Taps
from restmq.model.element import Lease
from restmq.model.errors import Error, Unavailable
from restmq.runtime.future import deferred, pause
from restmq.store.connection import Redis
from restmq.store.core import Core
from restmq.store.instances import queue_of

log = Logger()


class Delivery(Service):
    """Queue -> subscription.

    Each element that it takes over is delivered or given back, and a consumer that misses one is told.
    """

    def __init__(
        self, core: Core, messages: Redis, presence: Presence, channels: Channels, clock: IReactorTime
    ) -> None:
        self.core, self.messages, self.presence, self.channels, self.clock = core, messages, presence, channels, clock
        self.queues: dict[bytes, Subscription] = {}
        self.queues_of: dict[Consumer, list[bytes]] = {}
        self.on_wakeup: Any = lambda queue, many: None  # GETs that wait: delivery/waiters.py
        self.on_rejoining: Any = lambda: None
        self.taps = Taps(core, channels, presence)
        self.fence = Fence(core, presence, channels, clock, self)
        self.closing = False
        self.rejoining = False  # after the links were away, until a beat says that this instance was not given up
        self._to_confirm: set[Subscription] = set()
        self._confirming = False
        self._unanswered_pings = 0
        messages.on_message = self.fence.on_message
        messages.on_link_up, messages.on_link_down = self.on_link_up, self._on_link_down
        core.on_link_up = self.on_link_up
        presence.on_beat_missed = self._on_beat_missed

    # -- consumers

    async def join(
        self, consumer: Consumer, queues: list[bytes], past_first: bool = False
    ) -> dict[bytes, tuple[int, bytes]]:
        """Let a consumer hear queues; answers the position and the epoch of each.

        With `past_first`, broadcasts are kept for it until it has read history (delivery/replay.py).
        Raises Unavailable, and BadOption when it leases and a queue broadcasts.
        """
        if self.closing:
            raise Unavailable("this instance is ending; connect again")
        self.queues_of[consumer] = queues
        try:
            for name in queues:
                if consumer.lease and name in self.queues:
                    await self.queues[name].hear_policy()
                subscription = self.queues.get(name)
                if subscription is None:
                    subscription = self.queues[name] = Subscription(name, self)
                await subscription.admit()
                if consumer not in self.queues_of:
                    break  # it left while it waited
                subscription.add(consumer, past_first)
        except Error:
            self.leave(consumer)
            raise
        return {name: (self.queues[name].position, self.queues[name].epoch) for name in queues if name in self.queues}

    def leave(self, consumer: Consumer, failed: bool = True) -> None:
        """A consumer left. The next one gets the elements that it did not get, or did not acknowledge.

        The oldest element that it got and did not acknowledge counts as a failed try, unless `failed` is false.
        """
        self.taps.leave(consumer)
        for name in self.queues_of.pop(consumer, ()):
            if name in self.queues:
                self.queues[name].remove(consumer, failed)

    def let_go(self, subscription: Subscription) -> None:
        """Forget a subscription that nobody listens to any more."""
        if self.queues.get(subscription.name) is subscription:
            del self.queues[subscription.name]
            self.channels.close(subscription.name, self)

    def leases(self, consumer: Consumer, queue: bytes, lease: Lease) -> bool:
        """Whether a consumer has this lease now."""
        here = self.queues.get(queue)
        return here is not None and here.consumers.roundrobin.leases(consumer, lease)

    def on_full(self, consumer: Consumer) -> None:
        """A consumer's socket takes no more: the consumer is passed over."""
        for name in self.queues_of.get(consumer, ()):
            if name in self.queues:
                self.queues[name].report_later()

    def on_drained(self, consumer: Consumer) -> None:
        """A consumer's socket takes again."""
        for name in self.queues_of.get(consumer, ()):
            if name in self.queues:
                self.confirm_later(self.queues[name])
                self.queues[name].report_later()

    # -- the links

    def on_link_up(self) -> None:
        """A link to Redis came up. When both are up, every queue is joined once a beat is answered."""
        if not self.channels.connected:
            return
        self.channels.link_ups += 1
        self.taps.on_links_lost()
        for subscription in self.queues.values():
            subscription.on_links_lost()
        self.rejoining = True
        self.presence.beat()

    def _on_link_down(self) -> None:
        if not self.closing:
            self.clock.callLater(0.05, self._log_unheard, self.messages.why)

    def _log_unheard(self, why: str) -> None:
        if self.core.connected:  # else the log says so already, in the same words
            log.warn("Redis' messages are not heard: {why}; live consumers get what they miss a little later", why=why)

    def on_alive(self) -> None:
        """A beat was answered."""
        if not (self.rejoining and self.channels.connected):
            return
        self.rejoining = False
        for subscription in list(self.queues.values()):
            if subscription.wanted or subscription.joiners:  # Redis must also be told of consumers that have left
                subscription.join()
        self.on_rejoining()

    def _on_beat_missed(self, error: BaseException) -> None:
        """A beat was not answered. After the links were away, nobody joins before one is."""
        for subscription in list(self.queues.values()):
            if self.rejoining and subscription.joiners:
                subscription.refuse(error)

    def watch(self) -> None:
        """Cut a message link that answers no PING for as long as a beat lasts. Called every second."""
        if self.messages.connected:
            self._unanswered_pings += 1
            if self._unanswered_pings > self.presence.lasts:
                self._unanswered_pings = 0
                self.messages.cut("the message link answered no PING in time")
                return
            self.messages.ask_ping(self._on_pong)

    def _on_pong(self, reply: Any, error: BaseException | None) -> None:
        if error is None:
            self._unanswered_pings = 0

    # -- messages

    def on_message(self, channel: bytes, data: bytes) -> None:
        """The fence let a message of Redis through."""
        message = Message(data)
        if message.kind in b"RWA" and not channel.endswith(b":" + self.presence.instance):
            return  # for an id that was given up: other instances have its elements now
        name = queue_of(channel)
        if message.kind == b"W":
            self.on_wakeup(name, message.first)
        elif message.kind == b"T":
            self.taps.on_message(name, message)
        elif name in self.queues:
            self.queues[name].on_message(message)
        elif message.kind == b"R":  # Redis sent it before it knew that the last consumer had left
            self.give_back(name, message.epoch, message.numbers)

    def give_back(self, name: bytes, epoch: bytes, numbers: list[int]) -> None:
        """Give round-robin elements that no consumer here takes to other instances."""
        for at in range(0, len(numbers), MERGED):
            some = numbers[at : at + MERGED]
            slot = self.core.instances.give_back(name, self.presence.instance, epoch, some)
            slot.then(partial(self._on_given_back, name, epoch, some))

    def _on_given_back(
        self, name: bytes, epoch: bytes, numbers: list[int], reply: Any, error: BaseException | None
    ) -> None:
        if error is not None and not self.closing:
            self.clock.callLater(RETRY_AFTER, self._give_back_again, name, epoch, numbers)

    def _give_back_again(self, name: bytes, epoch: bytes, numbers: list[int]) -> None:
        """Try again. The first try may have worked. Then Redis may have sent some of them here again: those stay."""
        here = self.queues[name].unconfirmed if name in self.queues else set()
        self.give_back(name, epoch, [number for number in numbers if number not in here])

    # -- confirming

    def confirm_later(self, subscription: Subscription) -> None:
        """Confirm two turns later, when the sockets have been served."""
        self._to_confirm.add(subscription)
        if not self._confirming:
            self._confirming = True
            self.clock.callLater(0, self.clock.callLater, 0, self._confirm)

    def _confirm(self) -> None:
        self._confirming = False
        if self.fence.closed:
            return
        to_confirm, self._to_confirm = self._to_confirm, set()
        for subscription in to_confirm:
            subscription.confirm()

    def on_open(self) -> None:
        """The fence is open again."""
        for subscription in list(self._to_confirm):
            self.confirm_later(subscription)

    # -- ending

    def close(self) -> Deferred[None]:
        """Close every consumer, confirm the elements that sockets took, give back the rest."""
        return deferred(self._close())

    async def _close(self) -> None:
        self.closing = True
        self.taps.close()
        for consumer in list(self.queues_of):
            if consumer.lease:
                self.leave(consumer, failed=False)
            consumer.close("the server is ending")
        for _ in range(100):
            if not self.queues_of:
                break
            await pause(self.clock, 0.02)
        for consumer in list(self.queues_of):
            self.leave(consumer, failed=False)
        self.presence.stop()
        try:
            for subscription in list(self.queues.values()):
                await subscription.depart()
            await self.core.instances.depart(self.presence.instance)
        except Error as error:
            if self.queues:
                log.warn("not everything could be given back; the others will do it: {error}", error=error)
