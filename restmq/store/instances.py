"""The calls by which an instance tells Redis of itself and of the queues that it listens to.

Owns the arguments, the replies and the channels of these calls. Knows no consumer. The other half of the store, for
producers and clients that pull, is core.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from restmq.model.element import Element
from restmq.runtime.future import Slot
from restmq.store.greeting import Greeting
from restmq.store.pipeline import Turn, unique_id
from restmq.store.redistime import RedisTime
from restmq.store.replies import settings_in
from restmq.store.timers import Timers


class Listening(NamedTuple):
    """The consumers of one queue in one instance.

    `ready` is how many take elements, `room` how many elements they may hold in all, `consumers` how many there are.
    """

    ready: int
    room: int
    consumers: int


NOBODY = Listening(0, 0, 0)


class Seen(NamedTuple):
    """What an instance has seen of a queue. With it Redis notices that it lost data (listen.lua).

    `number` and `position` are the highest that were seen. `data_id` is the id of the data in Redis at that time.
    """

    epoch: bytes
    number: int
    position: int
    settings: dict[str, str]
    data_id: bytes


class ListenReply(NamedTuple):
    """The answer of Redis to an instance that listens to a queue."""

    epoch: bytes
    position: int
    number: int
    policy: bytes
    settings: dict[str, str]


class Confirmed(NamedTuple):
    """Elements of a queue that sockets of an instance have taken since the last confirmation (confirm.lua).

    - `position`: all broadcasts up to it were taken.
    - `ready_after`: some consumer is ready for what comes after this position, though another may be stuck before it.
    - `written`: numbers of round-robin elements that were taken.
    - `leased`: number and ms of those that a consumer leases now.
    """

    position: int
    ready_after: int
    written: Sequence[int]
    leased: Sequence[tuple[int, int]]


class History(NamedTuple):
    """A page of a queue's history of broadcasts (replay.lua).

    The page goes from position `start` to `end`; the history goes on to `position`. `floor` is the position before the
    first broadcast that is kept. Each element comes with its position.
    """

    epoch: bytes
    position: int
    floor: int
    start: int
    end: int
    elements: list[tuple[int, Element]]


def queue_of(channel: bytes) -> bytes:
    """The queue that a channel belongs to: restmq:{NAME}:…"""
    return channel[8 : channel.index(b"}:")]


class Instances:
    """The calls of one instance. Each takes the instance's id, which changes when the others give the instance up.

    All of them raise errors.Unavailable while Redis is away or slower than the deadline.
    """

    def __init__(self, turn: Turn, context: bytes, timers: Timers, time: RedisTime, greeting: Greeting) -> None:
        self._turn, self._redis, self._context, self._timers = turn, turn.redis, context, timers
        self._time, self._greeting = time, greeting

    # -- itself

    async def beat(self, instance: bytes, new: bool, lasts_ms: int) -> tuple[bool, list[bytes]]:
        """Tell Redis that this instance is alive for `lasts_ms` more (beat.lua).

        Answers whether it may go on, and the ids of dead instances that it should reap.
        """
        keys = [b"restmq:{inst}:" + name for name in (b"alive", b"doomed", b"last", b"libraries")]
        loader = self._turn.loader
        if new:
            loader.list_libraries()
        found, loader.libraries_found = loader.libraries_found, []
        asked = self._time.now()
        words = (instance, b"1" if new else b"0", b"%d" % lasts_ms, self._greeting.run_id, loader.name, *found)
        now, verdict, many, *names = await self._turn.call_now("beat", keys, *words)
        self._time.learn(now, asked)
        loader.delete(names[many:])
        return verdict != b"doomed", names[:many]

    def note(self, instance: bytes, queue: bytes) -> Slot[object]:
        """Enter a queue in the set of those that it listens to, so that the others can reap it there (note.lua)."""
        return self._turn.call_now("note", [b"restmq:{inst}:q:" + instance], queue)

    async def unnote(self, instance: bytes, queue: bytes) -> None:
        """Take a queue out of that set (SREM)."""
        await self._redis.call(b"SREM", b"restmq:{inst}:q:" + instance, queue)

    async def depart(self, instance: bytes) -> None:
        """The instance ends and holds nothing more, so that no other needs to reap it."""
        await self.reap(instance)
        await self._redis.call(b"ZREM", b"restmq:{inst}:alive", instance)

    async def reap(self, dead: bytes, queues: Iterable[bytes] = ()) -> None:
        """Take a dead instance out of all its queues, and out of those named; others get what it held (reap.lua)."""
        key = b"restmq:{inst}:q:" + dead
        for queue in {*await self._redis.call(b"SMEMBERS", key), *queues}:
            while await self._turn.call("reap", queue, self._context, dead, b"1"):
                pass
        await self._redis.call(b"DEL", key)
        await self._redis.call(b"ZREM", b"restmq:{inst}:doomed", dead)

    # -- a queue that it listens to

    def channel(self, queue: bytes, kind: bytes, instance: bytes) -> bytes:
        """The name of a queue's channel. `kind`: c broadcasts, t adds, i messages for this instance alone."""
        suffix = b":" + instance if kind == b"i" else b""
        return b"restmq:{%b}:%b%d%b" % (queue, kind, self._redis.dbid or 0, suffix)

    async def listen(
        self, queue: bytes, instance: bytes, listening: Listening, confirmed: int, seen: Seen, untaken: int = 0
    ) -> ListenReply:
        """Say how many consumers listen (listen.lua). The instance joins with the first, and leaves with a count of 0.

        `confirmed` is the position up to which broadcasts are confirmed. No consumer here will take the broadcasts up
        to `untaken`. Raises errors.Unavailable also when the others gave the instance up.
        """
        settings = json.dumps(seen.settings).encode()
        other_data = b"0" if seen.data_id in (b"", self._greeting.data_id) else b"1"
        numbers = (*listening, confirmed)
        known = (seen.epoch, b"%d" % seen.number, b"%d" % seen.position, settings)
        words = (*(b"%d" % one for one in numbers), *known, unique_id(), other_data, b"%d" % untaken)
        reply = await self._turn.call("listen", queue, self._context, instance, *words)
        epoch, position, number, policy, due, own = reply
        self._timers.on_due_in(queue, due)
        return ListenReply(epoch, position, number, policy, settings_in(own))

    async def confirm(self, queue: bytes, instance: bytes, epoch: bytes, listening: Listening, done: Confirmed) -> None:
        """Say which elements the sockets took. This opens the window for the next ones (confirm.lua)."""
        if done.leased:  # before the call: its answer may be lost
            self._timers.schedule(queue, min(ms for _, ms in done.leased))
        leases = [b"%d" % part for pair in done.leased for part in pair]
        numbers = [b"%d" % number for number in done.written]
        state = b"%d %d %d %d" % (*listening, done.ready_after)
        words = (epoch, b"%d" % done.position, state, b"%d" % len(numbers), *numbers, *leases)
        self._timers.on_due_in(queue, await self._turn.call("confirm", queue, self._context, instance, *words))

    def give_back(self, queue: bytes, instance: bytes, epoch: bytes, numbers: Sequence[int]) -> Slot[object]:
        """Give round-robin elements that no consumer here takes to other instances (give_back.lua)."""
        words = [b"%d" % number for number in numbers]
        return self._turn.call("give_back", queue, self._context, instance, epoch, *words)

    async def held_by(self, queue: bytes, instance: bytes) -> frozenset[int]:
        """Numbers of the round-robin elements that, for Redis, are in flight to this instance (SSCAN)."""
        key = b"restmq:{%b}:way:%b" % (queue, instance)
        return frozenset(map(int, await self._redis.scan(b"SSCAN", key)))

    def tap(self, queue: bytes, instance: bytes, on: bool) -> Slot[object]:
        """Begin or stop to see each element that is added (tap.lua)."""
        return self._turn.call("tap", queue, self._context, instance, b"1" if on else b"0")

    async def history(self, queue: bytes, what: str, which: int = 0, most: int = 500, size: int = 1 << 20) -> History:
        """Read a page of history: `most` elements, or as many as have `size` bytes of values (replay.lua).

        `what` and `which` say where it begins:
        - after a position (after), or at a key (key)
        - with the last so many (last), or so many ms ago (ago)
        - at the first that is kept (all), or at the end (now)
        """
        words = (what.encode(), b"%d" % which, b"%d" % most, unique_id(), b"%d" % size)
        epoch, position, floor, start, end, *rest = await self._turn.call("replay", queue, self._context, *words)
        elements = [
            (int(place), Element(queue, int(number), value, 0, 0, epoch))
            for place, number, value in zip(rest[::3], rest[1::3], rest[2::3])
        ]
        return History(epoch, position, floor, start, end, elements)

    async def taken_back(self, queue: bytes) -> list[tuple[int, int]]:
        """First and last positions of broadcasts that were taken back because nobody confirmed them (LRANGE)."""
        ranges = await self._redis.call(b"LRANGE", b"restmq:{%b}:void" % queue, b"0", b"-1")
        return [(int(first), int(last)) for first, last in (entry.split(b" ") for entry in ranges)]
