"""Core: one method a verb, one script each, one Redis round trip for all of a turn.

Owns the turn's batch, the deadlines of answers, and the registry of names;
knows nothing of HTTP, nor that anybody listens. What happens in one turn of
the reactor is sent in one write: neighbouring adds (and takes) of a queue are
one script call. Read lua/lib/keys.lua for the keyspace, presence.py next.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq import scripts
from restmq.element import Element
from restmq.errors import Full, Unavailable
from restmq.redis import Link, Redis, Reply, encode, info, named, too_old
from restmq.slot import Slot

LAYOUT = b"1"
MERGED = 500  # values in one script call; Lua's unpack ends at 8,000
_REMEMBERED = 10_000
_NAMES = b"restmq:names"
_DUE = (b"restmq:{due}:at", b"restmq:{due}:claimed")

log = Logger()
Done = Callable[[Reply], None]


class _Call:
    """One script call on its way, or one verb's merged requests waiting for the turn to end."""

    __slots__ = ("args", "before", "core", "done", "failed", "head", "key", "script", "waiters")

    def __init__(
        self, core: Core, script: scripts.Script, key: bytes, head: tuple[bytes, ...], args: list[bytes]
    ) -> None:
        self.core, self.script, self.key, self.head, self.args = core, script, key, head, args
        self.before = b""
        self.waiters: list[Slot[Any]] = []
        self.done: Done = self._single

    def encoded(self, by: bytes = b"EVALSHA") -> bytes:
        name = self.script.sha if by == b"EVALSHA" else self.script.text
        return encode([by, name, b"1", self.key, *self.head, *self.args])

    def _single(self, reply: Reply) -> None:
        self.waiters[0].resolve(reply)

    def replied(self, reply: Reply, error: BaseException | None) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if text.startswith("NOSCRIPT"):  # Redis forgot its scripts: EVAL teaches this one again
                self.core.redis.ask(self.encoded(b"EVAL"), self.replied)
                return
            error = named(text)
        if error is not None:
            for slot in self.waiters:  # an exception each: a shared one gathers every traceback
                slot.fail(error if len(self.waiters) == 1 else _again(error))
            return
        self.done(reply)


def _again(error: BaseException) -> BaseException:
    if isinstance(error, Unavailable):
        return Unavailable(error.text, error.maybe)
    if isinstance(error, Full):
        return Full(error.text)
    return RuntimeError(str(error))


class Core:
    """The queues. Every method answers a Slot or a coroutine; names and values are bytes.

    Any of them raises errors.Unavailable while Redis is away or slower than the
    deadline, add also errors.Full.
    """

    def __init__(
        self,
        redis: Redis,
        clock: IReactorTime,
        history: int = 1000,
        history_bytes: int = 1 << 20,
    ) -> None:
        self.redis, self.clock = redis, clock
        self.redis_name = redis.name
        self.db = b"%d" % (redis.dbid or 0)
        self.scripts = scripts.load(history, history_bytes)
        self.refused: Callable[[str], None] = lambda why: None  # this Redis will never do
        self.joined: Callable[[], None] = lambda: None
        self.birthword = b""
        self._refusal: Reply = None
        self._turn: list[_Call] = []
        self._last: dict[bytes, _Call] = {}
        self._keys: dict[bytes, bytes] = {}
        self._known: set[bytes] = set()
        redis.greet, redis.up = self._greet, self._up

    # -- the link

    def _greet(self, link: Link) -> None:
        """A new connection: is this a Redis for us? Nothing else is asked of it before that is known."""
        if link.usable:
            self._first(link, [b"INFO", b"server"], self._told)

    def _first(self, link: Link, command: list[bytes], done: Callable[[Link, Reply], None] | None = None) -> None:
        def answered(reply: Reply, error: BaseException | None) -> None:
            if done is not None and error is None:  # with an error it is lost, and the next one is greeted
                done(link, reply)

        link.ask(encode(command), answered, self.redis.until())

    def _told(self, link: Link, reply: Reply) -> None:
        if not isinstance(reply, bytes):
            self._not_yet(link, reply)
            return
        why = too_old(info(reply))
        if why:
            self.refused(f"Redis at {self.redis_name}: {why}")
            return
        for script in self.scripts.values():
            self._first(link, [b"SCRIPT", b"LOAD", script.text])
        self._refusal = None
        self._first(link, [b"SET", b"restmq:layout", LAYOUT + b" " + _word(), b"NX"], self._noted)
        self._first(link, [b"GET", b"restmq:layout"], self._layout)

    def _noted(self, link: Link, reply: Reply) -> None:
        self._refusal = reply

    def _layout(self, link: Link, reply: Reply) -> None:
        if not isinstance(reply, bytes):  # loading, or new and not to be written to: full, or a replica
            self._not_yet(link, reply or self._refusal)
            return
        version, _, self.birthword = reply.partition(b" ")
        if version != LAYOUT:
            self.refused(
                f"Redis at {self.redis_name} holds layout {version.decode('utf-8', 'replace')} of restmq: keys, "
                f"this RestMQ knows {LAYOUT.decode()}: nothing was touched"
            )
        else:
            self.redis.admit(link)

    def _not_yet(self, link: Link, why: Reply) -> None:
        """It is up but does not serve: ask it again soon, over the same connection."""
        self.redis.unusable(str(why).rstrip("."))
        self.clock.callLater(0.5, self._greet, link)

    def _up(self) -> None:
        self._known.clear()
        self.joined()

    # -- the turn

    def _key(self, queue: bytes) -> bytes:
        key = self._keys.get(queue)
        if key is None:
            if len(self._keys) >= _REMEMBERED:
                self._keys.clear()
            key = self._keys[queue] = b"restmq:{%b}:m" % queue
        return key

    def _post(self, call: _Call) -> None:
        if not self._turn:
            self.clock.callLater(0, self._flush)
        self._turn.append(call)

    def script(self, name: str, queue: bytes, *args: bytes) -> Slot[Reply]:
        """Call a script for a queue, with this turn's others, in order."""
        call = _Call(self, self.scripts[name], self._key(queue), args, [])
        slot: Slot[Reply] = Slot()
        call.waiters.append(slot)
        self._last.pop(queue, None)
        self._post(call)
        return slot

    def _flush(self) -> None:
        turn, self._turn = self._turn, []
        self._last.clear()
        for call in turn:
            self.redis.ask(call.before + call.encoded(), call.replied)

    def _register(self, queue: bytes) -> bytes:
        """The command that enters a name in the registry; empty when this instance knows it is there."""
        if queue in self._known:
            return b""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known.add(queue)
        return encode([b"ZADD", _NAMES, b"0", queue])

    def _hint(self, command: bytes) -> None:
        """A hint goes out before the script it is for, in the same write; its reply tells nothing."""
        if command:
            self.redis.ask(command, lambda reply, error: None)

    # -- verbs

    def add(self, queue: bytes, value: bytes, ttl_ms: int = 0) -> Slot[int]:
        """Store a value; answers its number. `ttl_ms` 0 means for ever."""
        slot: Slot[int] = Slot()
        call = self._last.get(queue)
        if call is not None and call.script.name == "add" and not ttl_ms and len(call.args) < MERGED:
            call.args.append(value)
            call.waiters.append(slot)
            return slot
        now = int(time.time() * 1000)
        head = (self.db, b"%d" % now, b"%d" % ttl_ms if ttl_ms else b"", _word())
        call = _Call(self, self.scripts["add"], self._key(queue), head, [value])
        call.waiters.append(slot)
        added = call

        def done(reply: Reply) -> None:
            first, newborn = reply
            if newborn:
                self._hint(encode([b"ZADD", _NAMES, b"0", queue]))
            for number, waiter in enumerate(added.waiters, first):
                waiter.resolve(number)

        call.done = done
        hints = self._register(queue)
        if hints:
            self._hint(hints)
        if ttl_ms:
            self._hint(encode([b"ZADD", _DUE[0], b"LT", b"%d" % (now + ttl_ms), queue]))
            self._last.pop(queue, None)
        else:
            self._last[queue] = call
        self._post(call)
        return slot

    def take(self, queue: bytes) -> Slot[Element | None]:
        """Remove the oldest waiting element and answer it; None when nothing waits."""
        slot: Slot[Element | None] = Slot()
        call = self._last.get(queue)
        if call is not None and call.script.name == "take" and len(call.waiters) < MERGED:
            call.waiters.append(slot)
            call.head = (b"%d" % len(call.waiters),)
            return slot
        call = _Call(self, self.scripts["take"], self._key(queue), (b"1",), [])
        call.waiters.append(slot)
        self._last[queue] = taking = call

        def done(reply: Reply) -> None:
            waiters = taking.waiters
            more = len(reply) % 3
            given = len(reply) // 3
            for at, waiter in enumerate(waiters[:given]):
                number, count, value = reply[3 * at : 3 * at + 3]
                waiter.resolve(Element(queue, int(number), value, int(count)))
            rest = waiters[given:]
            if not rest:
                return
            if more:  # it met a thousand that had ended: the rest ask again
                taking.waiters, taking.head = rest, (b"%d" % len(rest),)
                self._post(taking)
                return
            for waiter in rest:
                waiter.resolve(None)

        call.done = done
        self._post(call)
        return slot

    async def get(self, queue: bytes) -> Element | bool:
        """Show the next element and count it; True when nothing waits, False when never added to."""
        while True:
            reply = await self.script("get", queue)
            if len(reply) == 3:
                return Element(queue, int(reply[0]), reply[2], reply[1])
            if reply[0] != 2:
                return bool(reply[0])

    async def delete(self, queue: bytes, number: int) -> bool:
        """Delete one element wherever it is; False when it is gone."""
        return bool(await self.script("del", queue, self.db, b"%d" % number))

    async def purge(self, queue: bytes, forget: bool = False) -> bool:
        """Empty the queue, or forget it; True when there was something."""
        if forget:  # before the script: whoever adds after it is told of the birth, and enters the name again
            self._known.discard(queue)
            self._hint(encode([b"ZREM", _NAMES, queue]))
        return bool(await self.script("purge", queue, b"1" if forget else b"0", _word()))

    async def policy(self, queue: bytes) -> str:
        """How the queue's elements are dealt to live consumers: broadcast or roundrobin."""
        return "roundrobin" if (await self.script("look", queue))[14] else "broadcast"

    async def set_policy(self, queue: bytes, policy: str) -> None:
        """Set the policy for every element added from now on."""
        self._hint(self._register(queue))
        await self.script("set", queue, self.db, b"policy", policy.encode("ascii"))

    async def status(self, queue: bytes) -> int:
        """1 while elements flow to live consumers, 0 while they are stopped."""
        return int((await self.script("look", queue))[13])

    async def set_status(self, queue: bytes, started: bool) -> None:
        """Start or stop the flow to live consumers."""
        self._hint(self._register(queue))
        await self.script("set", queue, self.db, b"stop", b"0" if started else b"1")

    async def ledger(self, queue: bytes) -> dict[str, int]:
        """The queue's books: `added` is the sum of all the others but `bytes`; `imbalance` is what is off."""
        return _books(await self.script("look", queue))

    async def stats(self, queue: bytes) -> dict[str, object]:
        """What /stats shows of one queue."""
        reply = await self.script("look", queue)
        books = _books(reply)
        return {
            "name": queue.decode("utf-8"),
            "len": books["waiting"],
            "status": reply[13],
            "policy": "roundrobin" if reply[14] else "broadcast",
            "consumers": reply[16],
            **{word: books[word] for word in ("added", "leased", "delayed", "dead", "taken", "delivered", "bytes")},
        }

    async def lengths(self, queue: bytes) -> tuple[int, int, int]:
        """How many wait, are delayed, are leased."""
        reply = await self.script("look", queue)
        return reply[1], reply[2], reply[3]

    async def newest(self, queue: bytes, most: int = 10) -> list[Element]:
        """The newest waiting elements, newest first, untouched."""
        reply = await self.script("newest", queue, b"%d" % most)
        return [Element(queue, int(reply[at]), reply[at + 2], int(reply[at + 1])) for at in range(0, len(reply), 3)]

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
        said = info(await self.redis.call(b"INFO"))
        reasons = []
        if said.get("role", "master") not in ("master", "primary"):
            reasons.append("Redis is a replica: it takes no writes")
        if said.get("maxmemory", "0") != "0" and said.get("maxmemory_policy", "noeviction") != "noeviction":
            reasons.append(f"Redis evicts keys ({said['maxmemory_policy']}): set maxmemory-policy noeviction")
        if said.get("aof_enabled") == "0":
            reasons.append("Redis has no append-only file: what was acknowledged since its last snapshot can be lost")
        if said.get("loading") == "1":
            raise Unavailable("Redis is loading its data")
        return reasons

    # -- what is due

    async def sweep(self, most: int = 20) -> int:
        """End what is due in up to `most` queues; answers in how many."""
        names = await self._global("due", _DUE, b"%d" % most)
        for queue in names:
            following = await self.script("sweep", queue, self.db)
            await self._global("done", _DUE, queue, following)
        return len(names)

    def _global(self, name: str, keys: Sequence[bytes], *args: bytes) -> Slot[Reply]:
        """A script outside the queues."""
        return self.redis.call(b"EVAL", self.scripts[name].text, b"%d" % len(keys), *keys, *args)

    def beat(self, instance: bytes, newborn: bool, lasts_ms: int) -> Slot[Reply]:
        """One beat of an instance (beat.lua): [b'ok' or b'doomed', instances to reap…]."""
        keys = [b"restmq:{inst}:alive", b"restmq:{inst}:doomed", b"restmq:{inst}:last"]
        return self._global("beat", keys, instance, b"1" if newborn else b"0", b"%d" % lasts_ms)

    def note(self, instance: bytes, queue: bytes) -> Slot[Reply]:
        """Enter a queue in the set of those an instance listens to, so that it can be reaped."""
        return self._global("note", [b"restmq:{inst}:q:" + instance], queue)

    async def reap(self, dead: bytes) -> None:
        """Take a dead instance out of all its queues; what it held goes to others."""
        key = b"restmq:{inst}:q:" + dead
        for queue in await self.redis.call(b"SMEMBERS", key):
            while await self.script("reap", queue, self.db, dead):
                pass
        await self.redis.call(b"DEL", key)
        await self.redis.call(b"ZREM", b"restmq:{inst}:doomed", dead)

    def close(self) -> Deferred[Any]:
        """Stop reconnecting and close the link."""
        answer: Deferred[Any] = self.redis.disconnect()
        return answer


_random = random.SystemRandom().getrandbits(64)
_words = itertools.count(1)


def _word() -> bytes:
    """A word that no other instance makes: a random one of this process, and a count."""
    return b"%x.%x" % (_random, next(_words))


def _books(reply: Reply) -> dict[str, int]:
    words = [
        "added",
        "waiting",
        "delayed",
        "leased",
        "dead",
        "taken",
        "delivered",
        "acked",
        "deleted",
        "expired",
        "purged",
        "dropped",
        "bytes",
    ]
    books = dict(zip(words, reply))
    books["imbalance"] = 2 * books["added"] - sum(books[word] for word in words[:-1])
    return books
