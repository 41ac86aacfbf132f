"""What is due: ends of ttl, leases, delays and stops, at the time and by whoever is alive.

Owns this instance's timer and its claims on the index of due times; knows not
what ends. Nobody scans and nobody polls: the instance that made a timer has it
here, and in the index for the others if it dies. Read store/core.py next.
"""

from __future__ import annotations

import heapq
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from restmq.runtime.future import drive, fault, ignored, nothing
from restmq.store.pipeline import Turn, word

KEYS = [b"restmq:{due}:at", b"restmq:{due}:claimed"]
LOOK = 1.0  # seconds until the index is read again, if nothing is due before: another may have died
CLAIMED = 20  # queues at a time
DONE = 400  # words in one call
LATE = 0.004  # seconds after the time: Redis' clock counts whole ms
AGAIN = 0.02  # seconds until a queue that is being swept is looked at once more
QUIET = 5.0  # seconds after Redis was away in which no lease ends: nobody could acknowledge

_failed = partial(fault, "ending what is due")  # the claim ends by itself, and another sweeps


class Due:
    """Sweeps queues when something in them is due."""

    def __init__(self, turn: Turn, context: bytes, clock: IReactorTime) -> None:
        self.turn, self.context, self.clock = turn, context, clock
        self.forgotten: Any = lambda queue: None
        self._at: list[tuple[float, bytes]] = []
        self._next: dict[bytes, float] = {}  # of each queue, the earliest in the heap
        self._timer: Any = None
        self._looking: Any = None  # the next look before that of the beat
        self._quiet_until = 0.0
        self._sweeping: set[bytes] = set()
        self._done: list[bytes] = []  # swept in this turn: queue, ms until it is due next

    def soon(self, queue: bytes, ms: int) -> None:
        """Something of a queue will be due in so many ms: noted in the index first, then here."""
        self.turn.whole("later", KEYS[:1], queue, b"%d" % ms).then(ignored)
        self.here(queue, ms)

    def here(self, queue: bytes, ms: float) -> None:
        """The same, where the index knows it."""
        at = self.clock.seconds() + ms / 1000 + LATE
        if self._next.get(queue, at + 1) <= at:
            return  # the sweep at that time tells of this one
        if len(self._at) < 100_000:  # beyond that the index alone must do
            self._next[queue] = at
            heapq.heappush(self._at, (at, queue))
            self._set()

    def told(self, queue: bytes, ms: int) -> None:
        """A reply tells when something is due, -1 for never: now, when it leaves work to a sweep, else noted."""
        if ms == 0:
            self.soon(queue, 0)
        elif ms > 0:
            self.here(queue, ms)

    def quiet(self) -> None:
        """Redis was away: leases wait a little."""
        self._quiet_until = self.clock.seconds() + QUIET

    def stop(self) -> None:
        """No more timers."""
        for timer in (self._timer, self._looking):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = None
        self._at, self._next = [], {}

    def _set(self) -> None:
        at = self._at[0][0]
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= at:
                return
            self._timer.cancel()
        self._timer = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._ring)

    def _ring(self) -> None:
        now, queues = self.clock.seconds(), set()
        while self._at and self._at[0][0] <= now:
            at, queue = heapq.heappop(self._at)
            if self._next.get(queue) == at:
                del self._next[queue]
                queues.add(queue)
        for queue in queues:
            if queue in self._sweeping:  # what made this timer may have come after that sweep
                self.here(queue, 1000 * AGAIN)
                continue
            self._sweeping.add(queue)
            drive(self._sweep(queue), nothing, _failed)
        if self._at:
            self._set()

    async def look(self) -> int:
        """Claim and sweep what the index says is due; answers how many queues. Called at every beat."""
        left, *names = await self.turn.whole("due", KEYS, b"%d" % CLAIMED)
        for queue in names:
            await self._sweep(queue)
        if 0 <= left < LOOK * 1000:  # one at a time: each leads to the next, and each beat begins anew
            if self._looking is not None and self._looking.active():
                self._looking.cancel()
            self._looking = self.clock.callLater(left / 1000 + LATE, self._again)
        return len(names)

    def _again(self) -> None:
        drive(self.look(), nothing, _failed)

    async def _sweep(self, queue: bytes) -> None:
        """End what is due in one queue, in steps, and note when it is due next."""
        try:
            while True:
                held = max(0, round((self._quiet_until - self.clock.seconds()) * 1000))
                left, idle = await self.turn.call("sweep", queue, self.context, b"%d" % held, word())
                if left != 0:
                    break
        finally:
            self._sweeping.discard(queue)
        if idle:
            self.forgotten(queue)
        if not self._done:
            self.clock.callLater(0, self._tell)
        self._done += (queue, b"%d" % left if left else b"")
        if left:
            self.here(queue, left)

    def _tell(self) -> None:
        """The claims of this turn are over: when that is not heard they end by themselves."""
        done, self._done = self._done, []
        for at in range(0, len(done), DONE):
            self.turn.whole("done", KEYS, *done[at : at + DONE]).then(ignored)
