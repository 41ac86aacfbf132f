"""The queues that this instance used lately, and the registry of all queues' names.

Owns what this instance has seen of each queue. So it notices a Redis that comes back with less data. Knows neither
values nor consumers. store/core.py uses this, lua/seen.lua is Redis' part.
"""

from __future__ import annotations

import json

from twisted.logger import Logger

from restmq.store.connection import Reply
from restmq.store.greeting import Greeting
from restmq.store.pipeline import REMEMBERED, Turn, unique_id
from restmq.store.replies import settings_in
from restmq.store.timers import Timers

NAMES = b"restmq:names"

log = Logger()


class _Known:
    """What was seen of one queue: its epoch, the highest number, its settings.

    `data_id` is that of the data in Redis at that time.
    """

    __slots__ = ("data_id", "epoch", "number", "settings")

    def __init__(self, data_id: bytes) -> None:
        self.data_id, self.epoch, self.number = data_id, b"", 0
        self.settings: dict[str, str] = {}


class KnownQueues:
    """Queue -> what this instance has seen of it.

    `idle_ttl` is restmq.conf's, in ms, 0 for none: it holds for every queue from the moment it is created.
    """

    def __init__(self, turn: Turn, context: bytes, timers: Timers, greeting: Greeting, idle_ttl: int) -> None:
        self._turn, self._context, self._timers, self._greeting = turn, context, timers, greeting
        self._idle_ttl = idle_ttl
        self._known: dict[bytes, _Known] = {}
        turn.on_first_use = self._report
        timers.on_forgotten = self.forget

    # -- the registry

    def register(self, queue: bytes) -> None:
        """Enter the name in the registry (ZADD).

        The registry is a hint. The entry goes out before the call that needs it, in the same write.
        """
        self._turn.hint(b"ZADD", NAMES, b"0", queue)

    def forget(self, queue: bytes) -> None:
        """The queue is gone: drop what is known of it, and its name (ZREM)."""
        self.drop(queue)
        self._turn.hint(b"ZREM", NAMES, queue)

    def drop(self, queue: bytes) -> None:
        """Drop what is known of it. The next call for it counts as the first one."""
        self._known.pop(queue, None)
        self._turn.used.discard(queue)

    # -- what was seen

    def on_created(self, queue: bytes) -> None:
        """The first element of a queue was stored."""
        self.register(queue)
        if self._idle_ttl:
            self._timers.schedule(queue, self._idle_ttl)

    def note_number(self, queue: bytes, number: int) -> None:
        """A number was given to an element, or an element with it was taken.

        At the first number the epoch is asked for, because the queue may have been created since the last time.
        """
        known = self._known.get(queue)
        if known is not None and number > known.number:
            first, known.number = not known.number, number
            if first or not known.epoch:
                self._report(queue)

    def note_settings(self, queue: bytes, settings: dict[str, str]) -> None:
        """The settings of a queue were changed here."""
        known = self._known.get(queue)
        if known is not None:
            known.settings = settings
            if not known.epoch:  # this was its first use
                self._report(queue)

    def _report(self, queue: bytes) -> None:
        """Tell Redis what was seen of a queue, and learn its epoch (seen.lua).

        This goes before the first call for the queue over each connection.
        """
        known = self._known.get(queue)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[queue] = _Known(self._greeting.data_id)
        other_data = b"1" if known.data_id != self._greeting.data_id else b"0"
        words = (known.epoch, b"%d" % known.number, json.dumps(known.settings).encode(), unique_id(), other_data)
        self._turn.call("seen", queue, self._context, *words).then(
            lambda reply, error: self._on_reported(queue, reply, error)
        )

    def _on_reported(self, queue: bytes, reply: Reply, error: BaseException | None) -> None:
        known = self._known.get(queue)
        if error is not None:
            self._turn.used.discard(queue)
            return
        epoch, due_in, *settings = reply
        self._timers.on_due_in(queue, due_in)  # the instance that made that timer may have died before it noted it
        if known is not None:
            known.data_id, known.settings = self._greeting.data_id, settings_in(settings)
            if epoch != known.epoch:
                if known.epoch and known.number:  # else it was empty, and its epoch went with its last consumer
                    log.warn("queue {queue} has another epoch now", queue=queue.decode("utf-8"))
                    known.number = 0
                known.epoch = epoch or b""
