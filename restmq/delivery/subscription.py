"""One queue that this instance listens to.

Owns the knowledge of the queue: its consumers, its epoch and position, and what Redis was told of both. Knows neither
HTTP nor other queues. Delivery (delivery/service.py) keeps one for each queue. The fence (delivery/fence.py) decides
when it hears messages. delivery/joining.py joins it, delivery/confirming.py has its confirmations. Read
delivery/consumers.py next.
"""

from __future__ import annotations

from collections.abc import Coroutine
from enum import Enum
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.delivery import joining
from restmq.delivery.batch import Batch
from restmq.delivery.confirming import Confirmations
from restmq.delivery.consumer import Consumer
from restmq.delivery.consumers import Consumers
from restmq.delivery.message import Message
from restmq.model.element import Element
from restmq.model.errors import BadOption, Error, Unavailable
from restmq.runtime.future import Slot, drive, fault, nothing
from restmq.store.instances import NOBODY, History, Listening, ListenReply, Seen
from restmq.store.requests import Nack

RETRY_AFTER = 0.3  # seconds until Redis is asked again for what it did not answer
UNKNOWN = Listening(-1, -1, -1)  # Redis must be told of the consumers again, in any case

log = Logger()


class State(Enum):
    """How far this instance is with hearing a queue."""

    IDLE = "not joined: it is new, or the links to Redis were away"
    JOINING = "it subscribes, asks Redis, and reads what it missed; it holds back new messages"
    JOINED = "it hands over each message that comes"


class Owner(joining.Owner, Protocol):
    """The part of Delivery that a subscription needs."""

    clock: IReactorTime
    closing: bool
    rejoining: bool

    def confirm_later(self, subscription: Subscription) -> None:
        """Call confirm() two turns later, when the sockets have been served."""

    def leave(self, consumer: Consumer, failed: bool = True) -> None:
        """Take a consumer out of all its queues."""

    def let_go(self, subscription: Subscription) -> None:
        """Forget a subscription that nobody listens to any more."""


class Subscription:
    """The queue `name` as this instance hears it.

    Each element that it takes over is delivered or given back, and a consumer that misses one is told.
    """

    def __init__(self, name: bytes, owner: Owner) -> None:
        self.name, self.owner = name, owner
        self.consumers = Consumers()
        self.confirmations = Confirmations(self.consumers)
        self.state = State.IDLE
        self.joins = 0  # how many attempts to join have begun
        self.announced = False  # Redis may think that somebody listens here
        self.joiners: list[Slot[None]] = []  # consumers that wait until it is joined
        self.held_back: list[Message] = []  # messages that came before it was joined
        self.epoch = b""
        self.past_epochs: set[bytes] = set()
        self.epoch_is_new = False  # nothing of this epoch was heard yet: its first message says where it begins
        self.data_id = b""
        self.position = 0  # of the last broadcast that was heard
        self.number = 0  # the highest that was seen
        self.policy = b"broadcast"
        self.settings: dict[str, str] = {}
        self.reported = NOBODY  # what Redis was told of the consumers
        self.reported_untaken = 0  # position up to which Redis is being told that nobody here takes what was broadcast
        self.unheard: list[Batch] = []  # broadcasts that came when no consumer was left
        self._report_scheduled = False

    @property
    def joined(self) -> bool:
        """Whether new messages are handed over."""
        return self.state is State.JOINED

    @property
    def wanted(self) -> bool:
        """Whether anybody listens, or Redis thinks so."""
        return bool(self.consumers.all) or self.announced

    @property
    def listening(self) -> Listening:
        """Its consumers in the form that Redis is told, but at least one."""
        return Listening(self.consumers.roundrobin.ready, self.consumers.roundrobin.room, max(1, len(self.consumers)))

    # -- consumers come and go

    async def hear_policy(self) -> None:
        """Wait for a change of the policy that Redis may have sent: after a PING its message is here."""
        if self.joined and self.policy == b"broadcast":
            await self.owner.messages.ping()

    async def admit(self) -> None:
        """Wait until the queue is joined. Raises Unavailable."""
        if not self.consumers.all and self.joined:
            self.state = State.IDLE  # it may have been forgotten since the last consumer left
        if not self.joined:
            slot: Slot[None] = Slot()
            self.joiners.append(slot)
            self.join()
            await slot

    def add(self, consumer: Consumer, past_first: bool) -> None:
        """From now on a consumer hears the queue. With `past_first`, broadcasts are kept until it has read the past.

        Raises BadOption when it leases and the queue broadcasts.
        """
        if consumer.lease and self.policy == b"broadcast":
            name = self.name.decode("utf-8")
            raise BadOption(
                f"{name} broadcasts, and what everybody gets nobody can lease: "
                f"POST policy=roundrobin to /p/{name} first"
            )
        unheard, self.unheard = self.unheard, []
        given_back = not self.reported.consumers  # they are being given back, and come again
        self.consumers.join(consumer, unheard[0].first - 1 if unheard and not given_back else self.position)
        if past_first:
            self.consumers.broadcast.begin_history(consumer)
        for batch in unheard:
            if given_back:
                self.consumers.broadcast.give_nobody(batch)
            else:
                self._to_everyone(batch)
        self.report_later()

    def remove(self, consumer: Consumer, failed: bool) -> None:
        """A consumer left. The next one gets the elements that it did not get, or did not acknowledge.

        With `failed`, the oldest element that it got and did not acknowledge counts as a failed try. Otherwise an
        element that crashes its worker would come back for ever.
        """
        if consumer not in self.consumers.all:
            return
        sent, rest, leased = self.consumers.leave(consumer)
        if consumer.lease:  # all unacknowledged elements go back: a later confirmation would be of another's lease
            self.confirmations.drop_leases(leased)
        else:
            self.confirmations.add(consumer, sent)
        if rest:
            self._give(rest)
        self.owner.confirm_later(self)
        self.report_later()
        if leased:  # after that report: before it, Redis would send them to the consumer that left
            self.owner.clock.callLater(0, self._end_leases, leased, failed)

    def _end_leases(self, leased: list[Element], failed: bool) -> None:
        """Give back the leases of a consumer that closed, confirmed or not."""
        nacks = [Nack(element.lease, 0) for element in leased]
        if failed:
            nacks[0] = Nack(leased[0].lease, None, True, b"its consumer closed")
        drive(self.owner.core.nack(self.name, nacks), nothing, partial(self._on_leases_not_ended, leased, failed))

    def _on_leases_not_ended(self, leased: list[Element], failed: bool, error: BaseException) -> None:
        """Try again: an element that is still in flight has no lease that would end by itself."""
        fault(f"giving back leases of {self.name.decode()}", error)
        if not self.owner.closing:
            self.owner.clock.callLater(RETRY_AFTER, self._end_leases, leased, failed)

    # -- joining; messages that come meanwhile are held back

    def join(self) -> None:
        """Begin to join, unless that has begun. While the links were away, a beat must be answered first."""
        if self.state is not State.JOINING and not self.owner.rejoining:
            self.state = State.JOINING
            self.joins += 1
            drive(self._joining(), nothing, partial(self._on_join_failed, self.joins))

    async def _joining(self) -> None:
        self._on_joined(await joining.Joining(self, self.owner).run())

    def on_links_lost(self) -> None:
        """The links came up anew. Messages may have been lost meanwhile, so the queue must be joined again."""
        self.state = State.IDLE
        self.held_back = []

    def _on_join_failed(self, joins: int, error: BaseException) -> None:
        if joins != self.joins:
            return  # the links came up anew, and another attempt began
        self.state = State.IDLE
        if fault(f"joining {self.name.decode()}", error):
            error = Unavailable("the queue could not be joined")
        self.refuse(error)
        if self.wanted:
            self.owner.clock.callLater(0.2, self._join_again)

    def refuse(self, error: BaseException) -> None:
        """Tell the consumers that wait to join why they cannot now."""
        joiners, self.joiners = self.joiners, []
        for slot in joiners:
            slot.fail(Unavailable(str(error)))
        if not self.wanted:
            self.owner.let_go(self)

    def _join_again(self) -> None:
        if not self.joined and self.wanted and not self.owner.closing:
            self.join()

    def _on_joined(self, listening: Listening) -> None:
        self.state, self.reported = State.JOINED, listening
        joiners, self.joiners = self.joiners, []
        for slot in joiners:  # each becomes a consumer before this returns, and so gets the messages held back
            slot.resolve(None)
        held_back, self.held_back = self.held_back, []
        for message in held_back:
            self.handle(message)
        self._set_policy(self.policy)
        self.report_later()
        if self.consumers.roundrobin.leased:
            drive(self._claim_leases(), nothing, partial(fault, f"claiming leases of {self.name.decode()}"))

    async def _claim_leases(self) -> None:
        """Leases may have ended while nothing was heard here. A consumer that had them may have as many more."""
        leased, instance = self.consumers.roundrobin.leased, self.owner.presence.instance
        held = await self.owner.core.claim_leases(self.name, instance, [element.lease for element in leased])
        self.consumers.roundrobin.end_lease_of([element for element, holds in zip(leased, held) if not holds])
        self.report_later()

    def on_gap(self, last: int) -> None:
        """More was missed than history keeps: all up to position `last` is gone."""
        log.warn(
            "queue {queue}: more was missed here than history keeps; its consumers are told of the gap",
            queue=self.name.decode(),
        )
        for consumer in self.consumers.broadcast.current:  # those that read history find it out there
            consumer.on_missed(self.name, self.position + 1, last)
        self.consumers.broadcast.on_skipped()
        self.position = last

    def replay(self, page: History) -> None:
        """Hand over the broadcasts that came while this instance heard nothing."""
        for position, element in page.elements:
            if position > self.position:
                self._broadcast(Batch(self.name, [element], position, page.epoch))

    def note_settings(self, settings: dict[str, str]) -> None:
        """Redis told the queue's own settings."""
        self.settings = settings
        self.data_id = self.owner.core.data_id

    # -- epochs

    def on_epoch(self, epoch: bytes, position: int) -> None:
        """Redis told this epoch and position. Messages from before may still come."""
        if epoch != self.epoch and epoch not in self.past_epochs:
            self.begin_epoch(epoch, position)
            self.epoch_is_new = True

    def begin_epoch(self, epoch: bytes, position: int) -> None:
        """The queue has another epoch than it had: it was forgotten, or Redis lost data.

        Or nobody ever wrote to it: then its epoch went with its last consumer, and nobody missed anything.
        """
        never_used = not (self.number or self.position)
        if never_used and not position:
            self.epoch = epoch
            return
        if not never_used:
            log.warn("queue {queue} has another epoch: it was forgotten, or Redis lost data", queue=self.name.decode())
        self.consumers.on_new_epoch()
        self.confirmations.on_new_epoch()
        self.past_epochs.add(self.epoch)
        self.unheard.clear()
        self.epoch, self.position, self.number = epoch, position, 0
        self.reported, self.reported_untaken = UNKNOWN, 0
        self.report_later()
        for consumer in self.consumers.broadcast.current:
            consumer.on_new_epoch(self.name, epoch, position)

    # -- telling Redis who listens: once a turn, in absolute numbers

    def listen(self, listening: Listening, untaken: int = 0) -> Coroutine[Any, Any, ListenReply]:
        """Tell Redis of the consumers, and that no consumer here takes the broadcasts up to `untaken`."""
        seen = Seen(self.epoch, self.number, self.position, self.settings, self.data_id)
        confirmed, instance = self.confirmations.position, self.owner.presence.instance
        return self.owner.core.instances.listen(self.name, instance, listening, confirmed, seen, untaken)

    def report_later(self) -> None:
        """When this turn ends, tell Redis how many listen and how many elements they take, if that has changed."""
        if self.joined and not self._report_scheduled:
            self._report_scheduled = True
            self.owner.clock.callLater(0, self._report)

    def _report(self) -> None:
        self._report_scheduled = False
        listening = Listening(self.consumers.roundrobin.ready, self.consumers.roundrobin.room, len(self.consumers))
        untaken = self.consumers.broadcast.untaken
        if not self.joined or self.joiners or (listening == self.reported and untaken <= self.reported_untaken):
            return
        self.reported, self.reported_untaken = listening, untaken
        drive(self._send_report(listening, untaken), nothing, self._on_not_reported)

    async def _send_report(self, listening: Listening, untaken: int) -> None:
        epoch, leaving = self.epoch, listening.consumers == 0
        if leaving or untaken:
            await self._confirm()
        reply = await self.listen(listening, 0 if leaving else untaken)
        self.on_epoch(reply.epoch, reply.position)
        self._set_policy(reply.policy)
        self.note_settings(reply.settings)
        if leaving:
            self.unheard.clear()  # Redis gave them back, or another instance has heard them
            self.consumers.broadcast.abandon(self.position)
            if self.consumers.all:
                self.reported = listening
                self.report_later()
            self.reported_untaken = 0
            await self._leave()
        elif untaken and self.epoch == epoch:
            self.consumers.broadcast.abandon(untaken)
            self.reported_untaken = 0
            self.owner.confirm_later(self)

    async def _leave(self) -> None:
        """Redis knows that nobody listens: let the queue go, unless somebody came meanwhile."""
        if self.consumers.all or self.joiners:
            return
        await self._confirm()
        if not self.consumers.all and not self.joiners:
            self.state, self.announced = State.IDLE, False
            self.owner.let_go(self)

    def _on_not_reported(self, error: BaseException) -> None:
        fault(f"telling Redis who listens to {self.name.decode()}", error)
        self.reported, self.reported_untaken = UNKNOWN, 0
        self.owner.clock.callLater(RETRY_AFTER, self.report_later)

    async def depart(self) -> None:
        """The instance ends: confirm the elements that sockets took, and give back the rest."""
        await self._confirm()
        if self.joined:
            await self.listen(NOBODY)

    # -- messages

    def on_message(self, message: Message) -> None:
        """A message for this queue came."""
        if self.joined:
            self.handle(message)
        elif self.state is State.JOINING or self.owner.rejoining:
            self.held_back.append(message)
        elif message.kind == b"R":  # Redis sent it before it knew that the last consumer had left
            self.owner.give_back(self.name, message.epoch, message.numbers)

    def handle(self, message: Message) -> None:
        """Do as a message says."""
        kind, epoch, first = message.kind, message.epoch, message.first
        if epoch in self.past_epochs:
            return  # Redis sent it before the queue was forgotten
        if epoch != self.epoch:
            self.on_epoch(epoch, first - 1 if kind == b"B" else self.position)
        if kind == b"P":
            self._set_policy(message.words)
        elif kind == b"Z":
            self.consumers.roundrobin.end_all_leases()
            self.report_later()
        elif kind == b"A":
            self.consumers.roundrobin.end_leases({int(number) for number in message.words.split(b" ")})
            self.report_later()
        else:
            elements = message.elements(self.name)
            self.number = max(self.number, elements[-1].number)
            if kind == b"R":
                self._give(elements)
            else:
                self._on_broadcast(message, elements)
            self.owner.confirm_later(self)

    def _on_broadcast(self, message: Message, elements: list[Element]) -> None:
        if self.epoch_is_new:
            self.position, self.epoch_is_new = min(self.position, message.first - 1), False
        batch = Batch(self.name, elements, message.first, message.epoch).beyond(self.position)
        if batch is None:
            return
        if batch.first == self.position + 1:
            self._broadcast(batch)
            return
        # This instance missed a broadcast before this one. Joining again brings it first, from history.
        if self.joined:
            self.state = State.IDLE
            self.join()
        self.held_back.append(message)

    def _set_policy(self, policy: bytes) -> None:
        self.policy = policy
        if policy == b"broadcast":
            for consumer in self.consumers.roundrobin.leasing():
                self.owner.leave(consumer, failed=False)
                consumer.close("the queue broadcasts now, and what everybody gets nobody can lease")

    # -- handing over

    def _broadcast(self, batch: Batch) -> None:
        self.position = batch.last
        if self.consumers.all:
            self._to_everyone(batch)
        else:  # the last consumer left just now: nobody heard this, and nobody may confirm it
            self.unheard.append(batch)

    def _to_everyone(self, batch: Batch) -> None:
        for consumer, position in self.consumers.broadcast.give(batch):
            consumer.on_fell_behind(self.name, position, self.epoch)

    def _give(self, elements: list[Element]) -> None:
        """Round-robin: give each element to the next consumer. Elements that no consumer takes go back."""
        refused = self.consumers.roundrobin.give(self.name, elements, self.epoch)
        if refused:
            self.owner.give_back(self.name, self.epoch, [element.number for element in refused])

    # -- confirming

    def confirm(self) -> None:
        """Tell Redis which elements the sockets took. Look again as long as some are in flight."""
        drive(self._confirm(), nothing, self._on_not_confirmed)
        if self.consumers.broadcast.untaken:
            self.report_later()
        if self.consumers.waits():
            self.owner.clock.callLater(0.02, self.owner.confirm_later, self)

    def drop(self) -> None:
        """Other instances have taken over the elements that were in flight here."""
        self.consumers.drop()
        self.confirmations.drop()

    async def _confirm(self) -> None:
        pending = self.confirmations.collect()
        if pending is None:
            return
        # A confirmation of one epoch says nothing in another epoch.
        epoch, instance = self.epoch, self.owner.presence.instance
        try:
            for done in pending.calls():
                listening = self.listening
                if self.reported.consumers > 0:  # this call neither joins nor leaves: listen() does
                    self.reported = listening
                await self.owner.core.instances.confirm(self.name, instance, epoch, listening, done)
        except Error:
            if (epoch, instance) == (self.epoch, self.owner.presence.instance):
                self.confirmations.put_back(pending)
            raise

    def _on_not_confirmed(self, error: BaseException) -> None:
        fault(f"confirming {self.name.decode()}", error)
        if not self.owner.closing:
            self.owner.clock.callLater(RETRY_AFTER, self.owner.confirm_later, self)

    @property
    def unconfirmed(self) -> set[int]:
        """Numbers of the round-robin elements that consumers have, or had, and that are not confirmed yet."""
        return self.consumers.roundrobin.held | self.confirmations.numbers

    @property
    def dealt(self) -> set[int]:
        """Numbers of the round-robin elements in the messages that are held back."""
        dealt = [message for message in self.held_back if message.kind == b"R" and message.epoch == self.epoch]
        return {number for message in dealt for number in message.numbers}
