"""The turn: one write sends all calls of Redis' functions that one turn of the reactor makes.

Owns the order of calls, the merging of neighbouring ones, and how a function is called. Also owns how a missing library
is loaded, and the meaning of error replies. Knows no verb. A call is one verb, one queue, and the callers that wait for
its answer. Read store/library.py next.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import hiredis
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from restmq.model.errors import BadOption, Conflict, Error, Full, NoRoom, QueueFull, Stopped, TooLarge, Unavailable
from restmq.runtime.future import Slot, ignored
from restmq.store.connection import Link, Redis, Reply, encode, error_of
from restmq.store.library import PREFIX, Library, Script

MERGED = 500  # values in one call; Lua's unpack() ends at 8,000
REMEMBERED = 10_000
RELOAD = 10.0  # seconds until a Redis that would not load the library is asked to again

log = Logger()
_random = random.SystemRandom().getrandbits(64)
_counter = itertools.count(1)


def unique_id() -> bytes:
    """Make an id that no other instance makes: a random number of this process, and a count."""
    return b"%x.%x" % (_random, next(_counter))


def refusal(text: str) -> BaseException:
    """An error reply of a function, or of Redis itself, as one of our errors."""
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
    return error_of(text)


def copy_of(error: BaseException) -> BaseException:
    """Make the same error once more: an exception that many waiters share would gather every traceback."""
    if isinstance(error, Stopped):
        return Stopped(error.lasts)
    if isinstance(error, Unavailable):
        return Unavailable(error.text, error.maybe)
    if isinstance(error, (Full, QueueFull, TooLarge, Conflict, NoRoom)):
        return type(error)(error.text)
    return error if isinstance(error, Error) else RuntimeError(str(error))


def _single(call: Call, reply: Reply) -> None:
    """Give the reply to the only caller, as it is."""
    call.waiters[0].resolve(reply)


class Loader:
    """Whether Redis has the library, and how its functions are called.

    Redis keeps functions with its data, so a failover or a restart does not lose them. An instance that finds them
    missing loads them. A Redis that has none and loads none, because it is full or its ACL forbids it, gets the same
    text as a script.
    """

    def __init__(self, redis: Redis, clock: IReactorTime) -> None:
        self.redis, self.clock, self.library = redis, clock, Library()
        self.functions = self.library.functions
        self.as_script = False
        self.libraries_found: list[bytes] = []  # names of libraries that no beat has reported yet
        self._loading = False
        self._load_error: Reply = None  # why Redis did not load it
        self._retry_at = 0.0  # when a Redis that runs the script is asked once more to load the library

    def load(self, link: Link | None = None) -> None:
        """Ask Redis to load the library, over a link that is not in use yet, or over the one in use (FUNCTION LOAD)."""
        self._loading, self._retry_at = True, self.clock.seconds() + RELOAD
        command = encode([b"FUNCTION", b"LOAD", self.library.text])
        if link is None:
            self.redis.ask(command, self._on_loaded)
        else:
            link.ask(command, self._on_loaded, self.redis.until())

    def _on_loaded(self, reply: Reply, error: BaseException | None) -> None:
        self._loading, self._load_error = False, None
        if isinstance(reply, hiredis.ReplyError) and "already exists" not in str(reply):
            self._load_error = reply
        elif error is None:
            self.as_script = False

    def on_missing(self) -> None:
        """Redis answered a call that it does not have the function."""
        if self._loading or self.as_script:
            return
        if self._load_error is None:
            self.load()
            return
        why = self._load_error
        log.warn("Redis will not load RestMQ's functions: {why}; they are run as a script, at more CPU", why=why)
        self.as_script = True

    @property
    def name(self) -> bytes:
        """The name of this version of the library."""
        return self.library.name.encode()

    def list_libraries(self) -> None:
        """Learn which libraries of RestMQ Redis has, of this version and of others (FUNCTION LIST)."""
        command = [b"FUNCTION", b"LIST", b"LIBRARYNAME", PREFIX.encode() + b"*"]
        self.redis.ask(encode(command), self._on_listed)

    def _on_listed(self, reply: Reply, error: BaseException | None) -> None:
        if error is None and isinstance(reply, list):  # else the ACL forbids it, and old libraries stay
            self.libraries_found = [one[1] for one in reply]

    def delete(self, unused: list[bytes]) -> None:
        """Delete versions that no instance has used for long (FUNCTION DELETE). An instance may load one again."""
        for name in unused:
            self.redis.ask(encode([b"FUNCTION", b"DELETE", name]), ignored)

    def script(self, verb: str) -> Script:
        """The script that stands for a verb's function. Now and then Redis is also asked to load the library."""
        if self.clock.seconds() > self._retry_at and not self._loading:
            self.load()
        return self.library.script(verb)


class Call:
    """A call of a verb. Until the turn ends, requests of the same verb for the same queue may join it."""

    __slots__ = ("args", "head", "keys", "loader", "on_ended", "on_reply", "tries", "verb", "waiters")

    def __init__(
        self, loader: Loader, verb: str, keys: list[bytes], head: tuple[bytes, ...], args: list[bytes] | None = None
    ) -> None:
        self.loader, self.verb, self.keys, self.head = loader, verb, keys, head
        self.args: list[bytes] = args or []
        self.tries = 3  # as a function: a Redis that loses its functions each time gets the script
        self.waiters: list[Slot[Any]] = []
        self.on_ended: Callable[[], None] | None = None  # there is a reply or an error
        # It gets the call as an argument: a callback that held its call would make a cycle.
        self.on_reply: Callable[[Call, Reply], None] = _single

    def ask(self) -> None:
        """Send it."""
        loader = self.loader
        if loader.as_script:
            self._ask(b"EVALSHA", loader.script(self.verb).sha, self.verb.encode())
            return
        command = [b"FCALL", loader.functions[self.verb], b"%d" % len(self.keys), *self.keys, *self.head, *self.args]
        loader.redis.ask(encode(command), self._on_reply)

    def _ask(self, by: bytes, script: bytes, verb: bytes) -> None:
        command = [by, script, b"%d" % len(self.keys), *self.keys, verb, *self.head, *self.args]
        self.loader.redis.ask(encode(command), self._on_reply)

    def _ask_again(self, text: str) -> bool:
        """Whether Redis did not know what was called, so that it was sent once more."""
        if text != "ERR Function not found" and not text.startswith("NOSCRIPT"):
            return False
        self.tries -= 1
        if text.startswith("NOSCRIPT") or not self.tries:  # EVAL brings the text along: it needs nothing in Redis
            self._ask(b"EVAL", self.loader.script(self.verb).text, self.verb.encode())
        else:
            self.loader.on_missing()
            self.ask()
        return True

    def _on_reply(self, reply: Reply, error: BaseException | None) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if self._ask_again(text):
                return
            error = refusal(text)
        if error is not None:
            for slot in self.waiters:
                slot.fail(error if len(self.waiters) == 1 else copy_of(error))
        else:
            self.on_reply(self, reply)
        if self.on_ended is not None:
            self.on_ended()


class Turn:
    """The calls of this turn of the reactor, in order.

    on_first_use(queue) is called once for each queue and connection, before the first call for it.
    """

    def __init__(self, redis: Redis, clock: IReactorTime) -> None:
        self.redis, self.clock = redis, clock
        self.loader = Loader(redis, clock)
        self.on_first_use: Callable[[bytes], None] = lambda queue: None
        self._calls: list[Call] = []
        self._last: dict[bytes, Call] = {}
        self._keys: dict[bytes, bytes] = {}
        self.used: set[bytes] = set()  # queues for which on_first_use() was called

    def key(self, queue: bytes) -> bytes:
        """The key that a function of this queue gets."""
        key = self._keys.get(queue)
        if key is None:
            if len(self._keys) >= REMEMBERED:
                self._keys.clear()
            key = self._keys[queue] = b"restmq:{%b}:m" % queue
        return key

    def last(self, queue: bytes, name: str) -> Call | None:
        """This turn's newest call for a queue, when it is of that verb and others may still join it."""
        call = self._last.get(queue)
        return call if call is not None and call.verb == name else None

    def open(self, name: str, queue: bytes, head: tuple[bytes, ...], merging: bool = False) -> Call:
        """Make a call that is sent when the turn ends. With `merging`, other requests may join it until then."""
        if queue not in self.used:
            if len(self.used) >= REMEMBERED:
                self.used.clear()
            self.used.add(queue)
            self.on_first_use(queue)
        call = Call(self.loader, name, [self.key(queue)], head)
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
        """Call a verb for a queue, in order with this turn's other calls."""
        slot: Slot[Reply] = Slot()
        self.open(name, queue, args).waiters.append(slot)
        return slot

    def call_now(self, name: str, keys: list[bytes], *args: bytes) -> Slot[Reply]:
        """Call a verb that concerns no single queue, at once: before the calls of this turn."""
        slot: Slot[Reply] = Slot()
        call = Call(self.loader, name, keys, args)
        call.waiters.append(slot)
        call.ask()
        return slot

    def hint(self, *parts: bytes) -> None:
        """Send a command whose reply does not matter. It goes out before the calls of this turn, in the same write."""
        self.redis.ask(encode(parts), ignored)

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        self._last.clear()
        for call in calls:
            call.ask()
