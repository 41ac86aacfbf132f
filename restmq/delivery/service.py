"""Delivery: the service that owns each queue's live consumers, and carries elements to them.

Owns joining, handing over, confirming and giving back; knows neither HTTP nor
how Redis is spoken to. What is heard in one turn is written once a consumer;
what the sockets took is confirmed once a queue, two turns later. Read
docs/architecture.md for the protocol, delivery/replay.py for how the past is sent first,
live/consumer.py for what a consumer is.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.delivery.batch import Batch, Consumer
from restmq.delivery.channels import Inbox
from restmq.delivery.consumers import Consumers
from restmq.delivery.message import Message
from restmq.delivery.presence import Presence
from restmq.delivery.taps import Taps
from restmq.model.element import Element, Lease
from restmq.model.errors import BadOption, Error, Unavailable
from restmq.runtime.future import Slot, deferred, drive, fault, nothing, pause
from restmq.store.connection import Redis
from restmq.store.core import Core, Nack
from restmq.store.instances import NOBODY, Confirmed, History, Listening, Seen, Told, queue_of

MERGED = 500
PAGE = 1000  # elements of history at a time
UNTOLD = Listening(-1, -1, -1)  # what Redis has to be told anew

log = Logger()


class Joined:
    """One queue that this instance listens to."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.consumers = Consumers()
        self.joined = False
        self.joining = False
        self.joins = 0  # how often that was begun
        self.counted = False  # Redis may think that somebody listens here
        self.heldback: list[Message] = []  # messages that came before the join's answer
        self.waiting: list[Slot[None]] = []  # who joins
        self.epoch = b""
        self.past: set[bytes] = set()  # epochs that are over
        self.fresh = False  # nothing was heard of this epoch yet, so its first message tells where it begins
        self.birthword = b""
        self.position = 0  # highest P heard
        self.highest = 0  # highest N seen
        self.sure = 0  # highest P confirmed, with all before it
        self.out = 0  # highest P that somebody took or need not take, though one before it may be stuck
        self.policy = b"broadcast"
        self.settings: dict[str, str] = {}
        self.told = NOBODY
        self.back = 0  # up to which P Redis is just told that nobody got it
        self.written: list[int] = []
        self.leased: list[tuple[Element, int]] = []  # with ms: written to consumers that lease
        self.unheard: list[Batch] = []  # broadcasts that came when nobody was left to hear them

    @property
    def unborn(self) -> bool:
        """Whether nothing is known to have been in it."""
        return not (self.highest or self.position)


class Delivery(Service):
    """queue -> consumers. Everything it takes over is delivered, given back, or told."""

    def __init__(self, core: Core, messages: Redis, presence: Presence, inbox: Inbox, clock: IReactorTime) -> None:
        self.core, self.messages, self.presence, self.inbox, self.clock = core, messages, presence, inbox, clock
        self.queues: dict[bytes, Joined] = {}
        self.of: dict[Consumer, list[bytes]] = {}
        self.woken: Any = lambda queue, many: None  # GETs that wait: delivery/waiting.py
        self.up: Any = lambda: None
        self.taps = Taps(core, inbox, presence)
        self._dirty: set[Joined] = set()
        self._changed: set[Joined] = set()
        self._confirming = False
        self._fenced: list[tuple[bytes, bytes]] = []
        self._holding = self._rejoining = False
        self._former: set[bytes] = set()  # who this instance was
        self._closing = False
        self._silent = 0
        messages.heard = self.heard
        messages.up, messages.down = self._link_up, self._link_down
        core.joined = self._link_up
        presence.alive, presence.missed, presence.doomed = self._release, self._unbeaten, self._doomed

    # -- who listens

    async def join(
        self, consumer: Consumer, queues: list[bytes], later: bool = False
    ) -> dict[bytes, tuple[int, bytes]]:
        """Make a consumer hear queues; answers each one's position and epoch.

        With `later`, broadcasts are kept for it until it has got the past (delivery/replay.py). Raises Unavailable,
        and BadOption when it leases and a queue broadcasts.
        """
        if self._closing:
            raise Unavailable("this instance is ending; connect again")
        self.of[consumer] = queues
        try:
            for name in queues:
                queue = self.queues.get(name)
                if consumer.lease and queue is not None and queue.joined and queue.policy == b"broadcast":
                    await self.messages.call(b"PING")  # another policy may be on its way: what was told is here then
                    queue = self.queues.get(name)
                if queue is None:
                    queue = self.queues[name] = Joined(name)
                if not queue.consumers.all:
                    queue.joined = False  # it may have been forgotten since the last one left
                if not queue.joined:
                    slot: Slot[None] = Slot()
                    queue.waiting.append(slot)
                    self._join(queue)
                    await slot
                if consumer not in self.of:
                    break  # it left while it waited
                if consumer.lease and queue.policy == b"broadcast":
                    raise BadOption(
                        f"{name.decode('utf-8')} broadcasts, and what everybody gets nobody can lease: "
                        f"POST policy=roundrobin to /p/{name.decode('utf-8')} first"
                    )
                unheard, queue.unheard = queue.unheard, []
                back = not queue.told[2]  # they are being given back, and come again
                queue.consumers.join(consumer, unheard[0].first - 1 if unheard and not back else queue.position)
                if later:
                    queue.consumers.replaying(consumer)
                for batch in unheard:
                    if back:
                        queue.consumers.nobody(batch)
                    else:
                        self._everyone(queue, batch)
                self._tell(queue)
        except Error:
            self.leave(consumer)
            raise
        return {name: (self.queues[name].position, self.queues[name].epoch) for name in queues if name in self.queues}

    def leave(self, consumer: Consumer, failed: bool = True) -> None:
        """A consumer went; what it did not get, or not acknowledge, goes to the next.

        Unless `failed` is false, the oldest unacknowledged one that it got counts as a failed try: what
        crashes its worker must not come back for ever.
        """
        self.taps.leave(consumer)
        for name in self.of.pop(consumer, ()):
            queue = self.queues.get(name)
            if queue is None or consumer not in queue.consumers.all:
                continue
            sent, rest, leased = queue.consumers.leave(consumer)
            if consumer.lease:  # all that it has not acknowledged goes back: confirmed later, it would be another's
                queue.leased = [pair for pair in queue.leased if pair[0] not in leased]
            else:
                self._sent(queue, consumer, sent)
            if rest:
                self._give(queue, rest)
            self._later(queue)
            self._tell(queue)
            if leased:  # after that is told, or they would be dealt to the one that left
                self.clock.callLater(0, self._unlease, queue, leased, failed)

    def _unlease(self, queue: Joined, leased: list[Element], failed: bool) -> None:
        """Their consumer has closed: they go back, confirmed or not."""
        nacks = [Nack(element.lease, 0) for element in leased]
        if failed:
            nacks[0] = Nack(leased[0].lease, None, True, b"its consumer closed")
        drive(self.core.nack(queue.name, nacks), nothing, partial(self._unleased, queue, leased, failed))

    def _unleased(self, queue: Joined, leased: list[Element], failed: bool, error: BaseException) -> None:
        """Redis is away, or refuses: one that was on its way has no lease that would end by itself."""
        fault(f"giving back leases of {queue.name.decode()}", error)
        if not self._closing:
            self.clock.callLater(0.3, self._unlease, queue, leased, failed)

    def leases(self, consumer: Consumer, queue: bytes, lease: Lease) -> bool:
        """Whether a consumer has this lease now."""
        here = self.queues.get(queue)
        return here is not None and here.consumers.leases(consumer, lease)

    def _kept(self, queue: Joined, error: BaseException) -> None:
        """Redis is away: these leases end by themselves."""
        fault(f"asking for leases of {queue.name.decode()}", error)

    def full(self, consumer: Consumer) -> None:
        """Its socket takes no more: it is passed over."""
        for name in self.of.get(consumer, ()):
            if name in self.queues:
                self._tell(self.queues[name])

    def drained(self, consumer: Consumer) -> None:
        """Its socket takes again."""
        for name in self.of.get(consumer, ()):
            if name in self.queues:
                self._later(self.queues[name])
                self._tell(self.queues[name])

    # -- joining: subscribe, wait for its answer, then the script; what comes meanwhile is held

    def _join(self, queue: Joined) -> None:
        if not queue.joining and not self._rejoining:
            queue.joining = True
            queue.joins += 1
            drive(self._joining(queue), nothing, partial(self._unjoined, queue, queue.joins))

    def _unjoined(self, queue: Joined, joins: int, error: BaseException) -> None:
        if joins != queue.joins:
            return  # the links came up anew meanwhile, and with them began another
        queue.joining = False
        if fault(f"joining {queue.name.decode()}", error):
            error = Unavailable("the queue could not be joined")
        self._refuse(queue, error)
        if queue.consumers.all or queue.counted:
            self.clock.callLater(0.2, self._again, queue)

    def _refuse(self, queue: Joined, error: BaseException) -> None:
        """Who waits to hear it is told why that cannot be now."""
        waiting, queue.waiting = queue.waiting, []
        for slot in waiting:
            slot.fail(Unavailable(str(error)))
        if not (queue.consumers.all or queue.counted) and self.queues.pop(queue.name, None) is not None:
            self.inbox.close(queue.name, self)

    def _unbeaten(self, error: BaseException) -> None:
        """After the links were away nobody joins before a beat is answered."""
        for queue in [queue for queue in self.queues.values() if self._rejoining and queue.waiting]:
            self._refuse(queue, error)

    def _again(self, queue: Joined) -> None:
        if not queue.joined and (queue.consumers.all or queue.counted) and not self._closing:
            self._join(queue)

    async def _joining(self, queue: Joined) -> None:
        ups, instance = self.inbox.ups, self.presence.instance
        await self.inbox.open(queue.name, self, b"ci")
        known = queue.epoch != b""
        ready, room = (queue.consumers.ready, queue.consumers.room) if queue.consumers.all else (0, 0)
        listening = Listening(ready, room, max(1, len(queue.consumers)))
        queue.counted = True
        epoch, position, highest, queue.policy, settings = await self._live(queue, listening)
        self._linked(ups, instance)
        self._learn(queue, settings)
        start = position
        if known and (epoch != queue.epoch or queue.fresh) and queue.consumers.all:
            # What this life has broadcast was not heard here: all that is kept of it comes first.
            kept = await self.core.instances.history(queue.name, "all", 0, 0)
            self._linked(ups, instance)
            if kept.epoch != epoch:
                raise Unavailable("the queue was forgotten while it was joined")
            start = min(kept.start, position)
        if known and epoch != queue.epoch:
            self._renew(queue, epoch, start)
            known = False
        elif queue.fresh or not known:
            queue.position = start
        if not known:
            queue.sure = start
        queue.epoch, queue.highest, queue.fresh = epoch, max(queue.highest, highest), False
        while queue.position < position:
            page = await self.core.instances.history(queue.name, "after", queue.position, PAGE)
            self._linked(ups, instance)
            if page.epoch != epoch:
                raise Unavailable("the queue was forgotten while it was joined")
            if page.floor > queue.position:
                self._gap(queue, page.floor)
            self._replay(queue, page)
            queue.position = max(queue.position, page.end)
        queue.position = max(queue.position, position)  # what is not in history was taken back, and comes again
        if known:
            away = await self.core.instances.away(queue.name, instance)
            if away:  # some may just have been dealt: their messages are here when this is answered
                await self.messages.call(b"PING")
            self._linked(ups, instance)
            away -= _here(queue) | _dealt(queue)
            self._return(queue.name, queue.epoch, sorted(away))  # they were on their way when the connection went
        queue.joined, queue.joining, queue.told = True, False, listening
        waiting, queue.waiting = queue.waiting, []
        for slot in waiting:  # each stands in the list before this returns, and so hears what was held back
            slot.resolve(None)
        heldback, queue.heldback = queue.heldback, []
        for message in heldback:
            self._handle(queue, message)
        self._policy(queue, queue.policy)
        self._tell(queue)
        if queue.consumers.leased:
            drive(self._own(queue), nothing, partial(self._kept, queue))

    def _linked(self, ups: int, instance: bytes) -> None:
        if ups != self.inbox.ups or instance != self.presence.instance:
            raise Unavailable("the connection to Redis was lost while joining")

    async def _own(self, queue: Joined) -> None:
        """Leases may have ended while nothing was heard here: who had them may have as many more."""
        leased = queue.consumers.leased
        held = await self.core.mine(queue.name, self.presence.instance, [element.lease for element in leased])
        queue.consumers.over([element for element, holds in zip(leased, held) if not holds])
        self._tell(queue)

    def _gap(self, queue: Joined, last: int) -> None:
        """More was missed than history keeps."""
        log.warn("queue {queue}: more was missed than history keeps", queue=queue.name.decode())
        for consumer in queue.consumers.current:  # who gets the past finds it out there
            consumer.missed(queue.name, queue.position + 1, last)
        queue.consumers.skipped()
        queue.position = last

    def _replay(self, queue: Joined, page: History) -> None:
        """What was broadcast while nothing was heard here."""
        for position, element in page.elements:
            if position > queue.position:
                self._broadcast(queue, Batch(queue.name, [element], position, page.epoch))

    def _learn(self, queue: Joined, settings: dict[str, str]) -> None:
        queue.settings = settings
        queue.birthword = self.core.birthword

    def renewed(self, queue: Joined, epoch: bytes, position: int) -> None:
        """Redis tells of this epoch and position; messages from before it may still be on their way."""
        if epoch != queue.epoch and epoch not in queue.past:
            self._renew(queue, epoch, position)
            queue.fresh = True

    def _renew(self, queue: Joined, epoch: bytes, position: int) -> None:
        """The queue has another epoch than it had: it was forgotten, or Redis lost data.

        Or nobody ever wrote to it: then its epoch goes with the last who hears it, and nobody missed anything.
        """
        if queue.unborn and not position:
            queue.epoch = epoch
            return
        if not queue.unborn:
            log.warn("queue {queue} has another epoch: it was forgotten, or Redis lost data", queue=queue.name.decode())
        queue.consumers.renewed()
        queue.written, queue.leased = [], []
        queue.past.add(queue.epoch)
        queue.unheard.clear()
        queue.epoch, queue.position, queue.sure, queue.highest = epoch, position, 0, 0
        queue.out, queue.back, queue.told = 0, 0, UNTOLD
        self._tell(queue)
        for consumer in queue.consumers.current:
            consumer.renewed(queue.name, epoch, position)

    def _live(self, queue: Joined, listening: Listening, deaf: int = 0) -> Coroutine[Any, Any, Told]:
        seen = Seen(queue.epoch, queue.highest, queue.position, queue.settings, queue.birthword)
        return self.core.instances.listen(queue.name, self.presence.instance, listening, queue.sure, seen, deaf)

    def _tell(self, queue: Joined) -> None:
        """Say how many listen: once a turn, in absolute numbers."""
        if queue.joined and queue not in self._changed:
            self._changed.add(queue)
            self.clock.callLater(0, self._telling, queue)

    def _telling(self, queue: Joined) -> None:
        self._changed.discard(queue)
        numbers = Listening(queue.consumers.ready, queue.consumers.room, len(queue.consumers))
        deaf = queue.consumers.deaf
        if not queue.joined or queue.waiting or (numbers == queue.told and deaf <= queue.back):
            return
        queue.told, queue.back = numbers, deaf
        drive(self._said(queue, numbers, deaf), nothing, partial(self._unsaid, queue))

    async def _said(self, queue: Joined, numbers: Listening, deaf: int) -> None:
        epoch = queue.epoch
        if numbers.consumers == 0 or deaf:
            await self._confirm_written(queue)
        told = await self._live(queue, numbers, deaf if numbers.consumers else 0)
        self.renewed(queue, told.epoch, told.position)
        self._policy(queue, told.policy)
        self._learn(queue, told.settings)
        if numbers.consumers == 0:
            queue.unheard.clear()  # the script gave them back, or another instance has heard them
            queue.consumers.abandon(queue.position)
            if queue.consumers.all:
                queue.told = numbers
                self._tell(queue)
            queue.back = 0
        elif deaf and queue.epoch == epoch:
            queue.consumers.abandon(deaf)
            queue.back = 0
            self._later(queue)
        if numbers.consumers == 0 and not queue.consumers.all and not queue.waiting:
            await self._confirm_written(queue)
            if not queue.consumers.all and not queue.waiting and self.queues.get(queue.name) is queue:
                queue.joined = queue.counted = False
                del self.queues[queue.name]
                self.inbox.close(queue.name, self)

    def _unsaid(self, queue: Joined, error: BaseException) -> None:
        fault(f"telling who hears {queue.name.decode()}", error)
        queue.told, queue.back = UNTOLD, 0
        self.clock.callLater(0.3, self._tell, queue)

    # -- the links

    def _link_up(self) -> None:
        if not self.inbox.connected:
            return
        self.inbox.ups += 1
        self.taps.cut()
        for queue in self.queues.values():
            queue.joined = queue.joining = False
            queue.heldback = []
        self._rejoining = True  # once a beat says that this instance still is one
        self.presence.beat()

    def _link_down(self) -> None:
        if not self._closing:
            self.clock.callLater(0.05, self._deaf, self.messages.why)

    def _deaf(self, why: str) -> None:
        if self.core.redis.link is not None:  # else that is told already, in the same words
            log.warn("Redis' messages are not heard: {why}; live consumers get what they miss a little later", why=why)

    def _rejoin(self) -> None:
        self._rejoining = False
        for queue in list(self.queues.values()):
            if queue.consumers.all or queue.waiting or queue.counted:  # who has left must be told, too
                self._join(queue)
        self.up()

    def watch(self) -> None:
        """Called every second: a message link that answers no PING for as long as a beat lasts is given up."""
        if self.messages.link is not None:
            self._silent += 1
            if self._silent > self.presence.lasts:
                self._silent = 0
                self.messages.cut("the subscription went deaf")
                return
            self.messages.ask(b"*1\r\n$4\r\nPING\r\n", self._ponged)

    def _ponged(self, reply: Any, error: BaseException | None) -> None:
        if error is None:
            self._silent = 0

    # -- messages

    def heard(self, channel: bytes, data: bytes) -> None:
        """A message of Redis."""
        if not self._holding and self.presence.fenced():
            self._holding = True
            self.presence.beat()
        if self._holding:
            self._fenced.append((channel, data))
            return
        message = Message(data)
        if message.kind in b"RWA" and not channel.endswith(b":" + self.presence.instance):
            return  # to who this instance was before it was given up: what it had is others' now
        name = queue_of(channel)
        queue = self.queues.get(name)
        if message.kind == b"W":
            self.woken(name, message.first)
        elif message.kind == b"T":
            self.taps.heard(name, message)
        elif queue is not None and queue.joined:
            self._handle(queue, message)
        elif queue is not None and (queue.joining or self._rejoining):
            queue.heldback.append(message)
        elif message.kind == b"R":  # dealt before the last one's leaving was told, and read after that was answered
            self._return(name, message.epoch, message.numbers)

    def _handle(self, queue: Joined, message: Message) -> None:
        kind, epoch, first = message.kind, message.epoch, message.first
        if epoch in queue.past:
            return  # it was on its way when the queue was forgotten
        if epoch != queue.epoch:
            self.renewed(queue, epoch, first - 1 if kind == b"B" else queue.position)
        if kind == b"P":
            self._policy(queue, message.words)
        elif kind == b"Z":
            queue.consumers.forget()
            self._tell(queue)
        elif kind == b"A":
            queue.consumers.freed({int(number) for number in message.words.split(b" ")})
            self._tell(queue)
        else:
            elements = message.elements(queue.name)
            queue.highest = max(queue.highest, elements[-1].number)
            if kind == b"R":
                self._give(queue, elements)
            else:
                if queue.fresh:
                    queue.position, queue.fresh = min(queue.position, first - 1), False
                batch = Batch(queue.name, elements, first, epoch).beyond(queue.position)
                if batch is not None and batch.first > queue.position + 1:
                    self._missed(queue, message)
                elif batch is not None:
                    self._broadcast(queue, batch)
            self._later(queue)

    def _missed(self, queue: Joined, message: Message) -> None:
        """Something was broadcast before this that was not heard: joining again brings it, from history, first."""
        if queue.joined:
            queue.joined = False
            self._join(queue)
        queue.heldback.append(message)

    def _policy(self, queue: Joined, policy: bytes) -> None:
        queue.policy = policy
        if policy == b"broadcast":
            for consumer in queue.consumers.leasing():
                self.leave(consumer, failed=False)
                consumer.close("the queue broadcasts now, and what everybody gets nobody can lease")

    def _broadcast(self, queue: Joined, batch: Batch) -> None:
        queue.position = batch.last
        if queue.consumers.all:
            self._everyone(queue, batch)
        else:  # the last one left just now: nobody heard this, and nobody may confirm it
            queue.unheard.append(batch)

    def _everyone(self, queue: Joined, batch: Batch) -> None:
        for consumer, position in queue.consumers.everyone(batch):
            consumer.fell_behind(queue.name, position, queue.epoch)

    def _give(self, queue: Joined, elements: list[Element]) -> None:
        refused = queue.consumers.give(queue.name, elements, queue.epoch)
        if refused:
            self._return(queue.name, queue.epoch, [element.number for element in refused])

    def _return(self, name: bytes, epoch: bytes, numbers: list[int]) -> None:
        for at in range(0, len(numbers), MERGED):
            some = numbers[at : at + MERGED]
            slot = self.core.instances.give_back(name, self.presence.instance, epoch, some)
            slot.then(partial(self._returned, name, epoch, some))

    def _returned(self, name: bytes, epoch: bytes, numbers: list[int], reply: Any, error: BaseException | None) -> None:
        if error is not None and not self._closing:
            self.clock.callLater(0.3, self._return_again, name, epoch, numbers)

    def _return_again(self, name: bytes, epoch: bytes, numbers: list[int]) -> None:
        """It may have been done, and some were dealt to this instance since: those stay."""
        queue = self.queues.get(name)
        self._return(name, epoch, [number for number in numbers if queue is None or number not in _here(queue)])

    # -- confirming

    def _later(self, queue: Joined) -> None:
        self._dirty.add(queue)
        if not self._confirming:  # two turns later the sockets have been served
            self._confirming = True
            self.clock.callLater(0, self.clock.callLater, 0, self._confirm)

    def _confirm(self) -> None:
        self._confirming = False
        if self._holding:
            return
        dirty, self._dirty = self._dirty, set()
        for queue in dirty:
            drive(self._confirm_written(queue), nothing, partial(self._unconfirmed, queue))
            if queue.consumers.deaf:
                self._tell(queue)
            if queue.consumers.waits():
                self.clock.callLater(0.02, self._later, queue)

    def _sent(self, queue: Joined, consumer: Consumer, elements: list[Element]) -> None:
        """The consumer's socket took these."""
        if consumer.lease:
            queue.leased += [(element, consumer.lease) for element in elements]
        else:
            queue.written += [element.number for element in elements]

    async def _confirm_written(self, queue: Joined) -> None:
        for consumer in queue.consumers.all:
            self._sent(queue, consumer, queue.consumers.settled(consumer))
        sure, out = queue.consumers.confirmed(queue.sure), queue.consumers.out
        written, queue.written = queue.written, []
        leased, queue.leased = queue.leased, []
        if not written and not leased and sure == queue.sure and out <= queue.out:
            return
        before, queue.sure, queue.out = queue.sure, max(queue.sure, sure), out
        epoch, instance = queue.epoch, self.presence.instance  # what is written in one life says nothing in another
        if leased:
            self.core.due.soon(queue.name, min(ms for _, ms in leased))
        try:
            for at in range(0, max(len(written), len(leased), 1), MERGED):
                leases = [(element.number, ms) for element, ms in leased[at : at + MERGED]]
                told = Listening(queue.consumers.ready, queue.consumers.room, max(1, len(queue.consumers)))
                if queue.told.consumers > 0:  # who has left does not come back by this, nor leave: live.lua does that
                    queue.told = told
                done = Confirmed(sure, out, written[at : at + MERGED], leases)
                await self.core.instances.confirm(queue.name, instance, epoch, told, done)
        except Error:
            if (epoch, instance) == (queue.epoch, self.presence.instance):
                queue.written += written  # repeated until told: a window that stays full is a deadlock
                here = queue.consumers.leased  # what its consumer left meanwhile goes back, and may be dealt anew
                queue.leased += [pair for pair in leased if pair[0] in here]
                queue.sure, queue.out = min(queue.sure, before), 0
                queue.consumers.again(sure)
            raise

    def _unconfirmed(self, queue: Joined, error: BaseException) -> None:
        fault(f"confirming {queue.name.decode()}", error)
        if not self._closing:
            self.clock.callLater(0.3, self._later, queue)

    # -- the fence

    def _release(self) -> None:
        """The beat was answered: this instance still owns what it held."""
        if self._former:
            return  # it is being born again, and what it held before that is others'
        if self._rejoining and self.inbox.connected:
            self._rejoin()
        if self._holding:
            self._holding = False
            fenced, self._fenced = self._fenced, []
            for channel, data in fenced:
                self.heard(channel, data)
            for queue in list(self._dirty):
                self._later(queue)

    def _doomed(self) -> None:
        """Others have taken over: round-robin elements held here are theirs, broadcasts still go out."""
        anew, self._holding = bool(self._former), True
        self._former.add(self.presence.instance)
        self.presence.renew()
        for queue in self.queues.values():
            queue.consumers.drop()
            queue.written, queue.leased = [], []
        if not anew:
            self._bear()

    def _bear(self) -> None:
        drive(self._reborn(), nothing, self._unborn)

    def _unborn(self, error: BaseException) -> None:
        fault("joining again", error)
        if not self._closing:
            self.clock.callLater(0.3, self._bear)

    async def _reborn(self) -> None:
        void: dict[bytes, list[tuple[int, int]]] = {}
        while self._former:
            formers = list(self._former)
            for former in formers:  # what it asked of Redis after it was given up may have put it back
                await self.core.instances.reap(former, {*self.queues, *self.inbox.queues})
            for name in list(self.queues):
                void[name] = await self.core.instances.taken_back(name)
            self._former.difference_update(formers)
        fenced, self._fenced = self._fenced, []
        self._holding = False
        for channel, data in fenced:
            queue, message = self.queues.get(queue_of(channel)), Message(data)
            if queue is None or message.kind != b"B":
                continue
            if not any(low <= message.first <= high for low, high in void.get(queue.name, ())):
                self._handle(queue, message)
        self._link_up()

    # -- ending

    def close(self) -> Deferred[None]:
        """Close every consumer, confirm what their sockets took, give back the rest."""
        return deferred(self._close())

    async def _close(self) -> None:
        self._closing = True
        self.taps.close()
        for consumer in list(self.of):
            if consumer.lease:
                self.leave(consumer, failed=False)
            consumer.close("the server is ending")
        for _ in range(100):
            if not self.of:
                break
            await pause(self.clock, 0.02)
        for consumer in list(self.of):
            self.leave(consumer, failed=False)
        self.presence.stop()
        try:
            for queue in list(self.queues.values()):
                await self._confirm_written(queue)
                if queue.joined:
                    await self._live(queue, NOBODY)
            await self.core.instances.depart(self.presence.instance)
        except Error as error:
            if self.queues:
                log.warn("not everything could be given back; the others will do it: {error}", error=error)


def _here(queue: Joined) -> set[int]:
    """Numbers of the round-robin elements that consumers have, or had, and that are not confirmed yet."""
    return queue.consumers.held | set(queue.written) | {element.number for element, _ in queue.leased}


def _dealt(queue: Joined) -> set[int]:
    """Numbers of the round-robin elements that came while the queue was joined."""
    dealt = [message for message in queue.heldback if message.kind == b"R" and message.epoch == queue.epoch]
    return {number for message in dealt for number in message.numbers}
