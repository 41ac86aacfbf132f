"""What an instance tells Redis of itself and of the queues that it listens to, and what it hears.

Owns the arguments, the replies and the channels of these calls; knows no consumer. The store's other face,
for producers and those who pull, is core.py. Read delivery/presence.py next.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from restmq.model.element import Element
from restmq.runtime.future import Slot
from restmq.store.greeting import Greeting
from restmq.store.pipeline import Turn, word
from restmq.store.redistime import RedisTime
from restmq.store.replies import settings_in
from restmq.store.timers import Due


class Listening(NamedTuple):
    """Of the consumers of an instance: how many take elements of a queue, how many they may hold in all, and how many
    there are."""

    ready: int
    room: int
    consumers: int


NOBODY = Listening(0, 0, 0)


class Seen(NamedTuple):
    """What an instance knows of a queue: with it Redis notices that it holds less than it did (live.lua).

    `number` and `position` are the highest that were seen, `birthword` is that of the data in Redis then.
    """

    epoch: bytes
    number: int
    position: int
    settings: dict[str, str]
    birthword: bytes


class Told(NamedTuple):
    """What Redis answers an instance that listens to a queue."""

    epoch: bytes
    position: int
    number: int
    policy: bytes
    settings: dict[str, str]


class Confirmed(NamedTuple):
    """What the sockets of an instance have taken of a queue since it was said last (confirm.lua).

    Broadcasts up to `position`; up to `out` somebody is ready for more. The numbers of round-robin elements, and
    number and ms of those that are leased now.
    """

    position: int
    out: int
    written: Sequence[int]
    leased: Sequence[tuple[int, int]]


class History(NamedTuple):
    """A page of what a queue broadcast (replay.lua): from `start` to `end` of all that goes to `position`.

    `floor` is the position before the first one that is kept. Each element stands with its position.
    """

    epoch: bytes
    position: int
    floor: int
    start: int
    end: int
    elements: list[tuple[int, Element]]


def queue_of(channel: bytes) -> bytes:
    """The queue that a channel speaks of: restmq:{NAME}:…"""
    return channel[8 : channel.index(b"}:")]


class Instances:
    """The calls of one instance, which each take its name: it gets another one when it was given up.

    All of them raise errors.Unavailable while Redis is away or slower than the deadline.
    """

    def __init__(self, turn: Turn, context: bytes, due: Due, time: RedisTime, greeting: Greeting) -> None:
        self._turn, self._redis, self._context, self._due = turn, turn.redis, context, due
        self._time, self._greeting = time, greeting

    # -- itself

    async def beat(self, instance: bytes, newborn: bool, lasts_ms: int) -> tuple[bool, list[bytes]]:
        """Say that it lives, for so long: whether it may go on, and the instances that it should reap (beat.lua)."""
        keys = [b"restmq:{inst}:" + name for name in (b"alive", b"doomed", b"last", b"libraries")]
        loaded = self._turn.loaded
        if newborn:
            loaded.look()
        found, loaded.found = loaded.found, []
        asked = self._time.now()
        words = (instance, b"1" if newborn else b"0", b"%d" % lasts_ms, self._greeting.run, loaded.name, *found)
        now, verdict, many, *names = await self._turn.whole("beat", keys, *words)
        self._time.told(now, asked)
        loaded.delete(names[many:])
        return verdict != b"doomed", names[:many]

    def note(self, instance: bytes, queue: bytes) -> Slot[object]:
        """Enter a queue in the set of those it listens to, so that it can be reaped (note.lua)."""
        return self._turn.whole("note", [b"restmq:{inst}:q:" + instance], queue)

    async def unnote(self, instance: bytes, queue: bytes) -> None:
        """Take it out of that set (SREM)."""
        await self._redis.call(b"SREM", b"restmq:{inst}:q:" + instance, queue)

    async def depart(self, instance: bytes) -> None:
        """It goes, and has nothing left: nobody needs to reap it."""
        await self.reap(instance)
        await self._redis.call(b"ZREM", b"restmq:{inst}:alive", instance)

    async def reap(self, dead: bytes, queues: Iterable[bytes] = ()) -> None:
        """Take a dead instance out of all its queues, those named too; what it held goes to others (reap.lua)."""
        key = b"restmq:{inst}:q:" + dead
        for queue in {*await self._redis.call(b"SMEMBERS", key), *queues}:
            while await self._turn.call("reap", queue, self._context, dead, b"1"):
                pass
        await self._redis.call(b"DEL", key)
        await self._redis.call(b"ZREM", b"restmq:{inst}:doomed", dead)

    # -- a queue that it listens to

    def channel(self, queue: bytes, kind: bytes, instance: bytes) -> bytes:
        """A queue's channel: c broadcasts, t adds, i what is for this instance alone."""
        suffix = b":" + instance if kind == b"i" else b""
        return b"restmq:{%b}:%b%d%b" % (queue, kind, self._redis.dbid or 0, suffix)

    async def listen(
        self, queue: bytes, instance: bytes, listening: Listening, confirmed: int, seen: Seen, lost: int = 0
    ) -> Told:
        """Say how many consumers listen: the instance joins with the first, and leaves with a count of 0 (live.lua).

        `confirmed` is the position up to which broadcasts are confirmed. What was broadcast up to `lost` nobody
        here will take. Raises errors.Unavailable also when the instance was given up.
        """
        settings = json.dumps(seen.settings).encode()
        anew = b"0" if seen.birthword in (b"", self._greeting.birthword) else b"1"
        numbers = (*listening, confirmed)
        known = (seen.epoch, b"%d" % seen.number, b"%d" % seen.position, settings)
        words = (*(b"%d" % one for one in numbers), *known, word(), anew, b"%d" % lost)
        reply = await self._turn.call("live", queue, self._context, instance, *words)
        epoch, position, number, policy, due, own = reply
        self._due.told(queue, due)
        return Told(epoch, position, number, policy, settings_in(own))

    async def confirm(self, queue: bytes, instance: bytes, epoch: bytes, listening: Listening, done: Confirmed) -> None:
        """Say what its sockets have taken, which opens the window for what follows (confirm.lua)."""
        if done.leased:  # noted first: the answer may be lost
            self._due.soon(queue, min(ms for _, ms in done.leased))
        leases = [b"%d" % part for pair in done.leased for part in pair]
        numbers = [b"%d" % number for number in done.written]
        state = b"%d %d %d %d" % (*listening, done.out)
        words = (epoch, b"%d" % done.position, state, b"%d" % len(numbers), *numbers, *leases)
        self._due.told(queue, await self._turn.call("confirm", queue, self._context, instance, *words))

    def give_back(self, queue: bytes, instance: bytes, epoch: bytes, numbers: Sequence[int]) -> Slot[object]:
        """Round-robin elements that no consumer here could take go to others (back.lua)."""
        words = [b"%d" % number for number in numbers]
        return self._turn.call("back", queue, self._context, instance, epoch, *words)

    async def away(self, queue: bytes, instance: bytes) -> frozenset[int]:
        """Numbers of the round-robin elements on their way to it (SSCAN)."""
        key = b"restmq:{%b}:way:%b" % (queue, instance)
        return frozenset(map(int, await self._redis.scan(b"SSCAN", key)))

    def tap(self, queue: bytes, instance: bytes, on: bool) -> Slot[object]:
        """Tell it of each element that is added, or no more (tap.lua)."""
        return self._turn.call("tap", queue, self._context, instance, b"1" if on else b"0")

    async def history(self, queue: bytes, what: str, which: int = 0, most: int = 500, size: int = 1 << 20) -> History:
        """A page of history: `most` elements, or as many as have `size` bytes of values (replay.lua).

        `what` and `which` say where it begins: after a position, at a key, with the last so many, so many ms ago,
        all or now.
        """
        words = (what.encode(), b"%d" % which, b"%d" % most, word(), b"%d" % size)
        epoch, position, floor, start, end, *rest = await self._turn.call("replay", queue, self._context, *words)
        elements = [
            (int(place), Element(queue, int(number), value, 0, 0, epoch))
            for place, number, value in zip(rest[::3], rest[1::3], rest[2::3])
        ]
        return History(epoch, position, floor, start, end, elements)

    async def taken_back(self, queue: bytes) -> list[tuple[int, int]]:
        """First and last position of what was broadcast and then taken back, as nobody confirmed it (LRANGE)."""
        ranges = await self._redis.call(b"LRANGE", b"restmq:{%b}:void" % queue, b"0", b"-1")
        return [(int(first), int(last)) for first, last in (entry.split(b" ") for entry in ranges)]
