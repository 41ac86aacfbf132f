"""Wrong passwords: the more of them come from an address for a name, the later the next one is looked at.

Owns counting, the delays, and the requests that wait for the end of one; knows no rule, no password and no HTTP.
access/acl.py asks `look` before it compares a password and tells `wrong` after; http/handler.py lets a request wait.
A right password from another address, or for another name, is not delayed: nobody can lock somebody else out.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from restmq.model.errors import TooManyGuesses

#: So many wrong passwords of an address for a name are answered at once: people mistype.
FREE = 5
#: Seconds until the next is looked at then: the first delay, which doubles each time, and the longest.
FIRST, LONGEST = 0.25, 10.0
#: Seconds after the last wrong password in which it is forgotten how many there were.
FORGOTTEN = 900.0
#: Addresses, and names of each, that are told apart. Further names of an address are one; of addresses beyond, the
#: one that was wrong longest ago is forgotten.
ADDRESSES, NAMES, LONGEST_NAME = 2048, 8, 64
#: Requests that wait: of one address and name, and all together; and how long one waits at the most, in seconds.
EACH, ALL, PATIENCE = 4, 256, 10.0


class _Record:
    """What is known of one address and name."""

    __slots__ = ("last", "timer", "until", "waiting", "wrong")

    def __init__(self) -> None:
        self.wrong = 0  # passwords
        self.last = self.until = 0.0  # when the last was; when the next is looked at
        self.waiting: list[Waiting] = []
        self.timer: Any = None


class Waiting:
    """A request that waits until its password is looked at: `again` begins anew, `refuse` answers that it may not."""

    __slots__ = ("again", "left", "record", "refuse", "until")

    def __init__(
        self, record: _Record, until: float, again: Callable[[], object], refuse: Callable[[BaseException], object]
    ) -> None:
        self.record, self.until, self.again, self.refuse = record, until, again, refuse
        self.left = False

    def leave(self) -> None:
        """The client has gone: its place is for another."""
        self.left = True


class Guesses:
    """Counts wrong passwords by address and name. `clock` is a reactor, or stands for one."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._known: OrderedDict[str, dict[bytes | None, _Record]] = OrderedDict()  # by network, then by name
        self._waiting = 0
        self._closed = False

    def look(self, address: str, name: bytes) -> None:
        """Whether a password may be looked at now. Raises TooManyGuesses when it is too early, right or wrong."""
        if not self._known:
            return
        record = self._find(address, name)
        if record is not None and record.until > self._clock.seconds():
            raise self._refused(record)

    def wrong(self, address: str, name: bytes) -> None:
        """A password was looked at, and is wrong."""
        now = self._clock.seconds()
        record = self._make(_network(address), name[:LONGEST_NAME])
        if now - record.last > FORGOTTEN:
            record.wrong = 0
        record.wrong += 1
        record.last = now
        if record.wrong >= FREE:
            record.until = now + min(LONGEST, FIRST * 2 ** min(record.wrong - FREE, 16))

    def later(
        self, refused: TooManyGuesses, again: Callable[[], object], refuse: Callable[[BaseException], object]
    ) -> Waiting | None:
        """Let a request wait for the end of the delay, if there is room: then `again` is called, or `refuse`."""
        record: _Record = refused.record
        self._drop(record, lambda one: False)
        if self._closed or len(record.waiting) >= EACH or self._waiting >= ALL:
            return None
        one = Waiting(record, self._clock.seconds() + PATIENCE, again, refuse)
        record.waiting.append(one)
        self._waiting += 1
        self._wind(record)
        return one

    def close(self) -> None:
        """Refuse whoever waits, for the server ends."""
        self._closed = True
        for names in list(self._known.values()):
            for record in names.values():
                self._drop(record, lambda one: True)

    def _wind(self, record: _Record) -> None:
        """Go on at the end of the delay, with those for whom that is not too late."""
        self._drop(record, lambda one: one.until < record.until)
        if record.waiting and record.timer is None:
            record.timer = self._clock.callLater(max(0.0, record.until - self._clock.seconds()), self._next, record)

    def _next(self, record: _Record) -> None:
        """Look at those that wait, in order, until one is wrong again."""
        record.timer = None
        while record.waiting and record.until <= self._clock.seconds():
            one = record.waiting.pop(0)
            self._waiting -= 1
            if not one.left:
                one.again()
        self._wind(record)

    def _drop(self, record: _Record, late: Callable[[Waiting], bool]) -> None:
        """Refuse those for whom it is too late, and forget those that have left."""
        gone = [one for one in record.waiting if one.left or late(one)]
        record.waiting = [one for one in record.waiting if one not in gone]
        self._waiting -= len(gone)
        for one in gone:
            if not one.left:
                one.refuse(self._refused(record))

    def _refused(self, record: _Record) -> TooManyGuesses:
        return TooManyGuesses(record.until - self._clock.seconds(), record)

    def _find(self, address: str, name: bytes) -> _Record | None:
        names = self._known.get(_network(address))
        if names is None:
            return None
        return names.get(name[:LONGEST_NAME]) or names.get(None)

    def _make(self, network: str, name: bytes) -> _Record:
        """The record of an address and name; None is that of all names that are too many."""
        names = self._known.get(network)
        if names is None:
            if len(self._known) >= ADDRESSES:
                self._forget()
            names = self._known[network] = {}
        self._known.move_to_end(network)
        key = name if name in names or len(names) < NAMES else None
        if key not in names:
            names[key] = _Record()
        return names[key]

    def _forget(self) -> None:
        """Forget the address that was wrong longest ago, unless somebody waits there."""
        for network, names in self._known.items():
            if not any(record.waiting for record in names.values()):
                del self._known[network]
                return


@lru_cache(maxsize=ADDRESSES)
def _network(address: str) -> str:
    """An address as it is counted: of IPv6 the /64, which one client has to itself (RFC 4291 section 2.5.4)."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
