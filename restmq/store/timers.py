"""The timers: ttls, leases, delays and stops end at their time. Any instance that is alive ends them.

Owns this instance's timer, and its claims on the index of due times that all instances share. Does not know what ends.
Nobody scans and nobody polls. The instance that made a timer has it in its heap. It also enters the timer in the index
for the others, in case it dies.
"""

from __future__ import annotations

import heapq
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from restmq.runtime.future import drive, fault, ignored, nothing
from restmq.store.pipeline import Turn, unique_id

KEYS = [b"restmq:{due}:at", b"restmq:{due}:claimed"]
LOOK = 1.0  # seconds until the index is read again when nothing is due before: another instance may have died
CLAIMS = 20  # queues that are claimed at a time
WORDS = 400  # words in one call
LATE = 0.004  # seconds after the time: Redis' clock counts whole ms
SWEEP_AGAIN = 0.02  # seconds until a queue that is being swept is swept once more
CHECK_AFTER = 1000  # ms after which a queue is swept when only a reply, which may be lost, tells what is due in it
LEASES_HELD = 5.0  # seconds after Redis was away in which no lease ends: nobody could acknowledge

_failed = partial(fault, "ending what is due")  # the claim ends by itself, and another instance sweeps


class Timers:
    """Sweeps queues when something in them is due."""

    def __init__(self, turn: Turn, context: bytes, clock: IReactorTime) -> None:
        self.turn, self.context, self.clock = turn, context, clock
        self.on_forgotten: Any = lambda queue: None
        self._heap: list[tuple[float, bytes]] = []
        self._earliest: dict[bytes, float] = {}  # of each queue, the earliest time in the heap
        self._timer: Any = None
        self._next_look: Any = None  # the call that reads the index before the next beat does
        self._leases_held_until = 0.0
        self._sweeping: set[bytes] = set()
        self._swept: list[bytes] = []  # what this turn swept: queue, ms until it is due next

    def schedule(self, queue: bytes, ms: int) -> None:
        """Something in a queue will be due in so many ms. Note it in the index, then in the heap here."""
        self.turn.call_now("schedule", KEYS[:1], queue, b"%d" % ms).then(ignored)
        self.schedule_here(queue, ms)

    def schedule_here(self, queue: bytes, ms: float) -> None:
        """The same, when the index has it already."""
        at = self.clock.seconds() + ms / 1000 + LATE
        if self._earliest.get(queue, at + 1) <= at:
            return  # the sweep at that time finds out about this one
        if len(self._heap) < 100_000:  # beyond that, the index alone has it
            self._earliest[queue] = at
            heapq.heappush(self._heap, (at, queue))
            self._set()

    def on_due_in(self, queue: bytes, ms: int) -> None:
        """A reply says when something in a queue is due: in `ms`, -1 for never, 0 when it leaves work to a sweep."""
        if ms == 0:
            self.schedule(queue, 0)
        elif ms > 0:
            self.schedule_here(queue, ms)

    def hold_leases(self) -> None:
        """Redis was away: for some seconds no lease ends."""
        self._leases_held_until = self.clock.seconds() + LEASES_HELD

    def stop(self) -> None:
        """Cancel all timers."""
        for timer in (self._timer, self._next_look):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = None
        self._heap, self._earliest = [], {}

    def _set(self) -> None:
        at = self._heap[0][0]
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= at:
                return
            self._timer.cancel()
        self._timer = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._on_timer)

    def _on_timer(self) -> None:
        now, queues = self.clock.seconds(), set()
        while self._heap and self._heap[0][0] <= now:
            at, queue = heapq.heappop(self._heap)
            if self._earliest.get(queue) == at:
                del self._earliest[queue]
                queues.add(queue)
        for queue in queues:
            if queue in self._sweeping:  # what made this timer may have come after that sweep
                self.schedule_here(queue, 1000 * SWEEP_AGAIN)
                continue
            self._sweeping.add(queue)
            drive(self._sweep(queue), nothing, _failed)
        if self._heap:
            self._set()

    async def sweep_due(self) -> int:
        """Claim and sweep what the index says is due; answers how many queues. Called at every beat."""
        left, *names = await self.turn.call_now("claim_due", KEYS, b"%d" % CLAIMS)
        for queue in names:
            await self._sweep(queue)
        if 0 <= left < LOOK * 1000:  # one timer at a time: each look leads to the next, and each beat begins anew
            if self._next_look is not None and self._next_look.active():
                self._next_look.cancel()
            self._next_look = self.clock.callLater(left / 1000 + LATE, self._look_again)
        return len(names)

    def _look_again(self) -> None:
        drive(self.sweep_due(), nothing, _failed)

    async def _sweep(self, queue: bytes) -> None:
        """End what is due in one queue, in steps, and note when it is due next."""
        try:
            while True:
                held = max(0, round((self._leases_held_until - self.clock.seconds()) * 1000))
                left, idle = await self.turn.call("sweep", queue, self.context, b"%d" % held, unique_id())
                if left != 0:
                    break
        finally:
            self._sweeping.discard(queue)
        if idle:
            self.on_forgotten(queue)
        if not self._swept:
            self.clock.callLater(0, self._end_claims)
        self._swept += (queue, b"%d" % left if left else b"")
        if left:
            self.schedule_here(queue, left)

    def _end_claims(self) -> None:
        """End the claims of this turn. If Redis does not hear this, they end by themselves."""
        done, self._swept = self._swept, []
        for at in range(0, len(done), WORDS):
            self.turn.call_now("end_claims", KEYS, *done[at : at + WORDS]).then(ignored)
