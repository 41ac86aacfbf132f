"""One queue that this instance listens to: joining it, hearing it, handing it over, confirming.

Owns what is known of the queue, and what its consumers have taken that Redis does not know yet; knows neither HTTP
nor which other queues there are. Delivery (delivery/service.py) keeps one for each queue, and the fence
(delivery/fence.py) decides when it hears. Read docs/architecture.md for the protocol, delivery/consumers.py for who
gets what.
"""

from __future__ import annotations

from collections.abc import Coroutine
from enum import Enum
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.delivery.batch import Batch, Consumer
from restmq.delivery.channels import Channels
from restmq.delivery.consumers import Consumers
from restmq.delivery.message import Message
from restmq.delivery.presence import Presence
from restmq.model.element import Element
from restmq.model.errors import BadOption, Error, Unavailable
from restmq.runtime.future import Slot, drive, fault, nothing
from restmq.store.connection import Redis
from restmq.store.core import Core
from restmq.store.instances import NOBODY, Confirmed, History, Listening, ListenReply, Seen
from restmq.store.requests import Nack

MERGED = 500  # elements in one call
PAGE = 1000  # elements of history at a time
RETRY_AFTER = 0.3  # seconds until what Redis did not answer is asked once more
UNKNOWN = Listening(-1, -1, -1)  # what Redis has to be told anew

log = Logger()


class State(Enum):
    """How far this instance is with hearing a queue."""

    IDLE = "not joined: it is new, or the links to Redis were away"
    JOINING = "it subscribes, asks Redis, and reads what it missed; what comes meanwhile is held back"
    JOINED = "what comes is handed over"


class Owner(Protocol):
    """What a subscription needs of Delivery."""

    core: Core
    messages: Redis
    presence: Presence
    channels: Channels
    clock: IReactorTime
    closing: bool
    rejoining: bool

    def confirm_later(self, subscription: Subscription) -> None:
        """Call confirm() two turns later, when the sockets have been served."""

    def give_back(self, name: bytes, epoch: bytes, numbers: list[int]) -> None:
        """Round-robin elements that nobody here takes go to others."""

    def leave(self, consumer: Consumer, failed: bool = True) -> None:
        """A consumer goes, from all its queues."""

    def let_go(self, subscription: Subscription) -> None:
        """Nobody hears it any more."""


class Subscription:
    """The queue `name` as this instance hears it. What it takes over is delivered, given back, or told."""

    def __init__(self, name: bytes, owner: Owner) -> None:
        self.name, self.owner = name, owner
        self.consumers = Consumers()
        self.state = State.IDLE
        self.joins = 0  # how often joining was begun
        self.announced = False  # Redis may think that somebody listens here
        self.joiners: list[Slot[None]] = []  # consumers that wait until it is joined
        self.held_back: list[Message] = []  # messages that came while it was not
        self.epoch = b""
        self.past_epochs: set[bytes] = set()
        self.epoch_is_new = False  # nothing was heard of it yet: its first message tells where it begins
        self.data_id = b""
        self.position = 0  # of the last broadcast that was heard
        self.number = 0  # highest that was seen
        self.confirmed = 0  # position up to which some socket took every broadcast
        self.reported_confirmed = 0  # the same as Redis was told it
        self.ready_after = 0  # position up to which somebody is ready for more, though one before it may be stuck
        self.policy = b"broadcast"
        self.settings: dict[str, str] = {}
        self.reported = NOBODY  # what Redis was told of the consumers
        self.reported_untaken = 0  # position up to which Redis is being told that nobody here took what was broadcast
        self.written: list[int] = []  # numbers of round-robin elements to confirm
        self.leased: list[tuple[Element, int]] = []  # the same of consumers that lease, with ms
        self.unheard: list[Batch] = []  # broadcasts that came when nobody was left to hear them
        self._report_scheduled = False

    @property
    def joined(self) -> bool:
        """Whether what comes is handed over."""
        return self.state is State.JOINED

    @property
    def wanted(self) -> bool:
        """Whether anybody hears it, or Redis thinks so."""
        return bool(self.consumers.all) or self.announced

    @property
    def _listening(self) -> Listening:
        """Its consumers as Redis is told of them, but never none."""
        return Listening(self.consumers.roundrobin.ready, self.consumers.roundrobin.room, max(1, len(self.consumers)))

    # -- consumers come and go

    async def hear_policy(self) -> None:
        """Another policy may be on its way: what was told is here when this is answered (PING)."""
        if self.joined and self.policy == b"broadcast":
            await self.owner.messages.call(b"PING")

    async def admit(self) -> None:
        """Wait until the queue is joined. Raises Unavailable."""
        if not self.consumers.all and self.joined:
            self.state = State.IDLE  # it may have been forgotten since the last one left
        if not self.joined:
            slot: Slot[None] = Slot()
            self.joiners.append(slot)
            self.join()
            await slot

    def add(self, consumer: Consumer, past_first: bool) -> None:
        """A consumer hears it from now on; with `past_first`, broadcasts are kept for it until it has got the past.

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
        """A consumer went: what it did not get, or not acknowledge, goes to the next.

        With `failed`, the oldest that it got and did not acknowledge counts as a failed try: what crashes its
        worker must not come back for ever.
        """
        if consumer not in self.consumers.all:
            return
        sent, rest, leased = self.consumers.leave(consumer)
        if consumer.lease:  # all that it has not acknowledged goes back: confirmed later, it would be another's
            self.leased = [pair for pair in self.leased if pair[0] not in leased]
        else:
            self._sent(consumer, sent)
        if rest:
            self._give(rest)
        self.owner.confirm_later(self)
        self.report_later()
        if leased:  # after that is told, or they would be dealt to the one that left
            self.owner.clock.callLater(0, self._end_leases, leased, failed)

    def _end_leases(self, leased: list[Element], failed: bool) -> None:
        """Their consumer has closed: they go back, confirmed or not."""
        nacks = [Nack(element.lease, 0) for element in leased]
        if failed:
            nacks[0] = Nack(leased[0].lease, None, True, b"its consumer closed")
        drive(self.owner.core.nack(self.name, nacks), nothing, partial(self._on_leases_not_ended, leased, failed))

    def _on_leases_not_ended(self, leased: list[Element], failed: bool, error: BaseException) -> None:
        """Redis is away, or refuses: one that was on its way has no lease that would end by itself."""
        fault(f"giving back leases of {self.name.decode()}", error)
        if not self.owner.closing:
            self.owner.clock.callLater(RETRY_AFTER, self._end_leases, leased, failed)

    # -- joining: subscribe, wait for its answer, then the call; what comes meanwhile is held back

    def join(self) -> None:
        """Begin to hear it, unless that has begun, or the beat decides first."""
        if self.state is not State.JOINING and not self.owner.rejoining:
            self.state = State.JOINING
            self.joins += 1
            drive(self._joining(), nothing, partial(self._on_join_failed, self.joins))

    def on_links_lost(self) -> None:
        """The links came up anew: what was heard before says nothing of what was told meanwhile."""
        self.state = State.IDLE
        self.held_back = []

    def _on_join_failed(self, joins: int, error: BaseException) -> None:
        if joins != self.joins:
            return  # the links came up anew meanwhile, and with them began another
        self.state = State.IDLE
        if fault(f"joining {self.name.decode()}", error):
            error = Unavailable("the queue could not be joined")
        self.refuse(error)
        if self.wanted:
            self.owner.clock.callLater(0.2, self._join_again)

    def refuse(self, error: BaseException) -> None:
        """Consumers that wait to join it are told why they cannot now."""
        joiners, self.joiners = self.joiners, []
        for slot in joiners:
            slot.fail(Unavailable(str(error)))
        if not self.wanted:
            self.owner.let_go(self)

    def _join_again(self) -> None:
        if not self.joined and self.wanted and not self.owner.closing:
            self.join()

    async def _joining(self) -> None:
        link_ups, instance = self.owner.channels.link_ups, self.owner.presence.instance
        await self.owner.channels.open(self.name, self.owner, b"ci")
        listening = self._listening if self.consumers.all else Listening(0, 0, 1)
        self.announced = True
        known = self.epoch != b""
        told = await self._listen(listening)
        self._check_links(link_ups, instance)
        self.policy = told.policy
        self._note_settings(told.settings)
        start = await self._start_of(told, link_ups, instance)
        if known and told.epoch != self.epoch:
            self._begin_epoch(told.epoch, start)
            known = False
        elif self.epoch_is_new or not known:
            self.position = start
        if not known:
            self.confirmed = self.reported_confirmed = start
        self.epoch, self.number, self.epoch_is_new = told.epoch, max(self.number, told.number), False
        await self._read_missed(told, link_ups, instance)
        if known:
            await self._give_back_strays(link_ups, instance)
        self._on_joined(listening)

    async def _start_of(self, told: ListenReply, link_ups: int, instance: bytes) -> int:
        """The position after which this instance hears."""
        if not (self.epoch and (told.epoch != self.epoch or self.epoch_is_new) and self.consumers.all):
            return told.position
        # What this life has broadcast was not heard here: all that is kept of it comes first.
        kept = await self.owner.core.instances.history(self.name, "all", 0, 0)
        self._check_links(link_ups, instance)
        if kept.epoch != told.epoch:
            raise Unavailable("the queue was forgotten while it was joined")
        return min(kept.start, told.position)

    async def _read_missed(self, told: ListenReply, link_ups: int, instance: bytes) -> None:
        """What was broadcast while nothing was heard here, up to the position that was told, comes from history."""
        while self.position < told.position:
            page = await self.owner.core.instances.history(self.name, "after", self.position, PAGE)
            self._check_links(link_ups, instance)
            if page.epoch != told.epoch:
                raise Unavailable("the queue was forgotten while it was joined")
            if page.floor > self.position:
                self._on_gap(page.floor)
            self._replay(page)
            self.position = max(self.position, page.end)
        self.position = max(self.position, told.position)  # what is not in history was taken back, and comes again

    async def _give_back_strays(self, link_ups: int, instance: bytes) -> None:
        """Round-robin elements that were on their way when the connection went."""
        strays = await self.owner.core.instances.held_by(self.name, instance)
        if strays:  # some may just have been dealt: their messages are here when this is answered
            await self.owner.messages.call(b"PING")
        self._check_links(link_ups, instance)
        self.owner.give_back(self.name, self.epoch, sorted(strays - self.unconfirmed - self._dealt()))

    def _on_joined(self, listening: Listening) -> None:
        self.state, self.reported = State.JOINED, listening
        joiners, self.joiners = self.joiners, []
        for slot in joiners:  # each stands in the list before this returns, and so hears what was held back
            slot.resolve(None)
        held_back, self.held_back = self.held_back, []
        for message in held_back:
            self.handle(message)
        self._set_policy(self.policy)
        self.report_later()
        if self.consumers.roundrobin.leased:
            drive(self._claim_leases(), nothing, partial(fault, f"asking for leases of {self.name.decode()}"))

    def _check_links(self, link_ups: int, instance: bytes) -> None:
        if link_ups != self.owner.channels.link_ups or instance != self.owner.presence.instance:
            raise Unavailable("the connection to Redis was lost while joining")

    async def _claim_leases(self) -> None:
        """Leases may have ended while nothing was heard here: who had them may have as many more."""
        leased, instance = self.consumers.roundrobin.leased, self.owner.presence.instance
        held = await self.owner.core.claim_leases(self.name, instance, [element.lease for element in leased])
        self.consumers.roundrobin.end_lease_of([element for element, holds in zip(leased, held) if not holds])
        self.report_later()

    def _on_gap(self, last: int) -> None:
        """More was missed than history keeps."""
        log.warn("queue {queue}: more was missed than history keeps", queue=self.name.decode())
        for consumer in self.consumers.broadcast.current:  # who gets the past finds it out there
            consumer.on_missed(self.name, self.position + 1, last)
        self.consumers.broadcast.on_skipped()
        self.position = last

    def _replay(self, page: History) -> None:
        """What was broadcast while nothing was heard here."""
        for position, element in page.elements:
            if position > self.position:
                self._broadcast(Batch(self.name, [element], position, page.epoch))

    def _note_settings(self, settings: dict[str, str]) -> None:
        self.settings = settings
        self.data_id = self.owner.core.data_id

    # -- epochs

    def on_epoch(self, epoch: bytes, position: int) -> None:
        """Redis tells of this epoch and position; messages from before it may still be on their way."""
        if epoch != self.epoch and epoch not in self.past_epochs:
            self._begin_epoch(epoch, position)
            self.epoch_is_new = True

    def _begin_epoch(self, epoch: bytes, position: int) -> None:
        """The queue has another epoch than it had: it was forgotten, or Redis lost data.

        Or nobody ever wrote to it: then its epoch goes with the last who hears it, and nobody missed anything.
        """
        never_used = not (self.number or self.position)
        if never_used and not position:
            self.epoch = epoch
            return
        if not never_used:
            log.warn("queue {queue} has another epoch: it was forgotten, or Redis lost data", queue=self.name.decode())
        self.consumers.on_new_epoch()
        self.written, self.leased = [], []
        self.past_epochs.add(self.epoch)
        self.unheard.clear()
        self.epoch, self.position, self.number = epoch, position, 0
        self.confirmed, self.reported_confirmed, self.ready_after, self.reported_untaken, self.reported = (
            0,
            0,
            0,
            0,
            UNKNOWN,
        )
        self.report_later()
        for consumer in self.consumers.broadcast.current:
            consumer.on_new_epoch(self.name, epoch, position)

    # -- telling Redis who listens: once a turn, in absolute numbers

    def _listen(self, listening: Listening, untaken: int = 0) -> Coroutine[Any, Any, ListenReply]:
        seen = Seen(self.epoch, self.number, self.position, self.settings, self.data_id)
        instance = self.owner.presence.instance
        return self.owner.core.instances.listen(self.name, instance, listening, self.confirmed, seen, untaken)

    def report_later(self) -> None:
        """Say how many listen, and how many elements they take, if that is not what Redis was told last."""
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
        told = await self._listen(listening, 0 if leaving else untaken)
        self.on_epoch(told.epoch, told.position)
        self._set_policy(told.policy)
        self._note_settings(told.settings)
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
        """Redis knows that nobody listens: let go, unless somebody came meanwhile."""
        if self.consumers.all or self.joiners:
            return
        await self._confirm()
        if not self.consumers.all and not self.joiners:
            self.state, self.announced = State.IDLE, False
            self.owner.let_go(self)

    def _on_not_reported(self, error: BaseException) -> None:
        fault(f"telling who hears {self.name.decode()}", error)
        self.reported, self.reported_untaken = UNKNOWN, 0
        self.owner.clock.callLater(RETRY_AFTER, self.report_later)

    async def depart(self) -> None:
        """The instance ends: confirm what was taken, and give back the rest."""
        await self._confirm()
        if self.joined:
            await self._listen(NOBODY)

    # -- messages

    def on_message(self, message: Message) -> None:
        """Something was told of this queue."""
        if self.joined:
            self.handle(message)
        elif self.state is State.JOINING or self.owner.rejoining:
            self.held_back.append(message)
        elif message.kind == b"R":  # dealt before the last one's leaving was told, and read after that was answered
            self.owner.give_back(self.name, message.epoch, message.numbers)

    def handle(self, message: Message) -> None:
        """Do as it says."""
        kind, epoch, first = message.kind, message.epoch, message.first
        if epoch in self.past_epochs:
            return  # it was on its way when the queue was forgotten
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
        # Something was broadcast before this that was not heard: joining again brings it, from history, first.
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
        else:  # the last one left just now: nobody heard this, and nobody may confirm it
            self.unheard.append(batch)

    def _to_everyone(self, batch: Batch) -> None:
        for consumer, position in self.consumers.broadcast.give(batch):
            consumer.on_fell_behind(self.name, position, self.epoch)

    def _give(self, elements: list[Element]) -> None:
        """Round-robin: each to the next; what nobody takes goes back."""
        refused = self.consumers.roundrobin.give(self.name, elements, self.epoch)
        if refused:
            self.owner.give_back(self.name, self.epoch, [element.number for element in refused])

    # -- confirming

    def confirm(self) -> None:
        """Tell Redis what the sockets took, and look again as long as some of it is on its way."""
        drive(self._confirm(), nothing, self._on_not_confirmed)
        if self.consumers.broadcast.untaken:
            self.report_later()
        if self.consumers.waits():
            self.owner.clock.callLater(0.02, self.owner.confirm_later, self)

    def drop(self) -> None:
        """Others have taken over what was on its way here."""
        self.consumers.drop()
        self.written, self.leased = [], []

    def _sent(self, consumer: Consumer, elements: list[Element]) -> None:
        """The consumer's socket took these."""
        if consumer.lease:
            self.leased += [(element, consumer.lease) for element in elements]
        else:
            self.written += [element.number for element in elements]

    async def _confirm(self) -> None:
        for consumer in self.consumers.all:
            self._sent(consumer, self.consumers.roundrobin.settled(consumer))
        confirmed = self.confirmed = self.consumers.broadcast.confirmed(self.confirmed)
        ready_after = self.consumers.broadcast.ready_after
        written, self.written = self.written, []
        leased, self.leased = self.leased, []
        if not written and not leased and confirmed <= self.reported_confirmed and ready_after <= self.ready_after:
            return
        before, self.reported_confirmed, self.ready_after = self.reported_confirmed, confirmed, ready_after
        # What is written in one life says nothing in another.
        epoch, instance = self.epoch, self.owner.presence.instance
        try:
            for at in range(0, max(len(written), len(leased), 1), MERGED):
                leases = [(element.number, ms) for element, ms in leased[at : at + MERGED]]
                told = self._listening
                if self.reported.consumers > 0:  # this neither joins nor leaves: listen() does that
                    self.reported = told
                done = Confirmed(confirmed, ready_after, written[at : at + MERGED], leases)
                await self.owner.core.instances.confirm(self.name, instance, epoch, told, done)
        except Error:
            if (epoch, instance) == (self.epoch, self.owner.presence.instance):
                self.written += written  # repeated until told: a window that stays full is a deadlock
                here = self.consumers.roundrobin.leased  # else its consumer left, and it goes back to be dealt anew
                self.leased += [pair for pair in leased if pair[0] in here]
                self.reported_confirmed, self.ready_after = min(self.reported_confirmed, before), 0
            raise

    def _on_not_confirmed(self, error: BaseException) -> None:
        fault(f"confirming {self.name.decode()}", error)
        if not self.owner.closing:
            self.owner.clock.callLater(RETRY_AFTER, self.owner.confirm_later, self)

    @property
    def unconfirmed(self) -> set[int]:
        """Numbers of the round-robin elements that consumers have, or had, and that are not confirmed yet."""
        return self.consumers.roundrobin.held | set(self.written) | {element.number for element, _ in self.leased}

    def _dealt(self) -> set[int]:
        """Numbers of the round-robin elements that came while the queue was joined."""
        dealt = [message for message in self.held_back if message.kind == b"R" and message.epoch == self.epoch]
        return {number for message in dealt for number in message.numbers}
