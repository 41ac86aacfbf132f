"""The turn: what one turn of the reactor asks of the scripts goes to Redis in one write.

Owns the order of script calls, the merging of neighbouring ones, and what an
error reply means; knows no verb. A call is one script, one queue, and whoever
waits for its answer. Read store/core.py next.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import hiredis
from twisted.internet.interfaces import IReactorTime

from restmq.model.errors import BadOption, Conflict, Crowded, Error, Full, QueueFull, Stopped, TooLarge, Unavailable
from restmq.runtime.future import Slot, ignored
from restmq.store.connection import Redis, Reply, encode, named
from restmq.store.scripts import Script

MERGED = 500  # values in one script call; Lua's unpack ends at 8,000
REMEMBERED = 10_000

_random = random.SystemRandom().getrandbits(64)
_words = itertools.count(1)


def word() -> bytes:
    """A word that no other instance makes: a random one of this process, and a count."""
    return b"%x.%x" % (_random, next(_words))


def refusal(text: str) -> BaseException:
    """A script's own error reply, or Redis', as one of ours."""
    kind, _, rest = text.removeprefix("ERR ").partition(" ")  # Redis puts ERR before a reply of one word
    if kind == "STOPPED":
        return Stopped(int(rest) / 1000)
    if kind == "CONFLICT":
        return Conflict("this Idempotency-Key was used with another body; it answers only for its first")
    if kind == "GIVENUP":
        return Unavailable("this instance was silent too long and was given up; it joins again, ask again")
    if kind == "OVERFULL":
        return QueueFull("the queue is at its bound (max_length or max_bytes in its settings): take some, or raise it")
    if kind == "OVERSIZE":
        return TooLarge("this is over the queue's bound by itself (max_length or max_bytes in its settings)")
    if kind == "FAR":
        return BadOption("at is at most 366 days ahead, in Unix seconds or as 2027-01-31T12:00:00Z")
    return named(text)


def another(error: BaseException) -> BaseException:
    """The same error once more: an exception given to many waiters would gather every traceback."""
    if isinstance(error, Stopped):
        return Stopped(error.lasts)
    if isinstance(error, Unavailable):
        return Unavailable(error.text, error.maybe)
    if isinstance(error, (Full, QueueFull, TooLarge, Conflict, Crowded)):
        return type(error)(error.text)
    return error if isinstance(error, Error) else RuntimeError(str(error))


def _single(call: Call, reply: Reply) -> None:
    """One asked, and gets the reply as it is."""
    call.waiters[0].resolve(reply)


class Call:
    """One script call on its way, or one verb's merged requests waiting for the turn to end."""

    __slots__ = ("args", "done", "ended", "head", "key", "redis", "script", "waiters")

    def __init__(self, redis: Redis, script: Script, key: bytes, head: tuple[bytes, ...], args: list[bytes]) -> None:
        self.redis, self.script, self.key, self.head, self.args = redis, script, key, head, args
        self.waiters: list[Slot[Any]] = []
        self.ended: Callable[[], None] | None = None  # is called once there is a reply, or an error
        self.done: Callable[[Call, Reply], None] = _single  # is given the call, for a call that held itself would stay

    def ask(self) -> None:
        """Send it."""
        self.redis.ask(self._encoded(b"EVALSHA", self.script.sha), self._replied)

    def _encoded(self, by: bytes, script: bytes) -> bytes:
        return encode([by, script, b"1", self.key, *self.head, *self.args])

    def _replied(self, reply: Reply, error: BaseException | None) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if text.startswith("NOSCRIPT"):  # Redis forgot its scripts: EVAL teaches this one again
                self.redis.ask(self._encoded(b"EVAL", self.script.text), self._replied)
                return
            error = refusal(text)
        if error is not None:
            for slot in self.waiters:
                slot.fail(error if len(self.waiters) == 1 else another(error))
        else:
            self.done(self, reply)
        if self.ended is not None:
            self.ended()


class Turn:
    """The calls of this turn, in order. `first` is asked, once a queue and connection, what must go before."""

    def __init__(self, redis: Redis, clock: IReactorTime, scripts: dict[str, Script]) -> None:
        self.redis, self.clock, self.scripts = redis, clock, scripts
        self.first: Callable[[bytes], None] = lambda queue: None
        self._calls: list[Call] = []
        self._last: dict[bytes, Call] = {}
        self._keys: dict[bytes, bytes] = {}
        self.touched: set[bytes] = set()  # queues that `first` was asked about

    def key(self, queue: bytes) -> bytes:
        """The key that a script gets."""
        key = self._keys.get(queue)
        if key is None:
            if len(self._keys) >= REMEMBERED:
                self._keys.clear()
            key = self._keys[queue] = b"restmq:{%b}:m" % queue
        return key

    def last(self, queue: bytes, name: str) -> Call | None:
        """This turn's newest call for a queue, if more may be merged with it and it is that script's."""
        call = self._last.get(queue)
        return call if call is not None and call.script.name == name else None

    def open(self, name: str, queue: bytes, head: tuple[bytes, ...], merging: bool = False) -> Call:
        """A new call, sent when the turn ends; with `merging`, others may join it until then."""
        if queue not in self.touched:
            if len(self.touched) >= REMEMBERED:
                self.touched.clear()
            self.touched.add(queue)
            self.first(queue)
        call = Call(self.redis, self.scripts[name], self.key(queue), head, [])
        if merging:
            self._last[queue] = call
        else:
            self._last.pop(queue, None)
        self.post(call)
        return call

    def post(self, call: Call) -> None:
        """Send a call when the turn ends."""
        if not self._calls:
            self.clock.callLater(0, self._flush)
        self._calls.append(call)

    def script(self, name: str, queue: bytes, *args: bytes) -> Slot[Reply]:
        """Call a script for a queue, with this turn's others, in order."""
        slot: Slot[Reply] = Slot()
        self.open(name, queue, args).waiters.append(slot)
        return slot

    def whole(self, name: str, keys: list[bytes], *args: bytes) -> Slot[Reply]:
        """A script outside the queues, at once."""
        return self.redis.call(b"EVAL", self.scripts[name].text, b"%d" % len(keys), *keys, *args)

    def hint(self, *parts: bytes) -> None:
        """A hint goes out before the scripts of this turn, in the same write; its reply tells nothing."""
        self.redis.ask(encode(parts), ignored)

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        self._last.clear()
        for call in calls:
            call.ask()
