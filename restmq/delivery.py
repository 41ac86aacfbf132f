"""Delivery: the service that owns each queue's live consumers, and carries elements to them.

Owns joining, handing over, confirming and giving back; knows neither HTTP nor
how Redis is spoken to. What is heard in one turn is written once a consumer;
what the sockets took is confirmed once a queue, two turns later. Read
docs/architecture.md for the protocol, live.py for what a consumer is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.consumers import Batch, Consumer, Consumers
from restmq.core import Core
from restmq.element import Element
from restmq.errors import Error, Unavailable
from restmq.presence import Presence
from restmq.redis import Redis
from restmq.slot import Slot, deferred, drive

AHEAD = 64  # round-robin elements on their way to one ready consumer

log = Logger()


class _Queue:
    """One queue that this instance listens to."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.consumers = Consumers()
        self.joined = False
        self.joining = False
        self.heldback: list[bytes] = []  # messages that came before the join's answer
        self.waiting: list[Slot[None]] = []  # who joins
        self.epoch = b""
        self.position = 0  # highest P heard
        self.highest = 0  # highest N seen
        self.sure = 0  # highest P confirmed
        self.policy = b"broadcast"
        self.told: tuple[int, int, int] = (0, 0, 0)
        self.written: list[int] = []
        self.refused: set[tuple[int, int]] = set()
        self.unheard: list[Batch] = []  # broadcasts that came when nobody was left to hear them


class Delivery(Service):
    """queue -> consumers. Everything it takes over is delivered, given back, or told."""

    def __init__(self, core: Core, messages: Redis, presence: Presence, clock: IReactorTime) -> None:
        self.core, self.messages, self.presence, self.clock = core, messages, presence, clock
        self.queues: dict[bytes, _Queue] = {}
        self.of: dict[Consumer, list[bytes]] = {}
        self._dirty: set[_Queue] = set()
        self._changed: set[_Queue] = set()
        self._confirming = False
        self._fenced: list[tuple[bytes, bytes]] = []
        self._holding = False
        self._closing = False
        self._subscriptions = 0  # how often the message link came up
        self._silent = 0
        messages.heard = self.heard
        messages.up = self._link_up
        core.joined = self._link_up
        presence.alive, presence.doomed = self._release, self._doomed

    # -- who listens

    async def join(self, consumer: Consumer, queues: list[bytes]) -> dict[bytes, tuple[int, bytes]]:
        """Make a consumer hear queues; answers each one's position and epoch. Raises Unavailable."""
        if self._closing:
            raise Unavailable("this instance is ending; connect again")
        self.of[consumer] = queues
        try:
            for name in queues:
                queue = self.queues.get(name)
                if queue is None:
                    queue = self.queues[name] = _Queue(name)
                if not queue.joined:
                    slot: Slot[None] = Slot()
                    queue.waiting.append(slot)
                    self._join(queue)
                    await slot
                if consumer not in self.of:
                    break  # it left while it waited
                queue.consumers.join(consumer)
                unheard, queue.unheard = queue.unheard, []
                for batch in unheard:
                    queue.consumers.everyone(batch)
                self._tell(queue)
        except Error:
            self.leave(consumer)
            raise
        return {name: (self.queues[name].position, self.queues[name].epoch) for name in queues if name in self.queues}

    def leave(self, consumer: Consumer) -> None:
        """A consumer went; what it did not get goes to the next."""
        for name in self.of.pop(consumer, ()):
            queue = self.queues.get(name)
            if queue is None or consumer not in queue.consumers.all:
                continue
            sent, rest = queue.consumers.leave(consumer)
            queue.written += sent
            if rest:
                self._give(queue, rest)
            self._later(queue)
            self._tell(queue)

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

    def _join(self, queue: _Queue) -> None:
        if not queue.joining:
            queue.joining = True
            drive(self._joining(queue), _nothing, partial(self._unjoined, queue))

    def _unjoined(self, queue: _Queue, error: BaseException) -> None:
        queue.joining = False
        if not isinstance(error, Error):
            log.error("joining {queue} failed: {error!r}", queue=queue.name.decode(), error=error)
            error = Unavailable("the queue could not be joined")
        waiting, queue.waiting = queue.waiting, []
        for slot in waiting:
            slot.fail(Unavailable(str(error)))
        if queue.consumers.all:
            self.clock.callLater(0.2, self._again, queue)
        else:
            self.queues.pop(queue.name, None)

    def _again(self, queue: _Queue) -> None:
        if not queue.joined and queue.consumers.all and not self._closing:
            self._join(queue)

    def _channels(self, queue: _Queue) -> tuple[bytes, bytes]:
        prefix = b"restmq:{%b}:" % queue.name
        return prefix + b"c" + self.core.db, prefix + b"i" + self.core.db + b":" + self.presence.instance

    async def _joining(self, queue: _Queue) -> None:
        subscriptions, instance = self._subscriptions, self.presence.instance
        await self.core.note(instance, queue.name)
        for channel in self._channels(queue):
            await self.messages.call(b"SUBSCRIBE", channel)
        known = queue.epoch != b""
        count = max(1, len(queue.consumers))
        ready, stuck = (queue.consumers.ready, queue.consumers.stuck) if queue.consumers.all else (0, 0)
        epoch, position, highest, policy, missing, mine, history, _ = await self._live(
            queue, ready, stuck, count, queue.position if known else None
        )
        if subscriptions != self._subscriptions or instance != self.presence.instance:
            raise Unavailable("the connection to Redis was lost while joining")
        if known and epoch != queue.epoch:
            log.warn(
                "queue {queue} has another epoch: it was forgotten, or Redis lost data",
                queue=queue.name.decode(),
            )
            history, mine, known = [], [], False
            queue.consumers.drop()
        queue.epoch, queue.policy, queue.highest = epoch, policy, max(queue.highest, highest)
        if not known:
            queue.position = queue.sure = position
        if missing:
            log.warn("queue {queue}: more was missed than history keeps", queue=queue.name.decode())
        for at in range(0, len(history), 3):
            if int(history[at]) > queue.position:
                element = Element(queue.name, int(history[at + 1]), history[at + 2])
                self._broadcast(queue, Batch(queue.name, [element], int(history[at]), epoch))
        lost = {int(number) for number in mine} - queue.consumers.held - set(queue.written)
        if lost:  # they were on their way when the connection went
            self._back(queue, sorted(lost))
        queue.joined, queue.joining, queue.told = True, False, (ready, stuck, count)
        waiting, queue.waiting = queue.waiting, []
        for slot in waiting:  # each stands in the list before this returns, and so hears what was held back
            slot.resolve(None)
        heldback, queue.heldback = queue.heldback, []
        for data in heldback:
            self._handle(queue, data)
        self._tell(queue)

    def _live(self, queue: _Queue, ready: int, stuck: int, count: int, after: int | None) -> Slot[Any]:
        return self.core.script(
            "live",
            queue.name,
            self.core.db,
            self.presence.instance,
            b"%d" % ready,
            b"%d" % (ready * AHEAD + stuck),
            b"%d" % count,
            b"%d" % queue.sure,
            queue.epoch,
            b"%d" % queue.highest,
            b"%d" % queue.position,
            b"{}",
            b"" if after is None else b"%d" % after,
            self.presence.instance,
            b"0",
        )

    def _tell(self, queue: _Queue) -> None:
        """Say how many listen: once a turn, in absolute numbers."""
        if queue.joined and queue not in self._changed:
            self._changed.add(queue)
            self.clock.callLater(0, self._telling, queue)

    def _telling(self, queue: _Queue) -> None:
        self._changed.discard(queue)
        numbers = (queue.consumers.ready, queue.consumers.stuck, len(queue.consumers))
        if not queue.joined or numbers == queue.told or queue.waiting:
            return
        queue.told = numbers
        drive(self._said(queue, numbers), _nothing, partial(self._unsaid, queue))

    async def _said(self, queue: _Queue, numbers: tuple[int, int, int]) -> None:
        reply = await self._live(queue, *numbers, None)
        queue.policy = reply[3]
        if numbers[2] == 0:
            queue.unheard.clear()  # the script gave them back, or another instance has heard them
        if numbers[2] == 0 and not queue.consumers.all and not queue.waiting:
            await self._confirm_written(queue)
            if not queue.consumers.all and not queue.waiting and self.queues.get(queue.name) is queue:
                del self.queues[queue.name]
                await self.messages.call(b"UNSUBSCRIBE", *self._channels(queue))

    def _unsaid(self, queue: _Queue, error: BaseException) -> None:
        if not isinstance(error, Error):
            log.error("telling who hears {queue} failed: {error!r}", queue=queue.name.decode(), error=error)
        queue.told = (-1, -1, -1)
        self.clock.callLater(0.3, self._tell, queue)

    # -- the links

    def _link_up(self) -> None:
        if self.messages.link is not None and self.core.redis.link is not None and self.core.birthword:
            self._subscriptions += 1
            self.presence.beat()
            for queue in self.queues.values():
                queue.joined = queue.joining = False
                queue.heldback = []
                self._join(queue)

    def watch(self) -> None:
        """Called every second: a message link that answers no PING for three is given up."""
        link = self.messages.link
        if link is not None:
            self._silent += 1
            if self._silent > 3:
                log.warn("the subscription to Redis went deaf; connecting again")
                self._silent = 0
                link.transport.abortConnection()
                return
            self.messages.ask(b"*1\r\n$4\r\nPING\r\n", self._ponged)

    def _ponged(self, reply: Any, error: BaseException | None) -> None:
        if error is None:
            self._silent = 0

    # -- messages

    def heard(self, channel: bytes, data: bytes) -> None:
        """A message of Redis: R or B, epoch, first position; then N D LENGTH of each; then the values."""
        if not self._holding and self.presence.fenced():
            self._holding = True
            self.presence.beat()
        if self._holding:
            self._fenced.append((channel, data))
            return
        queue = self.queues.get(channel[8 : channel.index(b"}:")])
        if queue is None:
            return
        if queue.joined:
            self._handle(queue, data)
        else:
            queue.heldback.append(data)

    def _handle(self, queue: _Queue, data: bytes) -> None:
        head, sizes, body = data.split(b"\n", 2)
        kind, epoch, first = head.split(b" ")
        if kind not in (b"R", b"B"):
            return
        numbers = list(map(int, sizes.split(b" ")))
        elements, at = [], 0
        for place in range(0, len(numbers), 3):
            number, deliveries, length = numbers[place : place + 3]
            if (number, deliveries) not in queue.refused:
                elements.append(Element(queue.name, number, body[at : at + length]))
            at += length
        queue.highest = max(queue.highest, numbers[-3])
        if epoch != queue.epoch:
            queue.epoch, queue.sure = epoch, 0
        if kind == b"R":
            self._give(queue, elements)
        else:
            skip = max(0, queue.position + 1 - int(first))
            if skip < len(elements):
                self._broadcast(queue, Batch(queue.name, elements[skip:], int(first) + skip, epoch))
        self._later(queue)

    def _broadcast(self, queue: _Queue, batch: Batch) -> None:
        queue.position = batch.first + len(batch.elements) - 1
        if queue.consumers.all:
            queue.consumers.everyone(batch)
        else:  # the last one left just now: nobody heard this, and nobody may confirm it
            queue.unheard.append(batch)

    def _give(self, queue: _Queue, elements: list[Element]) -> None:
        refused = queue.consumers.give(queue.name, elements, queue.epoch)
        if refused:
            self._back(queue, [element.number for element in refused])

    def _back(self, queue: _Queue, numbers: list[int]) -> None:
        words = [b"%d" % number for number in numbers]
        slot = self.core.script("back", queue.name, self.core.db, self.presence.instance, queue.epoch, *words)

        def done(reply: Any, error: BaseException | None) -> None:
            if error is not None and not self._closing:
                self.clock.callLater(0.3, self._back, queue, numbers)

        slot.then(done)

    # -- confirming

    def _later(self, queue: _Queue) -> None:
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
            drive(self._confirm_written(queue), _nothing, partial(self._unconfirmed, queue))
            if queue.consumers.waits():
                self.clock.callLater(0.02, self._later, queue)

    async def _confirm_written(self, queue: _Queue) -> None:
        for consumer in queue.consumers.all:
            queue.written += queue.consumers.settled(consumer)
        sure = queue.consumers.confirmed(queue.sure)
        written, queue.written = queue.written, []
        if not written and sure == queue.sure:
            return
        before, queue.sure = queue.sure, max(queue.sure, sure)
        try:
            for at in range(0, max(len(written), 1), 500):
                await self.core.script(
                    "confirm",
                    queue.name,
                    self.core.db,
                    self.presence.instance,
                    queue.epoch,
                    b"%d" % sure,
                    b"%d" % len(written[at : at + 500]),
                    *(b"%d" % number for number in written[at : at + 500]),
                )
        except Error:
            queue.written += written  # repeated until told: a window that stays full is a deadlock
            queue.sure = min(queue.sure, before)
            queue.consumers.again(sure)
            raise

    def _unconfirmed(self, queue: _Queue, error: BaseException) -> None:
        if not isinstance(error, Error):
            log.error("confirming {queue} failed: {error!r}", queue=queue.name.decode(), error=error)
        if not self._closing:
            self.clock.callLater(0.3, self._later, queue)

    # -- the fence

    def _release(self) -> None:
        """The beat was answered: this instance still owns what it held."""
        if self._holding:
            self._holding = False
            fenced, self._fenced = self._fenced, []
            for channel, data in fenced:
                self.heard(channel, data)
            for queue in list(self._dirty):
                self._later(queue)

    def _doomed(self) -> None:
        """Others have taken over: round-robin elements held here are theirs, broadcasts still go out."""
        self._holding = True
        self.presence.renew()
        for queue in self.queues.values():
            queue.consumers.drop()
            queue.written = []
        drive(self._reborn(), _nothing, self._unborn)

    def _unborn(self, error: BaseException) -> None:
        log.warn("joining again failed, trying once more: {error}", error=error)
        self.clock.callLater(0.3, self._doomed)

    async def _reborn(self) -> None:
        void: dict[bytes, list[tuple[int, int]]] = {}
        for name in list(self.queues):
            ranges = await self.core.redis.call(b"LRANGE", b"restmq:{%b}:void" % name, b"0", b"-1")
            void[name] = [(int(a), int(b)) for a, b in (entry.split(b" ") for entry in ranges)]
        fenced, self._fenced = self._fenced, []
        self._holding = False
        for channel, data in fenced:
            queue = self.queues.get(channel[8 : channel.index(b"}:")])
            if queue is None or data[:1] != b"B":
                continue
            first = int(data.split(b"\n", 1)[0].split(b" ")[2])
            if not any(low <= first <= high for low, high in void.get(queue.name, ())):
                self._handle(queue, data)
        self._link_up()

    # -- ending

    def close(self) -> Deferred[None]:
        """Close every consumer, confirm what their sockets took, give back the rest."""
        return deferred(self._close())

    async def _close(self) -> None:
        self._closing = True
        for consumer in list(self.of):
            consumer.close("the server is ending")
        for _ in range(100):
            if not self.of:
                break
            await _pause(self.clock, 0.02)
        for consumer in list(self.of):
            self.leave(consumer)
        self.presence.stop()
        try:
            for queue in list(self.queues.values()):
                await self._confirm_written(queue)
                if queue.joined:
                    await self._live(queue, 0, 0, 0, None)
                while await self.core.script("reap", queue.name, self.core.db, self.presence.instance):
                    pass
        except Error as error:
            log.warn("not everything could be given back; the others will do it: {error}", error=error)


def _nothing(_: object) -> None:
    """What is to do when all went well."""


def _pause(clock: IReactorTime, seconds: float) -> Slot[None]:
    slot: Slot[None] = Slot()
    clock.callLater(seconds, slot.resolve, None)
    return slot
