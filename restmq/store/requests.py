"""Records that callers hand to Core or get back, where one value is not enough.

Owns the records and their form in a call. Asks nothing of Redis.
"""

from __future__ import annotations

from typing import NamedTuple

from restmq.model.element import Lease


class Added(NamedTuple):
    """The answer to an add with options.

    `first` is the number of the first element, `many` how many were added. `replayed` is true when an earlier add
    with the same Idempotency-Key is answered again.
    """

    first: int
    many: int
    replayed: bool


class Waiter(NamedTuple):
    """A GET that waits when there is nothing to take.

    `instance` is woken for it. `first` is true when it was woken and found nothing: then it keeps its place in line.
    """

    instance: bytes
    first: bool = False

    def options(self) -> dict[str, object]:
        """The options of take.lua and lease.lua that stand for it."""
        named: dict[str, object] = {"instance": self.instance.decode()}
        return {**named, "first": 1} if self.first else named


class Nack(NamedTuple):
    """A lease that its owner gives back.

    The element waits again after `delay_ms`, or, with None, when the queue's settings say so. `until_ms` replaces the
    delay: a Unix time in ms by Redis' clock. `dead` puts the element aside. `failed` says that the try failed,
    `reason` why.
    """

    lease: Lease
    delay_ms: int | None = None
    failed: bool = False
    reason: bytes = b""
    until_ms: int | None = None
    dead: bool = False

    def words(self) -> tuple[bytes, ...]:
        """When it waits again, whether the try failed, and why, in the form of nack.lua."""
        when = b"" if self.delay_ms is None else b"%d" % self.delay_ms
        if self.until_ms is not None:
            when = b"@%d" % self.until_ms
        return b"dead" if self.dead else when, b"1" if self.failed else b"0", self.reason
