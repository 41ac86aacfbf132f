"""Core: one method a verb, one function each, one Redis round trip for all of a turn.

Owns what a verb asks of its function and what the reply means, the registry of
names, and what this instance knows of the queues it used; knows nothing of HTTP,
nor that anybody listens. Read lua/lib/keys.lua for the keyspace, delivery/presence.py next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.model.element import Element, Lease
from restmq.model.errors import Error, Full, LeaseLost
from restmq.model.settings import DEFAULTS
from restmq.runtime.answers import Answers
from restmq.runtime.future import Slot, begun, pause
from restmq.store import replies as books
from restmq.store.connection import Redis, Reply, info
from restmq.store.greeting import Greeting
from restmq.store.instances import Instances
from restmq.store.library import context
from restmq.store.pipeline import MERGED, REMEMBERED, Call, Turn, another, refusal, word
from restmq.store.timers import Due

ANSWERS = 64 << 20  # bytes of answers that may be unread, unless somebody says otherwise
LIMIT = 1 << 20  # bytes of values in one answer
LOOK = 1000  # ms until a queue is looked at of which the reply alone tells when something is due
INSIST, AGAIN = 60.0, 0.3  # seconds for which what must not be lost is asked again, and between two tries
_NAMES = b"restmq:names"

log = Logger()


class Added(NamedTuple):
    """What an add with options answers: the first number, how many, and whether an earlier add is answered again."""

    first: int
    many: int
    replayed: bool


class Waiter(NamedTuple):
    """A GET that would wait: its instance, and whether it was woken in vain, and so keeps its place."""

    instance: bytes
    first: bool = False


class Nack(NamedTuple):
    """A lease that is given back: after `delay_ms` or what the rules say, after a try that failed for a reason.

    `until_ms` is a Unix time in ms by Redis' clock, in place of a delay; `dead` puts the element aside.
    """

    lease: Lease
    delay_ms: int | None = None
    failed: bool = False
    reason: bytes = b""
    until_ms: int | None = None
    dead: bool = False

    def words(self) -> tuple[bytes, ...]:
        """When it waits again, whether the try failed, and why, as nack.lua has them."""
        when = b"" if self.delay_ms is None else b"%d" % self.delay_ms
        if self.until_ms is not None:
            when = b"@%d" % self.until_ms
        return b"dead" if self.dead else when, b"1" if self.failed else b"0", self.reason


class _Known:
    """What this instance has seen of a queue, so that a Redis that came back with less is noticed."""

    __slots__ = ("birthword", "epoch", "number", "settings")

    def __init__(self, birthword: bytes) -> None:
        self.birthword, self.epoch, self.number = birthword, b"", 0
        self.settings: dict[str, str] = {}


class Core:
    """The queues. Every method answers a Slot or a coroutine; names and values are bytes.

    Any of them raises errors.Unavailable while Redis is away or slower than the
    deadline, add also errors.Full and QueueFull, add and what hands out Stopped.
    """

    def __init__(self, redis: Redis, clock: IReactorTime, defaults: Mapping[str, object] | None = None) -> None:
        self.redis, self.clock = redis, clock
        self.redis_name = redis.name
        self.context = context(redis.dbid or 0, defaults)
        self.turn = Turn(redis, clock)
        self.turn.first = self._first_use
        self._call = self.turn.call
        self.answers = Answers(ANSWERS)
        self.due = Due(self.turn, self.context, clock)
        self.due.forgotten = self._forgotten
        self.joined: Callable[[], None] = lambda: None
        self._idle = int(str((defaults or {}).get("idle_ttl", 0)))  # ms
        self.known: dict[bytes, _Known] = {}
        self._times_up = 0
        self.greeting = Greeting(redis, clock, self.turn.loaded)
        self.time = self.greeting.time
        self.instances = Instances(self.turn, self.context, self.due, self.time, self.greeting)
        redis.up = self._up

    @property
    def birthword(self) -> bytes:
        """The word that the data in Redis was given when they were new: other data have another one."""
        return self.greeting.birthword

    # -- the link

    def _up(self) -> None:
        self.turn.touched.clear()
        self._times_up += 1
        if self._times_up > 1 or self.greeting.returned:
            self.due.quiet()  # it was away, or both of us were
        self.joined()

    # -- the registry, and what was seen

    def _first_use(self, queue: bytes) -> None:
        """The first call for a queue over this connection: tell what was known of it, learn its epoch."""
        known = self.known.get(queue)
        if known is None:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            known = self.known[queue] = _Known(self.birthword)
        reborn = b"1" if known.birthword != self.birthword else b"0"
        settings = json.dumps(known.settings).encode()
        self.turn.call("seen", queue, self.context, known.epoch, b"%d" % known.number, settings, word(), reborn).then(
            lambda reply, error: self._seen(queue, reply, error)
        )

    def _seen(self, queue: bytes, reply: Reply, error: BaseException | None) -> None:
        known = self.known.get(queue)
        if error is not None:
            self.turn.touched.discard(queue)
            return
        epoch, due, *settings = reply
        self.due.told(queue, due)  # whoever made that timer may have died before it was noted
        if known is not None:
            known.birthword, known.settings = self.birthword, books.settings_in(settings)
            if epoch != known.epoch:
                if known.epoch and known.number:  # else nothing was in it, and its epoch went with who heard it
                    log.warn("queue {queue} has another epoch now", queue=queue.decode("utf-8"))
                    known.number = 0
                known.epoch = epoch or b""

    def _saw(self, queue: bytes, number: int) -> None:
        """A number was given, or taken. At the first one the epoch is asked for: the queue may have been born since."""
        known = self.known.get(queue)
        if known is not None and number > known.number:
            first, known.number = not known.number, number
            if first or not known.epoch:
                self._first_use(queue)

    def _register(self, queue: bytes) -> None:
        """The registry is a hint: entered before the call that needs it, in the same write."""
        self.turn.hint(b"ZADD", _NAMES, b"0", queue)

    def _born(self, queue: bytes) -> None:
        self._register(queue)
        if self._idle:  # restmq.conf's, which holds from the birth
            self.due.soon(queue, self._idle)

    def _forgotten(self, queue: bytes) -> None:
        self.known.pop(queue, None)
        self.turn.touched.discard(queue)
        self.turn.hint(b"ZREM", _NAMES, queue)

    # -- producing

    def add(self, queue: bytes, value: bytes) -> Slot[int]:
        """Store a value; answers its number."""
        slot: Slot[int] = Slot()
        call = self.turn.last(queue, "add")
        if call is not None and len(call.args) < MERGED:
            call.args.append(value)
            call.waiters.append(slot)
            return slot
        if queue not in self.turn.touched:
            self._register(queue)
        call = self.turn.open("add", queue, self._head(b""), merging=True)
        call.args.append(value)
        call.waiters.append(slot)
        call.done = partial(self._added, queue)
        return slot

    def _head(self, options: bytes) -> tuple[bytes, ...]:
        return (self.context, b"%d" % self.time.ms(), options, word())

    def _added(self, queue: bytes, call: Call, reply: Reply) -> None:
        number, newborn = reply[:2]
        refused = dict(zip(reply[4::2], reply[5::2]))
        if newborn:
            self._born(queue)
        for place, waiter in enumerate(call.waiters, 1):
            if place in refused:
                waiter.fail(refusal(refused[place].decode()))
            else:
                waiter.resolve(number)
                number += 1
        self._saw(queue, number - 1)

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
        """Store values, all or none. With an idempotency `key`, the same key within `window_ms` stores nothing more.

        `until_ms` is a Unix time in ms by Redis' clock, in place of a delay: BadOption when it is over 366
        days ahead. `written` is how an earlier RestMQ would have stored that key: with its quotes.

        Raises Conflict when the key came with other values before, TooLarge when they are over a bound by themselves.
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
        if ttl_ms or delay_ms or until_ms:  # for `at`, as in _nack()
            self.due.soon(queue, min(ms for ms in (ttl_ms, delay_ms, LOOK if until_ms else 0) if ms))
        self._register(queue)
        head = self._head(json.dumps(options).encode())
        try:
            reply = await self._call("add", queue, *head, *values)
        except Full:  # Redis refused it unread: the same key still answers the same
            reply = await self._call("answered", queue, self.context, head[2]) if key else []
            if not reply:
                raise
        first, newborn, replayed, many, *due = reply
        if due and due[0] >= 0:
            self.due.soon(queue, due[0])
        if newborn:
            self._born(queue)
        self._saw(queue, first + many - 1)
        return Added(first, many, bool(replayed))

    # -- consuming

    def take(self, queue: bytes) -> Slot[Element | None]:
        """Remove the oldest waiting element and answer it; None when nothing waits."""
        slot: Slot[Element | None] = Slot()
        call = self.turn.last(queue, "take")
        if call is not None and len(call.waiters) < MERGED:
            call.waiters.append(slot)
            call.head = (self.context, b"%d" % len(call.waiters), b"")
            return slot
        if self.answers.at_once():
            self._ask_take(queue, slot, None, None)
        else:
            self.answers.enter().then(partial(self._ask_take, queue, slot))
        return slot

    def _ask_take(self, queue: bytes, slot: Slot[Element | None], _: object, error: BaseException | None) -> None:
        if error is not None:
            slot.fail(error)
            return
        call = self.turn.open("take", queue, (self.context, b"1", b""), merging=True)
        call.waiters.append(slot)
        call.done, call.ended = partial(self._taken, queue), self.answers.leave

    def _taken(self, queue: bytes, call: Call, reply: Reply) -> None:
        waiters = call.waiters
        more, given = len(reply) % 3, len(reply) // 3
        for at, waiter in enumerate(waiters[:given]):
            number, count, value = reply[3 * at : 3 * at + 3]
            waiter.resolve(Element(queue, int(number), value, int(count)))
        if given:
            self._saw(queue, int(reply[3 * given - 3]))
        rest = waiters[given:]
        if rest and more:  # it met a thousand that had ended, or brought a MiB: the rest ask again
            call.waiters, call.head = rest, (self.context, b"%d" % len(rest), b"")
            self.answers.enter().then(partial(self._ask_again, call))
            return
        for waiter in rest:
            waiter.resolve(None)

    def _ask_again(self, call: Call, _: object, error: BaseException | None) -> None:
        if error is None:
            self.turn.post(call)
            return
        for waiter in call.waiters:
            waiter.fail(another(error))

    async def _bring(self, patient: bool, name: str, queue: bytes, *words: bytes) -> Reply:
        """Ask for what may be much. Raises Crowded when clients leave too much unread, unless one is `patient`."""
        await self.answers.enter(patient)
        try:
            return await self._call(name, queue, *words)
        finally:
            self.answers.leave()

    async def take_many(self, queue: bytes, most: int, waiter: Waiter | None = None) -> list[tuple[Element, bytes]]:
        """Remove up to `most` of the oldest, at most 1 MiB of values; each with what untake() needs.

        With a waiter, when nothing is there it waits in line for its instance to be woken.
        """
        options = {"full": 1, "limit": LIMIT, **_waiting(waiter)}
        while True:
            words = self.context, b"%d" % most, json.dumps(options).encode()
            reply = await self._bring(waiter is not None, "take", queue, *words)
            if not reply:
                return []
            epoch, *words = reply
            taken = [
                (Element(queue, int(words[at]), words[at + 2], int(words[at + 1]), 0, epoch), words[at + 3])
                for at in range(0, len(words) - 3, 4)
            ]
            if taken or len(words) % 4 == 0:
                self._saw(queue, taken[-1][0].number if taken else 0)
                return taken

    async def untake(self, taken: Iterable[tuple[Element, bytes]]) -> None:
        """Bring back what was taken and could not be given to anybody; each stands at its key's place.

        Raises Unavailable or Full when Redis did not answer that for a minute.
        """
        for slot in [begun(self._untake(element, how)) for element, how in taken]:
            await slot

    async def _untake(self, element: Element, how: bytes) -> None:
        """Ask until it is answered, for nothing else is left of it; the word keeps it from being done twice."""
        number, mortal = b"%d" % element.number, how.split(b" ", 2)[1] != b"0"
        words, until = (element.epoch, number, element.value, how, word()), self.clock.seconds() + INSIST
        while True:
            if mortal:  # its ttl goes on; when it ends the sweep tells
                self.due.soon(element.queue, LOOK)
            try:
                await self._call("untake", element.queue, self.context, *words)
                return
            except Error:
                if self.clock.seconds() > until:
                    raise
            await pause(self.clock, AGAIN)

    async def unwait(self, queue: bytes, instance: bytes, many: int) -> int:
        """GETs of an instance wait no more; answers how many of them had been woken already."""
        woken: int = await self._call("unwait", queue, self.context, instance, b"%d" % many)
        return woken

    async def get(self, queue: bytes) -> Element | bool:
        """Show the next element and count it; True when nothing waits, False when never added to."""
        while True:
            reply = await self._bring(False, "get", queue, self.context)
            if len(reply) == 3:
                return Element(queue, int(reply[0]), reply[2], reply[1])
            if reply[0] != 2:
                return bool(reply[0])

    async def delete(self, queue: bytes, number: int, lease: Lease | None = None) -> bool:
        """Delete one element wherever it is; False when it is gone.

        With a lease it is acknowledged. Raises LeaseLost when that does not hold any more.
        """
        words = (b"%d" % lease.deliveries, lease.epoch) if lease else (b"", b"")
        reply = await self._call("del", queue, self.context, b"%d" % number, *words)
        if reply < 0:
            raise _lost(queue, number)
        return bool(reply)

    async def purge(self, queue: bytes, forget: bool = False) -> bool:
        """Empty the queue, or forget it; True when there was something."""
        if forget:  # before the call: whoever adds after it is told of the birth, and enters the name again
            self._forgotten(queue)
        had = bool(await self._call("purge", queue, self.context, b"1" if forget else b"0", word()))
        if forget:
            self.known.pop(queue, None)
            self.turn.touched.discard(queue)
        return had

    # -- leases

    async def lease(self, queue: bytes, most: int, ms: int, waiter: Waiter | None = None) -> list[Element]:
        """Lease up to `most` of the oldest for `ms`, at most 1 MiB of values; see take_many() for the waiter."""
        options = json.dumps({"limit": LIMIT, **_waiting(waiter)}).encode()
        while True:
            self.due.soon(queue, ms)  # before the call: its answer may be lost
            asked = self.context, b"%d" % most, b"%d" % ms, options
            epoch, *words = await self._bring(waiter is not None, "lease", queue, *asked)
            leased = [
                Element(queue, int(words[at]), words[at + 2], int(words[at + 1]), int(words[at + 3]), epoch)
                for at in range(0, len(words) - 3, 4)
            ]
            if leased or len(words) % 4 == 0:
                self._saw(queue, leased[-1].number if leased else 0)
                return leased

    async def mine(self, queue: bytes, instance: bytes, leases: Sequence[Lease]) -> list[bool]:
        """An instance hears from now on when these leases of its consumers end. False for each that is over."""
        return await self._leases("mine", queue, leases, instance)

    async def _leases(self, name: str, queue: bytes, leases: Sequence[Lease], *head: bytes) -> list[bool]:
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
        """Acknowledge: these elements are done with. False for each lease that is lost."""
        return await self._leases("ack", queue, leases)

    async def nack(self, queue: bytes, nacks: Sequence[Nack]) -> list[bool]:
        """Give leases back. False for each that is lost. Raises BadOption, with none given back, for a time too far."""
        places = list(range(0, len(nacks), MERGED))
        timed = [one.until_ms or 0 for one in nacks]
        slots: dict[int, Slot[list[int]]] = {}
        answers: dict[int, list[int]] = {}
        # In one write; but the part with the time that is farthest goes first, and alone, for it may be refused.
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
        if b"1" in words[4::6] or not {b"", b"0"}.issuperset(words[3::6]):  # the answer, which tells, may be lost
            self.due.soon(queue, LOOK)
        *replies, due = await self._call("nack", queue, self.context, *words)
        if due >= 0:
            self.due.soon(queue, due)
        answers: list[int] = replies
        return answers

    async def giveback(self, queue: bytes, number: int, lease: Lease | None, nack: Nack) -> bool:
        """Give one element's lease back as `nack` says, or with None whichever holds; False when the element is gone.

        Raises LeaseLost, and BadOption for a time that is too far.
        """
        D, epoch = (b"%d" % lease.deliveries, lease.epoch) if lease else (b"", b"")
        reply = (await self._nack(queue, [b"%d" % number, D, epoch, *nack.words()]))[0]
        if reply == 0:
            raise _lost(queue, number)
        return reply > 0

    async def prolong(self, queue: bytes, number: int, lease: Lease | None, ms: int) -> Lease | None:
        """Prolong a lease, or with None whichever holds, and answer it; None when the element is gone.

        Raises LeaseLost.
        """
        D, epoch = (b"%d" % lease.deliveries, lease.epoch) if lease else (b"", b"")
        self.due.soon(queue, ms)
        reply = await self._call("touch", queue, self.context, b"%d" % number, D, epoch, b"%d" % ms)
        if reply[0] == 0:
            raise _lost(queue, number)
        return Lease(number, int(reply[1]), reply[2]) if reply[0] == 1 else None

    async def kick(self, queue: bytes, many: int, numbers: Sequence[int] = ()) -> list[int]:
        """Dead elements wait again: the oldest `many`, or with 0 those named; answers which."""
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

    # -- settings, policy, flow

    async def policy(self, queue: bytes) -> str:
        """How the queue's elements are dealt to live consumers: broadcast or roundrobin."""
        return "roundrobin" if (await self._call("look", queue, self.context))[14] else "broadcast"

    async def set_policy(self, queue: bytes, policy: str) -> None:
        """Set the policy for every element added from now on."""
        await self.set(queue, {"policy": policy})

    async def set(self, queue: bytes, settings: Mapping[str, str]) -> None:
        """Change settings (model/settings.py has their names); "" takes one back to what restmq.conf says."""
        self._register(queue)
        words = [text.encode() for pair in settings.items() for text in pair]
        if settings.get("idle_ttl"):
            self.due.soon(queue, LOOK)  # as in _nack()
        due, *told = await self._call("set", queue, self.context, word(), *words)
        if due >= 0:
            self.due.soon(queue, due)
        known = self.known.get(queue)
        if known is not None:
            known.settings = books.settings_in(told)
            if not known.epoch:  # this was its first use
                self._first_use(queue)

    async def settings(self, queue: bytes) -> dict[str, str]:
        """What this queue was told to do otherwise than restmq.conf says: name -> text."""
        names = [name.encode() for name in DEFAULTS]
        told = await self.redis.call(b"HMGET", b"restmq:{%b}:a" % queue, *names)
        return {name.decode(): text.decode() for name, text in zip(names, told) if text is not None}

    async def status(self, queue: bytes) -> int:
        """1 while elements flow to live consumers, 0 while they are stopped."""
        return int((await self._call("look", queue, self.context))[13])

    async def set_status(self, queue: bytes, started: bool, scopes: Sequence[str] = ("live",), ms: int = 0) -> None:
        """Start or stop flows: live, pull, add; a stop ends by itself after `ms`, 0 for never."""
        self._register(queue)
        if ms:
            self.due.soon(queue, ms)
        words = [scope.encode() for scope in scopes]
        await self._call("flow", queue, self.context, b"0" if started else b"1", b"%d" % ms, *words)

    async def stops(self, queue: bytes) -> dict[str, float | None]:
        """Which flows are stopped, and for how many seconds more; None is until they are started."""
        stops = await self._call("stops", queue, self.context)
        return {scope.decode(): left / 1000 if left >= 0 else None for scope, left in zip(stops[::2], stops[1::2])}

    # -- looking

    async def ledger(self, queue: bytes) -> dict[str, int]:
        """The queue's books: `added` is the sum of all the others but `bytes`; `imbalance` is what is off."""
        return books.ledger(await self._call("look", queue, self.context))

    async def stats(self, queue: bytes) -> dict[str, object]:
        """What /stats shows of one queue."""
        return books.stats(queue, await self._call("look", queue, self.context))

    async def newest(self, queue: bytes, most: int = 10) -> list[Element]:
        """The newest waiting elements, newest first, untouched."""
        reply = await self._bring(False, "newest", queue, self.context, b"%d" % most)
        return [Element(queue, int(reply[at]), reply[at + 2], int(reply[at + 1])) for at in range(0, len(reply), 3)]

    async def peek(self, queue: bytes, state: str, after: int, most: int) -> list[books.Peeked] | None:
        """Look at elements in a state (waiting, leased, delayed, dead, history); None when `after` is not in it.

        Waiting and dead come in the order of keys, leased and delayed in that of their time (behind them,
        by keys, what is on its way), history in that of delivery.
        """
        words = [state.encode(), b"%d" % after, b"%d" % most]
        reply = await self._bring(False, "peek", queue, self.context, *words)
        while len(reply) == 2:  # not found yet: it is searched for a thousand a call
            reply = await self._call("peek", queue, self.context, *words, reply[1])
        if state == "leased" and len(reply) < 8 * most:
            way = sorted({int(word) for word in (await self.redis.scan(b"HSCAN", b"restmq:{%b}:y" % queue))[::2]})
            if reply == [b"?"] and after in way:
                reply, way = [], way[way.index(after) + 1 :]
            while reply != [b"?"] and way and len(reply) < 8 * most:
                some, way = way[:most], way[most:]
                words = [b"way", b"0", b"%d" % most, *(b"%d" % number for number in some)]
                reply = (reply + await self._call("peek", queue, self.context, *words))[: 8 * most]
        return None if reply == [b"?"] else books.peeked(queue, reply)

    async def look(self, queue: bytes, number: int) -> books.Peeked | None:
        """Look at one element; None when it is gone."""
        found = await self.peek(queue, "one", number, 1)
        return found[0] if found else None

    async def queues(self, after: bytes = b"", match: bytes = b"", max: int = 1000) -> list[bytes]:
        """Names in order of bytes, beyond `after`, that contain `match`, `max` at the most."""
        found: list[bytes] = []
        while len(found) < max:
            low = b"(" + after if after else b"-"
            page = await self.redis.call(b"ZRANGEBYLEX", _NAMES, low, b"+", b"LIMIT", b"0", b"1000")
            found += [name for name in page if match in name]
            if len(page) < 1000:
                break
            after = page[-1]
        return found[:max]

    async def ready(self) -> list[str]:
        """What keeps Redis from serving well, in sentences; raises Unavailable when it does not answer."""
        return books.health(info(await self.redis.call(b"INFO"))) + self.time.steps()

    # -- the end of what is due, and of us

    async def sweep(self) -> int:
        """End what is due; answers in how many queues."""
        return await self.due.look()

    def close(self) -> Deferred[Any]:
        """Stop reconnecting and close the link."""
        self.due.stop()
        answer: Deferred[Any] = self.redis.disconnect()
        return answer


def _lost(queue: bytes, number: int) -> LeaseLost:
    return LeaseLost(
        f"the lease of {queue.decode('utf-8')}:{number} does not hold: it ended or was given back, "
        "and the element waits or is somebody else's"
    )


def _waiting(waiter: Waiter | None) -> dict[str, object]:
    if waiter is None:
        return {}
    named: dict[str, object] = {"instance": waiter.instance.decode()}
    return {**named, "first": 1} if waiter.first else named
