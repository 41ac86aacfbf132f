"""Wrong passwords: the more of them come from an address for a name, the later RestMQ looks at the next one.

Owns the counts, the delays, and the requests that wait for the end of a delay. Knows no rule, no password and no HTTP.
access/acl.py calls `check` before it compares a password, and `count_wrong` after a wrong one. http/handler.py lets a
request wait. A right password from another address, or for another name, is not delayed. So a client cannot lock
another client out.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from restmq.model.errors import TooManyGuesses

#: So many wrong passwords of an address for a name are answered at once, because people mistype.
FREE = 5
#: The first delay in seconds, which doubles with each wrong password, and the longest.
FIRST, LONGEST = 0.25, 10.0
#: Seconds after the last wrong password until the count is forgotten.
FORGOTTEN = 900.0
#: Most addresses, most names of each, and most bytes of a name that are kept apart. Further names of an address share
#: one count. For a further address, the address whose last wrong password is the oldest is forgotten.
ADDRESSES, NAMES, LONGEST_NAME = 2048, 8, 64
#: Most requests that wait for one address and name, and in all; and the most seconds that one waits.
EACH, ALL, PATIENCE = 4, 256, 10.0


class _Record:
    """The wrong passwords of one address and name."""

    __slots__ = ("last", "timer", "until", "waiting", "wrong")

    def __init__(self) -> None:
        self.wrong = 0  # number of wrong passwords
        self.last = 0.0  # time of the last one
        self.until = 0.0  # time from which the next one is looked at
        self.waiting: list[Waiting] = []
        self.timer: IDelayedCall | None = None


class Waiting:
    """A request that waits for the end of the delay. `run` runs it again, `refuse` answers that it may not go on."""

    __slots__ = ("left", "record", "refuse", "run", "until")

    def __init__(
        self, record: _Record, until: float, run: Callable[[], object], refuse: Callable[[BaseException], object]
    ) -> None:
        self.record, self.until, self.run, self.refuse = record, until, run, refuse
        self.left = False

    def on_client_left(self) -> None:
        """The client has left: its place is free for another request."""
        self.left = True


class Guesses:
    """Counts wrong passwords by address and name. `clock` is a reactor, or stands for one."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._known: OrderedDict[str, dict[bytes | None, _Record]] = OrderedDict()  # by network, then by name
        self._waiting = 0
        self._closed = False

    def check(self, address: str, name: bytes) -> None:
        """Raise TooManyGuesses if RestMQ may not look at a password yet, right or wrong."""
        if not self._known:
            return
        record = self._find(address, name)
        if record is not None and record.until > self._clock.seconds():
            raise self._refused(record)

    def count_wrong(self, address: str, name: bytes) -> None:
        """Count a wrong password."""
        now = self._clock.seconds()
        record = self._make(_network(address), name[:LONGEST_NAME])
        if now - record.last > FORGOTTEN:
            record.wrong = 0
        record.wrong += 1
        record.last = now
        if record.wrong >= FREE:
            record.until = now + min(LONGEST, FIRST * 2 ** min(record.wrong - FREE, 16))

    def wait(
        self, refused: TooManyGuesses, run: Callable[[], object], refuse: Callable[[BaseException], object]
    ) -> Waiting | None:
        """Let a request wait for the end of the delay, if there is room. Then `run` is called, or `refuse`.

        Returns None if there is no room.
        """
        record = refused.record
        assert isinstance(record, _Record)
        self._drop(record, lambda one: False)
        if self._closed or len(record.waiting) >= EACH or self._waiting >= ALL:
            return None
        one = Waiting(record, self._clock.seconds() + PATIENCE, run, refuse)
        record.waiting.append(one)
        self._waiting += 1
        self._wind(record)
        return one

    def close(self) -> None:
        """Refuse all requests that wait, because the server ends."""
        self._closed = True
        for names in list(self._known.values()):
            for record in names.values():
                self._drop(record, lambda one: True)

    def _wind(self, record: _Record) -> None:
        """Set the timer for the end of the delay, and refuse the requests for which that is too late."""
        self._drop(record, lambda one: one.until < record.until)
        if record.waiting and record.timer is None:
            record.timer = self._clock.callLater(max(0.0, record.until - self._clock.seconds()), self._next, record)

    def _next(self, record: _Record) -> None:
        """Run the requests that wait, in order, until one is wrong again."""
        record.timer = None
        while record.waiting and record.until <= self._clock.seconds():
            one = record.waiting.pop(0)
            self._waiting -= 1
            if not one.left:
                one.run()
        self._wind(record)

    def _drop(self, record: _Record, late: Callable[[Waiting], bool]) -> None:
        """Refuse the requests for which it is too late, and forget those whose clients have left."""
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
        """The record of an address and name. None is the record of all further names of an address."""
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
        """Forget the address whose last wrong password is the oldest, unless requests wait there."""
        for network, names in self._known.items():
            if not any(record.waiting for record in names.values()):
                del self._known[network]
                return


@lru_cache(maxsize=ADDRESSES)
def _network(address: str) -> str:
    """An address as it is counted. For IPv6 it is the /64, which one client has to itself (RFC 4291 section 2.5.4)."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
