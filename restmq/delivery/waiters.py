"""Waiters: GETs that wait for an element. They stand in a line over all instances, and are woken. Nobody polls.

Owns the line of each queue in this instance. Knows neither HTTP nor sockets. When a GET finds nothing, the same call
enters it in the queue's list in Redis (lua/lib/waiters.lua). When an element comes, Redis wakes the oldest GET, and its
instance takes the element for it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from restmq.delivery.channels import Channels
from restmq.model.element import Element
from restmq.model.errors import Error, Stopped, Unavailable
from restmq.runtime.future import Slot, drive, fault, nothing
from restmq.store.core import Core
from restmq.store.requests import Nack, Waiter

KEPT = 10.0  # seconds for which an empty line keeps its subscription

_away = partial(fault, "telling Redis who waits")  # when Redis is back, all ask again


class Wait:
    """One GET that waits. `elements` is its answer, [] when its time is over."""

    def __init__(self, line: _Line, most: int, lease_ms: int) -> None:
        self.line, self.most, self.lease_ms = line, most, lease_ms
        self.elements: Slot[list[Element]] = Slot()
        self.timed_out = self.client_left = False  # its time is over; its client has left
        self.asking = False  # it is not in line: Redis was asked for it, and has not answered yet
        self.timer: Any = None

    def leave(self) -> None:
        """The client has left, or may have. It is answered with [], and an element that comes for it goes back."""
        self.client_left = True
        self.line.owner.end(self)
        if self.asking:  # else it was answered just now. An answer that never comes would keep its waiter for ever
            self.resolve([])

    def stop_timer(self) -> None:
        """Cancel its timer. A timer that has run would hold this object, and be held by it."""
        timer, self.timer = self.timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def resolve(self, elements: list[Element]) -> None:
        """Answer it."""
        self.stop_timer()
        self.elements.resolve(elements)


class _Line:
    """The GETs of one queue that wait, oldest first. Those that are asking at this moment are not in it."""

    def __init__(self, owner: Waiters, queue: bytes) -> None:
        self.owner, self.queue = owner, queue
        self.waits: deque[Wait] = deque()
        self.asking = 0
        self.beginning = 0  # how many look whether they need to wait at all
        self.ready = False
        self.opening: list[Slot[None]] = []
        self.surplus = 0  # wake-ups that came before the empty answer of the GET that they are for
        self.stale = 0  # wake-ups that are still to come for GETs whose clients have left
        self.leaving = self.reporting = 0  # GETs that have left: to be reported, and being reported
        self.idle: Any = None


class Waiters:
    """Queue -> GETs that wait. Each is answered: with elements, with [] at the end of its time, or with an error."""

    def __init__(self, core: Core, channels: Channels, clock: IReactorTime) -> None:
        self.core, self.channels, self.clock = core, channels, clock
        self.lines: dict[bytes, _Line] = {}
        self._closing = False

    def __len__(self) -> int:
        return sum(len(line.waits) + line.asking for line in self.lines.values())

    def enter(self, queue: bytes, most: int, seconds: float, lease_ms: int = 0) -> Wait:
        """Wait for one to `most` elements, for so many seconds. With `lease_ms` they are leased."""
        line = self.lines.get(queue)
        if line is None:
            line = self.lines[queue] = _Line(self, queue)
        wait = Wait(line, most, lease_ms)
        wait.timer = self.clock.callLater(0 if self._closing else seconds, self._on_time_up, wait)
        self._set_asking(wait, True)
        drive(self._begin(wait), nothing, partial(self._on_failed, wait))
        return wait

    def _set_asking(self, wait: Wait, asking: bool) -> None:
        if wait.asking != asking:
            wait.asking = asking
            wait.line.asking += 1 if asking else -1
            self._drop_when_idle(wait.line)

    def _on_time_up(self, wait: Wait) -> None:
        wait.timed_out = True
        wait.stop_timer()
        self.end(wait)

    def end(self, wait: Wait) -> None:
        """Let a GET wait no more. One that is asking at this moment is dealt with when its answer comes."""
        line = wait.line
        if wait in line.waits:
            line.waits.remove(wait)
            self._unwait(line)
            wait.resolve([])

    def close(self) -> None:
        """The instance ends: nobody waits any more."""
        self._closing = True
        for line in list(self.lines.values()):
            for wait in list(line.waits):
                wait.timed_out = True
                self.end(wait)

    # -- asking

    async def _begin(self, wait: Wait) -> None:
        line = wait.line
        if not line.ready or line.beginning:  # so that nobody overtakes those
            line.beginning += 1
            try:
                elements = await self._take(wait, None)  # perhaps it does not need to wait
            except Stopped:
                elements = []  # a GET waits while the flow is stopped
            finally:
                line.beginning -= 1
            if elements or wait.timed_out or wait.client_left or self._closing:
                await self._give(wait, elements)
                return
            await self._open(line)
        await self._ask(wait, first=False)

    async def _open(self, line: _Line) -> None:
        """Subscribe to wake-ups, before anybody may be woken."""
        while not line.ready:
            slot: Slot[None] = Slot()
            line.opening.append(slot)
            if len(line.opening) == 1:
                drive(self._hear(line), partial(self._on_opened, line), partial(self._on_opened, line, False))
            await slot

    async def _hear(self, line: _Line) -> bool:
        link_ups = self.channels.link_ups
        await self.channels.open(line.queue, self, b"i")
        return link_ups == self.channels.link_ups

    def _on_opened(self, line: _Line, ready: bool, error: BaseException | None = None) -> None:
        """All that waited for this go on, in the order in which they came. An error goes to the first."""
        opening, line.opening = line.opening, []
        line.ready = ready
        if error is not None:
            opening.pop(0).fail(error)
        for slot in opening:
            slot.resolve(None)

    async def _ask(self, wait: Wait, first: bool) -> None:
        """Take, or stand in line."""
        line, link_ups = wait.line, self.channels.link_ups
        elements = await self._take(wait, Waiter(self.channels.presence.instance, first))
        if elements or wait.timed_out or wait.client_left or self._closing:
            if not elements:
                self._unwait(line)
            await self._give(wait, elements)
            return
        if link_ups != self.channels.link_ups:  # its place, or its wake-up, may be lost with the link
            await self._open(line)
            await self._ask(wait, True)
        elif line.surplus:
            line.surplus -= 1
            await self._ask(wait, True)
        else:
            if first:
                line.waits.appendleft(wait)
            else:
                line.waits.append(wait)
            self._set_asking(wait, False)

    async def _take(self, wait: Wait, waiter: Waiter | None) -> list[tuple[Element, bytes]]:
        queue = wait.line.queue
        if not wait.lease_ms:
            return await self.core.take_many(queue, wait.most, waiter)
        return [(element, b"") for element in await self.core.lease(queue, wait.most, wait.lease_ms, waiter)]

    async def _give(self, wait: Wait, taken: list[tuple[Element, bytes]]) -> None:
        """Answer it, or bring back the elements that came too late."""
        self._set_asking(wait, False)
        if not wait.client_left:
            wait.resolve([element for element, _ in taken])
            return
        wait.stop_timer()
        if wait.lease_ms and taken:
            await self.core.nack(wait.line.queue, [Nack(element.lease, 0) for element, _ in taken])
        elif taken:
            await self.core.untake(taken)

    def _on_failed(self, wait: Wait, error: BaseException) -> None:
        self._set_asking(wait, False)
        wait.stop_timer()
        if fault("a GET that waits", error):
            error = Unavailable("waiting failed; the log of RestMQ says why", maybe=True)
        if not wait.client_left:
            wait.elements.fail(error)

    # -- being woken

    def on_wakeup(self, queue: bytes, many: int) -> None:
        """So many of the oldest should take now."""
        line = self.lines.get(queue)
        if line is None:
            self._pass_on(queue, many)
            return
        passed = min(many, line.stale)
        line.stale -= passed
        for left in range(many - passed, 0, -1):
            if not line.waits:
                if line.asking or line.leaving or line.reporting:
                    line.surplus += left
                else:
                    self._pass_on(queue, left)
                return
            wait = line.waits.popleft()
            self._set_asking(wait, True)
            drive(self._ask(wait, True), nothing, partial(self._on_failed, wait))

    def _pass_on(self, queue: bytes, many: int) -> None:
        """Nobody is here for a wake-up, though Redis thought so: it is for the next in line."""
        drive(self.core.unwait(queue, self.channels.presence.instance, many + 1000), nothing, _away)

    def _unwait(self, line: _Line) -> None:
        """One GET less. Redis is told once a turn."""
        line.leaving += 1
        if line.leaving == 1:
            self.clock.callLater(0, self._report_leaving, line)

    def _report_leaving(self, line: _Line) -> None:
        many, line.leaving = line.leaving, 0
        link_ups = self.channels.link_ups
        drive(self._send_leaving(line, many, link_ups), nothing, _away)
        self._drop_when_idle(line)

    async def _send_leaving(self, line: _Line, many: int, link_ups: int) -> None:
        line.reporting += 1
        try:
            woken: int = await self.core.unwait(line.queue, self.channels.presence.instance, many)
        finally:
            line.reporting -= 1
        if link_ups == self.channels.link_ups:
            early = min(woken, line.surplus)  # their wake-ups are here already, or still to come
            line.surplus -= early
            line.stale += woken - early

    # -- coming and going

    def on_rejoining(self) -> None:
        """Both links are up again. Wake-ups may have been lost, so all ask again, in order."""
        for line in list(self.lines.values()):
            self._ask_all_again(line)

    def _ask_all_again(self, line: _Line) -> None:
        if not self.channels.connected:
            return  # on_rejoining() will come
        line.ready, line.surplus, line.stale = False, 0, 0
        waits, line.waits = list(line.waits), deque()
        for wait in waits:
            self._set_asking(wait, True)

        def failed(error: BaseException) -> None:
            for wait in waits:
                self._on_failed(wait, error)

        drive(self._rejoin(line, waits), nothing, failed)

    async def _rejoin(self, line: _Line, waits: list[Wait]) -> None:
        try:  # also without anybody: Redis may not have heard that the last one left
            await self.core.unwait(line.queue, self.channels.presence.instance, len(waits) + 1000)
            if waits:
                await self._open(line)
        except Error:
            line.waits.extend([wait for wait in waits if not wait.client_left])  # lost again, or refused for now
            for wait in waits:
                self._set_asking(wait, False)
                if wait.timed_out:
                    self.end(wait)
                elif wait.client_left:
                    wait.stop_timer()
            if self.channels.connected:
                self.clock.callLater(0.3, self._ask_all_again, line)
            return
        for wait in waits:
            drive(self._ask(wait, False), nothing, partial(self._on_failed, wait))

    def _drop_when_idle(self, line: _Line) -> None:
        """Keep a line's subscription for a while when nobody stands in it."""
        if not line.waits and not line.asking and line.idle is None:
            line.idle = self.clock.callLater(KEPT, self._drop, line)

    def _drop(self, line: _Line) -> None:
        line.idle = None
        if line.waits or line.asking or line.leaving:
            return
        if self.lines.get(line.queue) is line:
            del self.lines[line.queue]
            self.channels.close(line.queue, self)
