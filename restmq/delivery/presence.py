"""This instance among the others: its id, its beat, and the reaping of dead instances.

Owns the id of this instance, and whether the instance may still act on messages. Knows no queue's content. An instance
may stand still for longer than its beat lasts. Then it must not hand out elements that other instances have been given
since: delivery/fence.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from restmq.model.errors import Error
from restmq.runtime.future import drive, fault
from restmq.runtime.ticker import boot_clock
from restmq.store.core import Core

LASTS = 3.0  # seconds for which a beat keeps an instance alive, unless restmq.conf has another `silence`
FENCE = 0.5  # seconds before that time from which on an instance asks before it acts

log = Logger()
Work = Callable[[], Coroutine[Any, Any, None]]


class Presence:
    """Beats once a second, and reaps the dead.

    on_alive() is called when a beat was answered, on_given_up() when the others gave this instance up, and
    on_beat_missed(error) when Redis did not answer a beat.
    """

    def __init__(
        self, core: Core, clock: IReactorTime, now: Callable[[], float] = boot_clock, lasts: float = LASTS
    ) -> None:
        self.core, self.now, self.lasts = core, now, lasts
        self.on_alive: Callable[[], None] = lambda: None
        self.on_given_up: Callable[[], None] = lambda: None
        self.on_beat_missed: Callable[[BaseException], None] = lambda error: None
        self.renew()
        self._answered = 0.0
        self._asking = False
        self._working: set[Work] = set()  # what goes on beside the beat
        self._dead: list[bytes] = []  # ids that this instance must reap
        self._loop = LoopingCall(self.beat)
        self._loop.clock = clock

    def renew(self) -> None:
        """Take a new id: random, never a pid. Nothing of the old one holds for it."""
        self.instance = os.urandom(6).hex().encode("ascii")
        self.new = True

    def start(self) -> None:
        """Begin to beat."""
        self._loop.start(1.0)

    def stop(self) -> None:
        """Stop beating. Nobody misses an instance that has nothing left to give back."""
        if self._loop.running:
            self._loop.stop()

    def fenced(self) -> bool:
        """Whether the last answered beat is so old that others may have taken over."""
        return self._answered > 0 and self.now() - self._answered > self.lasts - FENCE

    def beat(self) -> None:
        """Ask Redis for `lasts` seconds more."""
        if not self._asking:
            self._asking = True
            drive(self._beat(), self._on_beaten, self._on_missed)

    def _on_beaten(self, _: None) -> None:
        self._asking = False

    def _on_missed(self, error: BaseException) -> None:
        self._asking = False
        fault("the beat of this instance", error)
        self.on_beat_missed(error)

    async def _beat(self) -> None:
        sent = self.now()
        alive, dead = await self.core.instances.beat(self.instance, self.new, int(self.lasts * 1000))
        if not alive:
            log.warn("this instance was silent for too long and was given up; it joins again under a new id")
            self.on_given_up()
            return
        self.new, self._answered = False, sent
        self.on_alive()
        self._dead += [one for one in dead if one not in self._dead]
        for work in (self._reap, self._sweep):  # beside the beat: however much there is to do, it stays alive
            if work not in self._working:
                self._working.add(work)
                drive(work(), partial(self._on_work_done, work), partial(self._on_work_failed, work))

    # -- what every instance does for all

    async def _reap(self) -> None:
        """Reap the dead instances that beats name, also those named meanwhile. The next beat goes on with the rest.

        Each is claimed for `lasts` seconds. One that is not reaped by then is given to another instance as well.
        """
        while self._dead:
            instance = self._dead.pop(0)
            log.info("instance {dead} is dead: what it held is given back", dead=instance.decode("ascii"))
            try:
                await self.core.instances.reap(instance)
            except Error:
                self._dead.append(instance)  # Redis is away
                raise

    async def _sweep(self) -> None:
        """End what is due. Another instance claims the queues that are left."""
        while await self.core.sweep() == 20:
            pass

    def _on_work_done(self, work: Work, _: None) -> None:
        self._working.remove(work)

    def _on_work_failed(self, work: Work, error: BaseException) -> None:
        self._working.remove(work)
        fault("reaping dead instances, or ending what is due,", error)
