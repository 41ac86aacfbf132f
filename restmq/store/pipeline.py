"""The turn: what one turn of the reactor asks of Redis' functions goes to it in one write.

Owns the order of calls, the merging of neighbouring ones, how a function is called and loaded when it is missing, and
what an error reply means; knows no verb. A call is one verb, one queue, and whoever waits for its answer.
Read store/core.py next.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import hiredis
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.model.errors import BadOption, Conflict, Crowded, Error, Full, QueueFull, Stopped, TooLarge, Unavailable
from restmq.runtime.future import Slot, ignored
from restmq.store.connection import Link, Redis, Reply, encode, named
from restmq.store.library import PREFIX, Library, Script

MERGED = 500  # values in one call; Lua's unpack ends at 8,000
REMEMBERED = 10_000
RELOAD = 10.0  # seconds until a Redis that would not load the library is asked again

log = Logger()
_random = random.SystemRandom().getrandbits(64)
_words = itertools.count(1)


def word() -> bytes:
    """A word that no other instance makes: a random one of this process, and a count."""
    return b"%x.%x" % (_random, next(_words))


def refusal(text: str) -> BaseException:
    """A function's own error reply, or Redis', as one of ours."""
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


class Loaded:
    """Whether Redis has the library, and how its functions are called.

    Redis keeps functions with its data, so they are there after a failover and a restart. An instance that finds them
    missing loads them. A Redis that has none and loads none is sent the same text as a script: it is full, or its ACL
    says no.
    """

    def __init__(self, redis: Redis, clock: IReactorTime) -> None:
        self.redis, self.clock, self.library = redis, clock, Library()
        self.functions = self.library.functions
        self.as_script = False
        self.found: list[bytes] = []  # names of libraries that no beat has told of yet
        self._loading = False
        self._refused: Reply = None  # why it was not loaded
        self._again = 0.0  # when a Redis that is sent the script is asked once more

    def load(self, link: Link | None = None) -> None:
        """Ask Redis to load it, over a link that is not in use yet, or over ours (FUNCTION LOAD)."""
        self._loading, self._again = True, self.clock.seconds() + RELOAD
        command = encode([b"FUNCTION", b"LOAD", self.library.text])
        if link is None:
            self.redis.ask(command, self._answered)
        else:
            link.ask(command, self._answered, self.redis.until())

    def _answered(self, reply: Reply, error: BaseException | None) -> None:
        self._loading, self._refused = False, None
        if isinstance(reply, hiredis.ReplyError) and "already exists" not in str(reply):
            self._refused = reply
        elif error is None:
            self.as_script = False

    def missing(self) -> None:
        """A call was told that Redis does not have the function."""
        if self._loading or self.as_script:
            return
        if self._refused is None:
            self.load()
            return
        why = self._refused
        log.warn("Redis will not load RestMQ's functions: {why}; they are run as a script, at more CPU", why=why)
        self.as_script = True

    @property
    def name(self) -> bytes:
        """The name of the library that is used."""
        return self.library.name.encode()

    def look(self) -> None:
        """Learn which libraries of RestMQ, of this and other versions, Redis has (FUNCTION LIST)."""
        command = [b"FUNCTION", b"LIST", b"LIBRARYNAME", PREFIX.encode() + b"*"]
        self.redis.ask(encode(command), self._on_listed)

    def _on_listed(self, reply: Reply, error: BaseException | None) -> None:
        if error is None and isinstance(reply, list):  # else its ACL does not let us, and they stay
            self.found = [one[1] for one in reply]

    def delete(self, unused: list[bytes]) -> None:
        """Versions that no instance has used for long go; one that does after all loads it again (FUNCTION DELETE)."""
        for name in unused:
            self.redis.ask(encode([b"FUNCTION", b"DELETE", name]), ignored)

    def script(self, verb: str) -> Script:
        """The script that stands for a verb's function; now and then Redis is asked once more to load that."""
        if self.clock.seconds() > self._again and not self._loading:
            self.load()
        return self.library.script(verb)


class Call:
    """A verb's call on its way, or several requests of one verb that are merged and wait for the turn to end."""

    __slots__ = ("args", "done", "ended", "head", "keys", "loaded", "tries", "verb", "waiters")

    def __init__(
        self, loaded: Loaded, verb: str, keys: list[bytes], head: tuple[bytes, ...], args: list[bytes] | None = None
    ) -> None:
        self.loaded, self.verb, self.keys, self.head = loaded, verb, keys, head
        self.args: list[bytes] = args or []
        self.tries = 3  # as a function; a Redis that loses its functions each time is sent the script
        self.waiters: list[Slot[Any]] = []
        self.ended: Callable[[], None] | None = None  # is called once there is a reply, or an error
        self.done: Callable[[Call, Reply], None] = _single  # is given the call, for a call that held itself would stay

    def ask(self) -> None:
        """Send it."""
        loaded = self.loaded
        if loaded.as_script:
            self._ask(b"EVALSHA", loaded.script(self.verb).sha, self.verb.encode())
            return
        command = [b"FCALL", loaded.functions[self.verb], b"%d" % len(self.keys), *self.keys, *self.head, *self.args]
        loaded.redis.ask(encode(command), self._replied)

    def _ask(self, by: bytes, script: bytes, verb: bytes) -> None:
        command = [by, script, b"%d" % len(self.keys), *self.keys, verb, *self.head, *self.args]
        self.loaded.redis.ask(encode(command), self._replied)

    def _ask_again(self, text: str) -> bool:
        """Whether Redis did not know what was called, and it was sent once more."""
        if text != "ERR Function not found" and not text.startswith("NOSCRIPT"):
            return False
        self.tries -= 1
        if text.startswith("NOSCRIPT") or not self.tries:  # EVAL brings the text along: it needs nothing in Redis
            self._ask(b"EVAL", self.loaded.script(self.verb).text, self.verb.encode())
        else:
            self.loaded.missing()
            self.ask()
        return True

    def _replied(self, reply: Reply, error: BaseException | None) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if self._ask_again(text):
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

    def __init__(self, redis: Redis, clock: IReactorTime) -> None:
        self.redis, self.clock = redis, clock
        self.loaded = Loaded(redis, clock)
        self.first: Callable[[bytes], None] = lambda queue: None
        self._calls: list[Call] = []
        self._last: dict[bytes, Call] = {}
        self._keys: dict[bytes, bytes] = {}
        self.touched: set[bytes] = set()  # queues that `first` was asked about

    def key(self, queue: bytes) -> bytes:
        """The key that a function gets."""
        key = self._keys.get(queue)
        if key is None:
            if len(self._keys) >= REMEMBERED:
                self._keys.clear()
            key = self._keys[queue] = b"restmq:{%b}:m" % queue
        return key

    def last(self, queue: bytes, name: str) -> Call | None:
        """This turn's newest call for a queue, if more may be merged with it and it is of that verb."""
        call = self._last.get(queue)
        return call if call is not None and call.verb == name else None

    def open(self, name: str, queue: bytes, head: tuple[bytes, ...], merging: bool = False) -> Call:
        """A new call, sent when the turn ends; with `merging`, others may join it until then."""
        if queue not in self.touched:
            if len(self.touched) >= REMEMBERED:
                self.touched.clear()
            self.touched.add(queue)
            self.first(queue)
        call = Call(self.loaded, name, [self.key(queue)], head)
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

    def call(self, name: str, queue: bytes, *args: bytes) -> Slot[Reply]:
        """Call a verb for a queue, with this turn's others, in order."""
        slot: Slot[Reply] = Slot()
        self.open(name, queue, args).waiters.append(slot)
        return slot

    def whole(self, name: str, keys: list[bytes], *args: bytes) -> Slot[Reply]:
        """Call a verb outside the queues, at once: before the calls of this turn."""
        slot: Slot[Reply] = Slot()
        call = Call(self.loaded, name, keys, args)
        call.waiters.append(slot)
        call.ask()
        return slot

    def hint(self, *parts: bytes) -> None:
        """A hint goes out before the calls of this turn, in the same write; its reply tells nothing."""
        self.redis.ask(encode(parts), ignored)

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        self._last.clear()
        for call in calls:
            call.ask()
