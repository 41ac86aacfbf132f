"""Core: the calls of producers, and of clients that pull.

One method stands for one verb, and one verb is one function in Redis. All calls of a turn of the reactor share one
round trip. Owns the arguments of each verb and the meaning of its reply. Knows neither HTTP nor live consumers.
store/settings.py has the settings of a queue, store/inspection.py the calls that only look, store/instances.py the
calls of instances. Read store/pipeline.py next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from restmq.model.element import Element, Lease
from restmq.model.errors import Error, Full, LeaseLost
from restmq.runtime.future import Slot, begun, pause
from restmq.runtime.unread_answers import Answers
from restmq.store import replies
from restmq.store.connection import Redis, Reply, info
from restmq.store.greeting import Greeting
from restmq.store.inspection import Inspection
from restmq.store.instances import Instances
from restmq.store.known import KnownQueues
from restmq.store.library import context
from restmq.store.pipeline import MERGED, Call, Turn, copy_of, refusal, unique_id
from restmq.store.requests import Added, Nack, Waiter
from restmq.store.settings import QueueSettings
from restmq.store.timers import CHECK_AFTER, Timers

UNREAD_BYTES = 64 << 20  # bytes of answers that may be unread, unless restmq.conf says another number
ANSWER_BYTES = 1 << 20  # bytes of values in one answer
RETRY_FOR, RETRY_EVERY = 60.0, 0.3  # seconds for which what must not be lost is asked again, and between two tries


class Core:
    """The queues. Every method answers a Slot or a coroutine; names and values are bytes.

    All of them raise errors.Unavailable while Redis is away or slower than the deadline. An add also raises Full,
    QueueFull and Stopped. Methods that hand out elements also raise Stopped.
    """

    def __init__(self, redis: Redis, clock: IReactorTime, defaults: Mapping[str, object] | None = None) -> None:
        """`defaults` are the settings of queues that restmq.conf says."""
        self.redis, self.clock = redis, clock
        self.redis_name = redis.name
        self.context = context(redis.dbid or 0, defaults)
        self.turn = Turn(redis, clock)
        self._call = self.turn.call
        self.answers = Answers(UNREAD_BYTES)
        self.timers = Timers(self.turn, self.context, clock)
        self.on_link_up: Callable[[], None] = lambda: None  # the link for commands came up
        self._link_ups = 0
        self.greeting = Greeting(redis, clock, self.turn.loader)
        self.time = self.greeting.time
        idle_ttl = int(str((defaults or {}).get("idle_ttl", 0)))  # ms
        self.known = KnownQueues(self.turn, self.context, self.timers, self.greeting, idle_ttl)
        self._note_number = self.known.note_number
        self.instances = Instances(self.turn, self.context, self.timers, self.time, self.greeting)
        self.settings = QueueSettings(self.turn, self.context, self.timers, self.known)
        self.inspection = Inspection(self.turn, self.context, self.call_when_room)
        redis.on_link_up = self._on_link_up

    # -- the link

    @property
    def data_id(self) -> bytes:
        """The id that the data in Redis got when they were new. Other data have another one."""
        return self.greeting.data_id

    @property
    def connected(self) -> bool:
        """Whether the link for commands can be used."""
        return self.redis.connected

    @property
    def unanswered(self) -> int:
        """How many commands Redis has not answered yet."""
        return self.redis.unanswered

    def _on_link_up(self) -> None:
        self.turn.used.clear()
        self._link_ups += 1
        if self._link_ups > 1 or self.greeting.returned:
            self.timers.hold_leases()  # Redis was away, or Redis and this instance were
        self.on_link_up()

    async def ping(self) -> None:
        """Wait until Redis answers a PING."""
        await self.redis.ping()

    async def ready(self) -> list[str]:
        """The reasons why Redis does not serve well, in sentences."""
        return replies.health(info(await self.redis.call(b"INFO"))) + self.time.steps()

    # -- producing

    def add(self, queue: bytes, value: bytes) -> Slot[int]:
        """Store a value; answers its number."""
        slot: Slot[int] = Slot()
        call = self.turn.last(queue, "add")
        if call is not None and len(call.args) < MERGED:
            call.args.append(value)
            call.waiters.append(slot)
            return slot
        if queue not in self.turn.used:
            self.known.register(queue)
        call = self.turn.open("add", queue, self._head(b""), merging=True)
        call.args.append(value)
        call.waiters.append(slot)
        call.on_reply = partial(self._on_added, queue)
        return slot

    def _head(self, options: bytes) -> tuple[bytes, ...]:
        return (self.context, b"%d" % self.time.ms(), options, unique_id())

    def _on_added(self, queue: bytes, call: Call, reply: Reply) -> None:
        number, created = reply[:2]
        refused = dict(zip(reply[4::2], reply[5::2]))
        if created:
            self.known.on_created(queue)
        for place, waiter in enumerate(call.waiters, 1):
            if place in refused:
                waiter.fail(refusal(refused[place].decode()))
            else:
                waiter.resolve(number)
                number += 1
        self._note_number(queue, number - 1)

    async def add_all(
        self,
        queue: bytes,
        values: Sequence[bytes],
        ttl_ms: int = 0,
        delay_ms: int = 0,
        key: bytes = b"",
        window_ms: int = 600_000,
        written: bytes = b"",
        until_ms: int = 0,
    ) -> Added:
        """Store values, all or none.

        With an idempotency `key`, a second add with the same key within `window_ms` stores nothing more. `written` is
        the form in which an earlier RestMQ would have stored that key: with its quotes. `until_ms` replaces the delay:
        a Unix time in ms by Redis' clock.

        Raises Conflict when the key came with other values before. Raises TooLarge when the values alone exceed a bound
        of the queue, and BadOption when `until_ms` is more than 366 days ahead.
        """
        options: dict[str, object] = {"all": 1}
        if ttl_ms:
            options["ttl"] = ttl_ms
        if delay_ms:
            options["delay"] = delay_ms
        if key:
            digest = hashlib.sha256(b"".join(b"%d:%b" % (len(value), value) for value in values)).hexdigest()[:32]
            options.update(key=key.decode("latin-1"), digest=digest, window=window_ms)
            if written not in (b"", key):
                options["written"] = written.decode("latin-1")
        if until_ms:
            options["at"] = until_ms
        if ttl_ms or delay_ms or until_ms:  # only the answer tells how far away `at` is, and it may be lost
            self.timers.schedule(queue, min(ms for ms in (ttl_ms, delay_ms, CHECK_AFTER if until_ms else 0) if ms))
        self.known.register(queue)
        head = self._head(json.dumps(options).encode())
        try:
            reply = await self._call("add", queue, *head, *values)
        except Full:  # Redis refused to run it; an earlier add with the same key is answered all the same
            reply = await self._call("answered", queue, self.context, head[2]) if key else []
            if not reply:
                raise
        first, created, replayed, many, *due_in = reply
        if due_in and due_in[0] >= 0:
            self.timers.schedule(queue, due_in[0])
        if created:
            self.known.on_created(queue)
        self._note_number(queue, first + many - 1)
        return Added(first, many, bool(replayed))

    # -- consuming

    def take(self, queue: bytes) -> Slot[Element | None]:
        """Remove the oldest waiting element and answer it; None when nothing waits. Raises NoRoom too."""
        slot: Slot[Element | None] = Slot()
        call = self.turn.last(queue, "take")
        if call is not None and len(call.waiters) < MERGED:
            call.waiters.append(slot)
            call.head = (self.context, b"%d" % len(call.waiters), b"")
            return slot
        if self.answers.at_once():
            self._open_take(queue, slot, None, None)
        else:
            self.answers.enter().then(partial(self._open_take, queue, slot))
        return slot

    def _open_take(self, queue: bytes, slot: Slot[Element | None], _: object, error: BaseException | None) -> None:
        if error is not None:
            slot.fail(error)
            return
        call = self.turn.open("take", queue, (self.context, b"1", b""), merging=True)
        call.waiters.append(slot)
        call.on_reply, call.on_ended = partial(self._on_taken, queue), self.answers.leave

    def _on_taken(self, queue: bytes, call: Call, reply: Reply) -> None:
        waiters = call.waiters
        more, given = len(reply) % 3, len(reply) // 3
        for at, waiter in enumerate(waiters[:given]):
            number, count, value = reply[3 * at : 3 * at + 3]
            waiter.resolve(Element(queue, int(number), value, int(count)))
        if given:
            self._note_number(queue, int(reply[3 * given - 3]))
        rest = waiters[given:]
        if rest and more:  # the call met a thousand elements that had ended, or brought a MiB: the rest ask again
            call.waiters, call.head = rest, (self.context, b"%d" % len(rest), b"")
            self.answers.enter().then(partial(self._take_again, call))
            return
        for waiter in rest:
            waiter.resolve(None)

    def _take_again(self, call: Call, _: object, error: BaseException | None) -> None:
        if error is None:
            self.turn.post(call)
            return
        for waiter in call.waiters:
            waiter.fail(copy_of(error))

    async def call_when_room(self, patient: bool, name: str, queue: bytes, *words: bytes) -> Reply:
        """Call a verb whose answer may be large, as soon as this instance has room for it.

        Raises NoRoom when clients leave too many answers unread, unless the caller is `patient`.
        """
        await self.answers.enter(patient)
        try:
            return await self._call(name, queue, *words)
        finally:
            self.answers.leave()

    async def take_many(self, queue: bytes, most: int, waiter: Waiter | None = None) -> list[tuple[Element, bytes]]:
        """Remove up to `most` of the oldest, at most 1 MiB of values; each comes with what untake() needs.

        With a waiter, when there is nothing, it stands in the queue's line until its instance is woken. Without one
        it raises NoRoom too.
        """
        options = {"full": 1, "limit": ANSWER_BYTES, **(waiter.options() if waiter else {})}
        while True:
            words = self.context, b"%d" % most, json.dumps(options).encode()
            reply = await self.call_when_room(waiter is not None, "take", queue, *words)
            if not reply:
                return []
            epoch, *words = reply
            taken = [
                (Element(queue, int(words[at]), words[at + 2], int(words[at + 1]), 0, epoch), words[at + 3])
                for at in range(0, len(words) - 3, 4)
            ]
            if taken or len(words) % 4 == 0:
                self._note_number(queue, taken[-1][0].number if taken else 0)
                return taken

    async def untake(self, taken: Iterable[tuple[Element, bytes]]) -> None:
        """Bring back elements that were taken and could not be given to anybody, each to the place of its key.

        Raises Unavailable or Full when Redis has not done it within a minute.
        """
        for slot in [begun(self._untake(element, how)) for element, how in taken]:
            await slot

    async def _untake(self, element: Element, how: bytes) -> None:
        """Ask until Redis answers: this instance has the only copy. Redis does it once, because of the unique id."""
        number, has_ttl = b"%d" % element.number, how.split(b" ", 2)[1] != b"0"
        words, until = (element.epoch, number, element.value, how, unique_id()), self.clock.seconds() + RETRY_FOR
        while True:
            if has_ttl:  # its ttl goes on; a sweep finds out when it ends
                self.timers.schedule(element.queue, CHECK_AFTER)
            try:
                await self._call("untake", element.queue, self.context, *words)
                return
            except Error:
                if self.clock.seconds() > until:
                    raise
            await pause(self.clock, RETRY_EVERY)

    async def unwait(self, queue: bytes, instance: bytes, many: int) -> int:
        """So many GETs of an instance wait no more; answers how many of them had been woken already."""
        woken: int = await self._call("unwait", queue, self.context, instance, b"%d" % many)
        return woken

    async def get(self, queue: bytes) -> Element | bool:
        """Show the oldest waiting element, and count that it was shown.

        True when nothing waits, False when nothing was ever added. Raises NoRoom too.
        """
        while True:
            reply = await self.call_when_room(False, "get", queue, self.context)
            if len(reply) == 3:
                return Element(queue, int(reply[0]), reply[2], reply[1])
            if reply[0] != 2:
                return bool(reply[0])

    async def delete(self, queue: bytes, number: int, lease: Lease | None = None) -> bool:
        """Delete one element wherever it is; False when it is gone.

        With a lease this is an acknowledgement. Raises LeaseLost when that lease does not hold any more.
        """
        words = (b"%d" % lease.deliveries, lease.epoch) if lease else (b"", b"")
        reply = await self._call("del", queue, self.context, b"%d" % number, *words)
        if reply < 0:
            raise _lease_lost(queue, number)
        return bool(reply)

    async def purge(self, queue: bytes, forget: bool = False) -> bool:
        """Empty the queue, or forget it; True when there was something."""
        if forget:  # before the call: an add after it is told that it created the queue, and enters the name again
            self.known.forget(queue)
        had = bool(await self._call("purge", queue, self.context, b"1" if forget else b"0", unique_id()))
        if forget:
            self.known.drop(queue)
        return had

    # -- leases

    async def lease(self, queue: bytes, most: int, ms: int, waiter: Waiter | None = None) -> list[Element]:
        """Lease up to `most` of the oldest for `ms`, at most 1 MiB of values; the waiter is as in take_many()."""
        options = json.dumps({"limit": ANSWER_BYTES, **(waiter.options() if waiter else {})}).encode()
        while True:
            self.timers.schedule(queue, ms)  # before the call: its answer may be lost
            asked = self.context, b"%d" % most, b"%d" % ms, options
            epoch, *words = await self.call_when_room(waiter is not None, "lease", queue, *asked)
            leased = [
                Element(queue, int(words[at]), words[at + 2], int(words[at + 1]), int(words[at + 3]), epoch)
                for at in range(0, len(words) - 3, 4)
            ]
            if leased or len(words) % 4 == 0:
                self._note_number(queue, leased[-1].number if leased else 0)
                return leased

    async def claim_leases(self, queue: bytes, instance: bytes, leases: Sequence[Lease]) -> list[bool]:
        """From now on this instance hears when these leases of its consumers end. False for each that is over."""
        return await self._call_for_leases("claim", queue, leases, instance)

    async def _call_for_leases(self, name: str, queue: bytes, leases: Sequence[Lease], *head: bytes) -> list[bool]:
        slots: list[Slot[Reply]] = []
        done: list[bool] = []
        for at in range(0, len(leases), MERGED):  # all in one write
            words = [
                w for one in leases[at : at + MERGED] for w in (b"%d" % one.number, b"%d" % one.deliveries, one.epoch)
            ]
            slots.append(self._call(name, queue, self.context, *head, *words))
        for slot in slots:
            done += map(bool, await slot)
        return done

    async def ack(self, queue: bytes, leases: Sequence[Lease]) -> list[bool]:
        """Acknowledge: the elements leave the queue. False for each lease that is lost."""
        return await self._call_for_leases("ack", queue, leases)

    async def nack(self, queue: bytes, nacks: Sequence[Nack]) -> list[bool]:
        """Give leases back. False for each that is lost.

        Raises BadOption when a time is too far ahead; then none is given back.
        """
        places = list(range(0, len(nacks), MERGED))
        timed = [one.until_ms or 0 for one in nacks]
        slots: dict[int, Slot[list[int]]] = {}
        answers: dict[int, list[int]] = {}
        # All in one write, except for the part with the farthest time: that goes first and alone. It may be refused.
        places.sort(key=lambda at: -max(timed[at : at + MERGED]))
        for at in places:
            words: list[bytes] = []
            for one in nacks[at : at + MERGED]:
                lease = one.lease
                words += (b"%d" % lease.number, b"%d" % lease.deliveries, lease.epoch, *one.words())
            slots[at] = begun(self._nack(queue, words))
            if at == places[0] and any(timed):
                answers[at] = await slots.pop(at)
        for at, slot in slots.items():
            answers[at] = await slot
        return [one == 1 for at in sorted(answers) for one in answers[at]]

    async def _nack(self, queue: bytes, words: Sequence[bytes]) -> list[int]:
        if b"1" in words[4::6] or not {b"", b"0"}.issuperset(words[3::6]):  # the answer tells what is due: may be lost
            self.timers.schedule(queue, CHECK_AFTER)
        *answers, due_in = await self._call("nack", queue, self.context, *words)
        if due_in >= 0:
            self.timers.schedule(queue, due_in)
        numbers: list[int] = answers
        return numbers

    async def give_back(self, queue: bytes, number: int, lease: Lease | None, nack: Nack) -> bool:
        """Give one element's lease back as `nack` says; with None, the lease that holds now. False when it is gone.

        Raises LeaseLost, and BadOption when the time is too far ahead.
        """
        deliveries, epoch = (b"%d" % lease.deliveries, lease.epoch) if lease else (b"", b"")
        reply = (await self._nack(queue, [b"%d" % number, deliveries, epoch, *nack.words()]))[0]
        if reply == 0:
            raise _lease_lost(queue, number)
        return reply > 0

    async def prolong(self, queue: bytes, number: int, lease: Lease | None, ms: int) -> Lease | None:
        """Prolong a lease and answer it; with None, the lease that holds now. None when the element is gone.

        Raises LeaseLost.
        """
        deliveries, epoch = (b"%d" % lease.deliveries, lease.epoch) if lease else (b"", b"")
        self.timers.schedule(queue, ms)
        reply = await self._call("touch", queue, self.context, b"%d" % number, deliveries, epoch, b"%d" % ms)
        if reply[0] == 0:
            raise _lease_lost(queue, number)
        return Lease(number, int(reply[1]), reply[2]) if reply[0] == 1 else None

    # -- dead elements

    async def kick(self, queue: bytes, many: int, numbers: Sequence[int] = ()) -> list[int]:
        """Let dead elements wait again: the oldest `many`, or with 0 those named. Answers their numbers."""
        if many:
            kicked: list[int] = []
            while many > 0:
                some = await self._call("kick", queue, self.context, b"%d" % min(many, MERGED))
                kicked += map(int, some)
                many -= MERGED
                if len(some) < MERGED:
                    break
            return kicked
        words = [b"%d" % number for number in numbers]
        return [int(number) for number in await self._call("kick", queue, self.context, b"0", *words)]

    async def bury(self, queue: bytes) -> int:
        """Delete all dead elements; answers how many."""
        deleted = 0
        while True:
            some: int = await self._call("bury", queue, self.context)
            deleted += some
            if some < 500:
                return deleted

    # -- the end of what is due, and of this instance

    async def sweep(self) -> int:
        """End what is due; answers in how many queues."""
        return await self.timers.sweep_due()

    def close(self) -> Deferred[Any]:
        """Stop reconnecting and close the link."""
        self.timers.stop()
        answer: Deferred[Any] = self.redis.disconnect()
        return answer


def _lease_lost(queue: bytes, number: int) -> LeaseLost:
    return LeaseLost(
        f"the lease of {queue.decode('utf-8')}:{number} does not hold: it ended or was given back, "
        "and the element waits or is somebody else's"
    )
