"""One queue as it lies in Redis: its functions with a clock that the test sets, its channels, and its keys read back.

Owns the functions' words and the keys' formats (lua/lib/keys.lua); judges nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from restmq.store.library import Library, context
from tests.support.model_live import Message, Said
from tests.support.patience import PATIENCE

DB = 15
KEY = "restmq:{q}:"
BEGAN = 1_700_000_000_000  # ms
CLOCK = """(function()
  local ms = tonumber(redis.call('GET', 'clock'))
  return {math.floor(ms / 1000), ms % 1000 * 1000}
end)()"""
LEDGER = "added waiting delayed leased dead taken delivered acked deleted expired purged dropped bytes".split()
STATE = "n bytes c due taken acked delivered pos sure best sum cut floor left flags".split()
FLAGS = "born slow waits live roundrobin stopped ruled".split()
SCOPES = ("live", "pull", "add")


class Verbs:
    """The functions for one queue, called as the core calls them."""

    def __init__(self, link: Any, rules: Mapping[str, Any] | None = None, clock: bool = True) -> None:
        self.link = link
        self.library = Library(CLOCK) if clock else Library()
        self.context = context(DB, rules)
        link.function_load(self.library.text, replace=True)

    def __call__(self, verb: str, *words: Any) -> Any:
        return self.link.fcall(*self.command(verb, *words))

    def command(self, verb: str, *words: Any) -> tuple[Any, ...]:
        """What FCALL takes."""
        return self.library.functions[verb], 1, KEY + "m", self.context, *words

    def state(self) -> dict[str, int]:
        """The packed state, by lua/lib/queue.lua's names."""
        packed = self.link.get(KEY + "m")
        return dict(zip(STATE, map(int, struct.unpack(">14dB", packed) if packed else [0] * 15)))

    def books(self) -> dict[str, int]:
        """look.lua's columns; it ends what is due."""
        return dict(zip(LEDGER, self("look")))


class Stored:
    """Every key of the queue, read in one go."""

    def __init__(self, link: Any) -> None:
        pipe = link.pipeline(transaction=False)
        pipe.xrange(KEY + "q").hgetall(KEY + "e").hgetall(KEY + "x").hgetall(KEY + "y").hgetall(KEY + "a")
        pipe.hgetall(KEY + "u").hgetall(KEY + "from").hgetall(KEY + "live").hkeys(KEY + "taps")
        for zset in "rbltdg":
            pipe.zrange(KEY + zset, 0, -1, withscores=True)
        pipe.xrange(KEY + "h").lrange(KEY + "ring", 0, -1).lrange(KEY + "wt", 0, -1)
        pipe.smembers(KEY + "way:A").smembers(KEY + "way:B").smembers(KEY + "ways").lrange(KEY + "lost", 0, -1)
        q, e, x, y, a, u, since, live, taps, *zsets, h, ring, line, one, two, held, lost, packed = pipe.get(
            KEY + "m"
        ).execute()
        self.plain = {int(key.partition(b"-")[0]): (fields[b"v"], int(key.partition(b"-")[2])) for key, fields in q}
        self.kept = {int(N): (text.partition(b" ")[2], int(text.partition(b" ")[0])) for N, text in e.items()}
        self.tries = {int(N): self._tries(text.decode()) for N, text in x.items()}
        self.way = {int(N): (text.split()[0].decode(), int(text.split()[1])) for N, text in y.items()}
        self.own = {int(N): int(ends) for N, ends in u.items()}
        self.notes = {name.decode(): text.decode() for name, text in a.items()}
        self.since = {inst.decode(): tuple(map(int, text.split())) for inst, text in since.items()}
        self.consumers = {inst.decode(): tuple(map(int, text.split())) for inst, text in live.items()}
        self.taps = {inst.decode() for inst in taps}
        self.back, self.unsure, self.leased, self.ttl, self.delayed, self.dead = (
            {int(N): int(score) for N, score in zset} for zset in zsets
        )
        self.history = {int(key.partition(b"-")[0]): self._entry(key, fields) for key, fields in h}
        self.ring = [inst.decode() for inst in ring]
        self.line = [inst.decode() for inst in line]
        self.holders = {inst.decode() for inst in held}
        self.lost = {name.decode(): {int(N) for N in link.smembers(KEY + name.decode())} for name in lost}
        self.ways = {"A": {int(N) for N in one}, "B": {int(N) for N in two}}
        self.state = dict(zip(STATE, map(int, struct.unpack(">14dB", packed) if packed else [0] * 15)))
        self.flags = {name: bool(self.state["flags"] >> bit & 1) for bit, name in enumerate(FLAGS) if packed}
        self.stops = {scope: int(self.notes[f"stop_{scope}"]) for scope in SCOPES if f"stop_{scope}" in self.notes}

    @staticmethod
    def _tries(text: str) -> tuple[int, int, int, str, list[str]]:
        first, *errors = text.split("\n")
        handed, shown, failed, owner = first.split(" ")
        return int(handed), int(shown), int(failed), owner, errors

    @staticmethod
    def _entry(key: bytes, fields: dict[bytes, bytes]) -> tuple[int, bytes, int, int]:
        return int(key.partition(b"-")[2]), fields[b"v"], int(fields[b"t"]), int(fields.get(b"e", 0))


class Ear:
    """The subscriptions of one instance."""

    def __init__(self, link: Any, inst: str) -> None:
        self.inst = inst
        self.channels = (f"{KEY}c{DB}", f"{KEY}i{DB}:{inst}")
        self.taps = f"{KEY}t{DB}"
        self.messages = link.pubsub()
        self.messages.subscribe("nothing")  # so that it always has a connection to be asked over

    def heard(self) -> list[Message]:
        """All that came. Redis answers PING on the same connection, so nothing can still be under way."""
        self.messages.ping()
        came: list[Message] = []
        while True:
            message = self.messages.get_message(timeout=PATIENCE)
            if message["type"] == "pong":
                return came
            if message["type"] == "message":
                came.append(self.read(message["data"]))

    @staticmethod
    def read(data: bytes) -> Message:
        """The message as the model has it: kind, epoch, what it says."""
        head, words, body = data.split(b"\n", 2)
        kind, epoch, first = head.decode().split(" ")
        if kind in "RBT":
            numbers = list(map(int, words.split()))
            told = []
            for at in range(0, len(numbers), 3):
                number, handed, length = numbers[at : at + 3]
                told.append((number, handed, body[:length]))
                body = body[length:]
            what: Said = (int(first), told)
        else:
            others: dict[str, Callable[[], Said]] = {
                "W": lambda: int(first),
                "A": lambda: list(map(int, words.split())),
                "Z": lambda: None,
                "P": words.decode,
            }
            what = others[kind]()
        assert body == b""
        return kind, epoch, what


def groups(reply: list[Any], size: int) -> list[list[Any]]:
    """A flat reply in pieces."""
    assert len(reply) % size == 0, reply
    return [reply[at : at + size] for at in range(0, len(reply), size)]


def triples(reply: list[Any]) -> list[tuple[int, int, bytes]]:
    """Number, count, value, number, count, value…"""
    return [(int(number), int(count), value) for number, count, value in groups(reply, 3)]
