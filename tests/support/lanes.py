"""The clients of the fault harness, a lane a queue: who produces, who consumes, and what must come of it.

A lane writes down every key that was acknowledged and every element that arrived,
with the time, the connection and the instance. audit() compares the two. Owns no
knowledge of the scripts: all it sees is the wire. harness.py makes the world they
live in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import re
import time
from collections import Counter, defaultdict
from functools import cached_property
from typing import Any, NamedTuple

from tests.support.chunks import Chunks
from tests.support.frames import PING, PONG, TEXT, Frames, frame
from tests.support.patience import PATIENCE

ELEMENT = re.compile(
    rb'\{"key": "[^":]+:(\d+)", "value": "([^"]*)"(?:, "lease": "([^"]*)")?(?:, "id": "([^"]*)")?\}'
    rb'|\{[^{}]*"gap": \[(\d+), (\d+)\]'
    rb'|\{[^{}]*"epoch": "([^"]*)"\}'
    rb'|\{"id": "([^"]*)"\}'  # what /c and /ws open with
    rb"|\nid: (\d+@\S+)\n\n"  # what /sse opens with
)
SSE_ID = re.compile(rb"id: (\d+@\S+)\n")
TRANSPORTS = ("c", "sse", "ws")
HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}\r\n"
)
GRACE = 4.0  # seconds after a fault in which others take over what was not confirmed
SLACK = 2.0  # seconds that this program may be late: it reads for all; World.slack adds what it was found to be
#: What stands in the way of an element: its instance died, slept, or was cut off from Redis; or Redis died or slept.
BREAKING = frozenset({"kill", "killall", "stop", "cut", "deaf", "redis", "freeze"})
#: What may lose the answer of a request, or its command's: an instance that only slept answers when it wakes.
CUTTING = BREAKING - {"stop"}
ENDING = frozenset({"kill", "killall"})  # what ends connections of clients; nothing else does
#: After which others take over from an instance, and may give what it gave. While Redis is away nobody is given up.
WOKEN = 0.5  # seconds in which what was being written when an instance was stopped goes out once it wakes
SILENCING = frozenset({"stop", "cut", "deaf"})
SILENT = 1.5  # seconds after which that may begin: a beat lasts 3 s, the last one was a second ago, and a little more
BROKEN = (OSError, EOFError, asyncio.TimeoutError)  # a connection ended; on Python 3.10 a time-out is no OSError


class Fault(NamedTuple):
    """What was done to which instance (all of them: -1), and when it began and ended."""

    kind: str
    instance: int
    began: float
    ended: float


class Seen(NamedTuple):
    """One element as it arrived: by whom, over which connection, from which instance, and when."""

    number: int
    who: str
    connection: int
    instance: int
    when: float
    place: tuple[int, bytes] | None = None  # P and the epoch, where it came with an id


class Ended(NamedTuple):
    """A stream that ended though nobody had left: whose it was, of which instance, and when."""

    who: str
    instance: int
    when: float


class Cut(NamedTuple):
    """A request that takes, and that was not answered: when it was sent and given up, where, and who gave up."""

    asked: float
    over: float
    instance: int
    left: bool


async def answer(reader: asyncio.StreamReader, patience: float = PATIENCE) -> tuple[int, bytes, bytes]:
    """The next answer: status, head and body. Raises what is in BROKEN."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience)
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split(b" ")[1]), head, body


class Body:
    """Reads a body as it comes."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        self._reader = reader
        self._chunks = Chunks() if b"chunked" in head.lower() else None
        self.silent = True  # this way nothing is ever said

    async def read(self) -> bytes:
        """What comes next; b"" at the end."""
        while data := await self._reader.read(1 << 18):
            if self._chunks is None:
                return data
            body = self._chunks.receive(data)
            if body or self._chunks.ended:
                return body
        return b""


class Messages:
    """Reads the messages of a WebSocket, a line each, and answers pings, or it would be given up.

    Once `silent` it says nothing more.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = Frames()
        self.silent = False

    async def read(self) -> bytes:
        """What comes next; b"" at the end, as after a close frame."""
        while data := await self._reader.read(1 << 18):
            found = self._frames.receive(data)
            for kind, content in found:
                if kind == PING and not self.silent:
                    assert not content, "these pings are empty"
                    self._writer.write(frame(PONG))
            texts = [content for kind, content in found if kind == TEXT]
            if texts:
                return b"\n".join(texts) + b"\n"
        return b""


class Lane:
    """One queue with its clients. `world` tells which instances there are."""

    policy = ""
    small = False  # a small one has its own few clients, and no share of the plan's
    limit = 1 << 22  # bytes that a client reads ahead

    def __init__(self, world: Any, rate: float, producers: int, consumers: int) -> None:
        self.world, self.rate, self.producers, self.consumers = world, rate, producers, consumers
        self.name = type(self).__name__.lower()
        self.queue = f"{self.name}{world.plan.seed}"
        self.random = random.Random(f"{world.plan.seed}{self.name}")
        self.acked: dict[int, bytes] = {}
        self.acked_at: dict[int, float] = {}
        self.asked_at: dict[int, float] = {}  # when it was first sent: a stopped instance may keep the answer
        self.sent: set[bytes] = set()  # values that were sent, acknowledged or not
        self.values: dict[int, bytes] = {}
        self.seen: list[Seen] = []
        self.refusals: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.books: dict[str, int] = {}  # at the end
        self.left = 0
        self.connected = 0
        self._connections = 0

    def produce(self) -> list[asyncio.Task[None]]:
        """The producers, as tasks."""
        return [asyncio.ensure_future(self.producer(number)) for number in range(self.producers)]

    def consume(self) -> list[asyncio.Task[None]]:
        """The consumers, as tasks, and who looks at the books."""
        return [asyncio.ensure_future(self.looker())]

    @property
    def ready(self) -> bool:
        """Whether all who are to be there are."""
        return True

    async def begin(self) -> None:
        """Make the queue what it must be."""
        if self.policy:
            await self.world.form(f"/p/{self.queue}", f"policy={self.policy}")

    @property
    def producing(self) -> bool:
        """Whether more is to be added."""
        most = self.world.plan.elements // (100 if self.small else 1)
        return self.world.producing and (not most or len(self.acked) < most)

    def home(self) -> int:
        """Any instance."""
        return self.random.randrange(len(self.world.instances))

    async def connect(self, home: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        """A connection to an instance, or to what stands before them all; and its number."""
        port = self.world.front or self.world.instances[home].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=self.limit)
        self._connections += 1
        return reader, writer, self._connections

    def note(
        self,
        number: int,
        value: bytes,
        who: str,
        connection: int,
        home: int,
        place: tuple[int, bytes] | None = None,
    ) -> None:
        """An element arrived. Its value must be the one of its key, whoever sees it."""
        before = self.values.setdefault(number, value)
        assert before == value, f"element {number} is {before!r} and {value!r}"
        self.seen.append(Seen(number, who, connection, home, time.monotonic(), place))

    # -- producing

    async def producer(self, name: int) -> None:
        """POST, one after the other; each with a key of its own, and until it is answered 200 again with that."""
        count, pause = 0, self.producers / self.rate
        following = time.monotonic()
        retry: tuple[bytes, bytes] | None = None
        while self.producing or retry:
            try:
                reader, writer, _ = await self.connect(self.home())
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self.producing or retry:
                    if retry is None:
                        count += 1
                        retry = (b"%s.%d.%d" % (self.name.encode(), name, count), b"%d-%d" % (name, count))
                        asked = time.monotonic()
                    value, key = retry
                    head = f"POST /q/{self.queue}{self.options(name, count)} HTTP/1.1\r\nHost: localhost\r\n"
                    head += f"Content-Type: text/plain\r\nIdempotency-Key: {key.decode()}\r\n"
                    self.sent.add(value)
                    writer.write(f"{head}Content-Length: {len(value)}\r\n\r\n".encode() + value)
                    status, said, body = await answer(reader)
                    if status == 200:
                        number = int(body.rpartition(b":")[2])
                        assert number not in self.acked, f"{number} was given to two adds"
                        self.acked[number], self.acked_at[number] = value, time.monotonic()
                        self.asked_at[number] = asked
                        self.refusals["replayed"] += b"Idempotency-Replayed" in said
                        retry = None
                    elif status == 503 and body[:1] == b"{":
                        self.refusals["503 " + json.loads(body).get("stored", "")] += 1
                        await asyncio.sleep(0.1)
                    else:  # Nginx's own, of an instance that was cut off
                        assert status in (502, 503, 504), (status, body)
                        self.refusals[str(status)] += 1
                    following += pause
                    wait = following - time.monotonic()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    else:
                        following = max(following, time.monotonic() - 1)
            except BROKEN:
                self.refusals["cut"] += 1
            finally:
                writer.transport.abort()

    def options(self, name: int, count: int) -> str:
        """The query of an add."""
        return ""

    async def burst(self, many: int, size: int) -> None:
        """Add large values, more than a socket holds."""
        for _ in range(0, many, 10):
            await asyncio.gather(*(self.large(size) for _ in range(10)))

    async def large(self, size: int) -> None:
        """Add one; when it is not answered 200 it may be there."""
        key = f"burst-{len(self.sent)}"
        value = b"%s.burst.%d.%s" % (self.name.encode(), len(self.sent), b"x" * size)
        self.sent.add(value)
        asked = time.monotonic()
        said = await self.world.ask("POST", f"/q/{self.queue}", value.decode(), key=key)
        if said is not None:
            number = int(said.rpartition(":")[2])
            self.asked_at[number] = asked
            self.acked[number], self.acked_at[number] = value, time.monotonic()

    # -- looking

    async def looker(self) -> None:
        """The books, again and again: whatever happens, they balance."""
        while self.world.consuming:
            with contextlib.suppress(*BROKEN):
                said = await self.world.ask("GET", f"/ledger/{self.queue}")
                if said is not None:
                    self.looks["looks"] += 1
                    self.looks["imbalanced"] += said["imbalance"] != 0
            await asyncio.sleep(0.25)

    # -- the end

    async def settled(self) -> bool:
        """Whether nothing is on its way any more."""
        said = await self.world.ask("GET", f"/stats/{self.queue}")
        return said is not None and said["leased"] == 0 and said["delayed"] == 0

    async def drain(self) -> None:
        """Take what waits, and read the books."""
        while said := await self.world.ask("POST", f"/q/{self.queue}/take"):
            self.note(int(said["key"].rpartition(":")[2]), said["value"].encode(), "drain", 0, -1)
        self.books = await self.world.ask("GET", f"/ledger/{self.queue}") or {}
        self.looks["looks"] += 1
        self.looks["imbalanced"] += self.books.get("imbalance") != 0

    def audit(self) -> dict[str, Any]:
        """What came of every acknowledged element."""
        found: dict[int, list[Seen]] = defaultdict(list)
        for one in self.seen:
            found[one.number].append(one)
        lost = sorted(n for n in self.acked if n not in found)
        wrong = [n for n, value in self.acked.items() if self.values.get(n, value) != value]
        strange = [value for value in self.values.values() if value not in self.sent]
        twice = len(self.acked) - len(set(self.acked.values()))
        said: dict[str, Any] = {
            "acknowledged": len(self.acked),
            "lost": len(lost),
            "wrong": len(wrong) + len(strange) + twice,
            "refusals": dict(self.refusals),
            "books": dict(self.looks),
            "drained": sum(one.who == "drain" for one in self.seen),
            "left over": sum(self.books.get(word, 0) for word in ("waiting", "delayed", "leased", "dead")),
        }
        if lost:
            said["first lost"] = [(n, self.acked[n].decode(), round(self.acked_at[n], 2)) for n in lost[:10]]
        delays = sorted(found[n][0].when - at for n, at in self.acked_at.items() if n in found)
        if delays:
            shares = (("median", 0.5), ("99 %", 0.99), ("most", 1.0))
            said["ms"] = {word: round(1000 * delays[int(share * (len(delays) - 1))], 1) for word, share in shares}
        return said

    def explaining(self, first: Seen, again: Seen) -> Fault | None:
        """The fault of the instance that gave it first which explains that it was given again; None when there is none.

        Others take over only from an instance that was silent for long, within GRACE of the fault.
        """
        return next(
            (
                fault
                for fault in reversed(self.world.faults)
                if (fault.kind in ENDING or (fault.kind in SILENCING and fault.ended - fault.began > SILENT))
                and (
                    (self.gave(fault, first) and fault.began <= again.when <= fault.ended + GRACE + self.world.slack)
                    or self.woke(fault, first, again)
                )
            ),
            None,
        )

    def gave(self, fault: Fault, first: Seen) -> bool:
        """Whether the instance of this fault gave this as its last; when it wakes or is heard again, it knows."""
        return abs(first.when - fault.began) <= self.world.slack and fault.instance in (first.instance, -1)

    def woke(self, fault: Fault, first: Seen, again: Seen) -> bool:
        """Whether it was stopped while it wrote this, which went out when it woke, after another's consumer had it."""
        return (
            (fault.kind, fault.instance) == ("stop", again.instance)
            and fault.began <= first.when
            and abs(again.when - fault.ended) <= self.world.late + WOKEN
            and self.asked_at.get(first.number, fault.began) <= fault.began + self.world.late + WOKEN
        )

    def by_consumer(self) -> dict[str, list[Seen]]:
        """What each consumer got, in its order."""
        found: dict[str, list[Seen]] = defaultdict(list)
        for one in self.seen:
            if one.who != "drain":
                found[one.who].append(one)
        return found

    def doubles(self) -> dict[str, Any]:
        """Elements that more than one saw, and those for which no fault can be named."""
        found: dict[int, list[Seen]] = defaultdict(list)
        for one in self.seen:
            found[one.number].append(one)
        doubled = [seen for seen in found.values() if len(seen) > 1]
        reasons = [[self.explaining(seen[0], one) for one in seen[1:]] for seen in doubled]
        unmatched = [seen for seen, why in zip(doubled, reasons) if None in why]
        said: dict[str, Any] = {"doubled": len(doubled), "doubled without a fault": len(unmatched)}
        faults = Counter(fault for why in reasons for fault in set(why) if fault is not None)
        said["doubled by one fault"] = {}
        for fault, count in faults.items():
            said["doubled by one fault"].setdefault(fault.kind, []).append(count)
        return {**said, **self.shown(unmatched or doubled)}

    def shown(self, doubled: list[list[Seen]]) -> dict[str, Any]:
        """Some of those that were doubled, and all faults, for who looks for the reason."""
        if not doubled:
            return {}
        began = self.world.began
        faults = [
            (fault.kind, fault.instance, round(fault.began - began, 2), round(fault.ended - began, 2))
            for fault in self.world.faults
        ]
        some = [
            [(*one[:4], round(one.when - began, 2), one.place and one.place[0]) for one in seen]
            for seen in doubled[:: max(1, len(doubled) // 8)]
        ]
        return {"some doubled": some, "faults": faults}


class Live(Lane):
    """A lane of live consumers, all three transports in turn, that come back whenever their stream ends."""

    query = ""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        instances = self.world.plan.instances
        transports = [TRANSPORTS[number // instances % 3] for number in range(self.wanted)]
        self.names = {f"{transport}{number}": transport for number, transport in enumerate(transports)}
        self.last: dict[str, bytes] = {}  # consumer -> the last id it has
        self.gaps: list[tuple[str, int, int]] = []
        self.resets = 0
        self.ended: list[Ended] = []
        self.homes: dict[str, list[tuple[float, int]]] = defaultdict(list)  # consumer -> since when it was where

    def consume(self) -> list[asyncio.Task[None]]:
        others = super().consume()
        for number, (name, transport) in enumerate(self.names.items()):
            home = number % len(self.world.instances)
            others.append(asyncio.ensure_future(self.consumer(name, transport, home)))
        return others

    @property
    def ready(self) -> bool:
        return self.connected >= self.wanted

    @property
    def wanted(self) -> int:
        """How many live consumers there are to be."""
        return self.consumers

    async def consumer(self, name: str, transport: str, home: int) -> None:
        """One live consumer."""
        while self.world.consuming:
            if self.away(name):
                await asyncio.sleep(0.05)
                continue
            try:
                reader, writer, connection = await self.connect(home)
            except OSError:
                await asyncio.sleep(0.05)
                home = self.home()
                continue
            # On an event stream it says what a browser says, so that the opening's id counts before any element's.
            extra = {"ws": HANDSHAKE, "sse": "Pragma: no-cache\r\n"}.get(transport, "")
            query = self.query
            if self.policy == "broadcast":  # it resumes: by the header, as a browser does, or by since
                since = self.last.get(name, b"now").decode()
                if transport == "sse" and name in self.last:
                    extra += f"Last-Event-ID: {since}\r\n"
                else:
                    query = f"?since={since}"
            writer.write(f"GET /{transport}/{self.queue}{query} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                home = self.served(head, home)
                if head.split(b" ")[1] in (b"200", b"101"):
                    self.connected += 1
                    self.homes[name].append((time.monotonic(), home))
                    gone = False
                    try:
                        body = Messages(reader, writer) if transport == "ws" else Body(reader, head)
                        gone = await self.listen(body, writer, name, connection, home)
                    finally:
                        self.connected -= 1
                        if not gone and self.world.consuming:
                            self.ended.append(Ended(name, home, time.monotonic()))
                elif head.split(b" ")[1] not in (b"503", b"502", b"504"):
                    raise AssertionError(head)
            except BROKEN:
                pass  # it ends as it may; the next connection goes on
            finally:
                writer.transport.abort()
            await asyncio.sleep(0.05)
            home = self.home()

    def served(self, head: bytes, home: int) -> int:
        """Which instance answers: Nginx names all that it asked, and the last of them did."""
        asked = re.search(rb"X-Upstream: ([^\r\n]*)", head)
        if not asked:
            return home
        return [one.port for one in self.world.instances].index(int(asked[1].rpartition(b":")[2]))

    def away(self, name: str) -> bool:
        """Whether this consumer is to be away now: a third of them may be, so that others know what they miss."""
        return self.world.away > time.monotonic() and list(self.names).index(name) % 3 == 1

    async def listen(
        self, reader: Body | Messages, writer: asyncio.StreamWriter, name: str, connection: int, home: int
    ) -> bool:
        """Write down what comes, until the stream ends or it is time to leave; True when it was not ended on this one.

        Who leaves says so and reads to the end: what was written to its socket is its own.
        """
        rest, began, leaving, opened = b"", time.monotonic(), False, False
        while self.world.consuming:
            if not leaving and (
                (self.world.leaving > began and self.random.random() < 0.1) or (opened and self.away(name))
            ):
                self.left += 1
                leaving = reader.silent = True
                writer.write_eof()
            try:
                data = await asyncio.wait_for(reader.read(), 0.5)
            except asyncio.TimeoutError:
                continue
            if not data:
                break
            if not opened and data.startswith(b": "):
                return True  # an event stream that was refused
            opened = True
            rest = self.parse(rest + data, name, connection, home)
            await asyncio.sleep(self.pause(name, len(data)))
        return leaving

    def pause(self, name: str, size: int) -> float:
        """Seconds that a consumer lets pass after it has read so many bytes."""
        return 0

    def parse(self, rest: bytes, name: str, connection: int, home: int) -> bytes:
        """Note every whole element, gap and id; what is left over belongs to what comes next."""
        end = 0
        for found in ELEMENT.finditer(rest):
            places = SSE_ID.findall(rest, end, found.start())
            word = found[4] or found[8] or found[9] or (places[-1] if places else b"")
            end = found.end()
            if word:
                self.last[name] = word
            if found[5]:
                self.gaps.append((name, int(found[5]), int(found[6])))
            self.resets += found[7] is not None
            if found[1]:
                place = (int(word.partition(b"@")[0]), word.partition(b"@")[2]) if word else None
                self.note(int(found[1]), found[2], name, connection, home, place)
                if found[3]:
                    self.leased(int(found[1]), found[3])
        return rest[end:][-(1 << 20) :]

    def dropped(self) -> dict[str, Any]:
        """Streams that ended though their instance lived: Redis and its links may fail, live consumers stay.

        What stands between may end them, too, so that nothing can be said of them through Nginx.
        """
        unexplained = [
            one
            for one in self.ended
            if not any(
                fault.kind in ENDING
                and fault.instance in (one.instance, -1)
                and fault.began <= one.when <= fault.ended + self.world.slack
                for fault in self.world.faults
            )
        ]
        said: dict[str, Any] = {"streams ended": len(self.ended), "left": self.left}
        said["dropped"] = 0 if self.world.front else len(unexplained)
        if said["dropped"]:
            began = self.world.began
            said["some dropped"] = [(*one[:2], round(one.when - began, 2)) for one in unexplained[:8]]
        return said

    def disorder(self) -> int:
        """Elements that came after a higher number to the same consumer; what comes back after a fault may."""
        late = 0
        for seen in self.by_consumer().values():
            highest = 0
            for one in seen:
                late += one.number < highest and not any(
                    fault.kind in BREAKING | {"leave"}
                    and fault.began <= one.when <= fault.ended + GRACE + self.world.slack
                    and self.acked_at.get(one.number, 0) <= fault.ended + self.world.slack
                    for fault in self.world.faults
                )
                highest = max(highest, one.number)
        return late

    def leased(self, number: int, lease: bytes) -> None:
        """It came with a lease."""


class Roundrobin(Live):
    """Each element to exactly one."""

    policy = "roundrobin"

    def audit(self) -> dict[str, Any]:
        got = self.by_consumer()
        shares = [len(got[name]) for name in self.names]
        return {
            **super().audit(),
            **self.doubles(),
            **self.dropped(),
            "disorder": self.disorder(),
            "shares": [min(shares), max(shares)],
            "uneven": 0 if self.world.faults else max(0, max(shares) - min(shares) - 1),
        }


class Solo(Roundrobin):
    """One live consumer alone: every element comes to it, by number."""

    small = True


class Broadcast(Live):
    """Every element to everybody, in one order; who comes back misses nothing that is kept, and is told what is not."""

    policy = "broadcast"

    def gave(self, fault: Fault, first: Seen) -> bool:
        """Whether nobody was left who had heard it when the fault came: only then does a broadcast come again.

        Whoever came back meanwhile has it already, out of history, from another instance.
        """
        lost = {
            each.instance
            for each in self.world.faults
            if each.kind in ENDING | SILENCING and each.began <= fault.began < each.ended + GRACE
        }
        heard = {
            [home for when, home in homes if when <= fault.began or when == homes[0][0]][-1]
            for homes in self.homes.values()
        }
        near = fault.began - self.world.slack <= first.when <= fault.ended + GRACE + self.world.slack
        return near and (-1 in lost or heard <= lost)

    def audit(self) -> dict[str, Any]:
        """Position P is the same element for everybody, and grows along each consumer's life, whatever it was cut."""
        got = self.by_consumer()
        at: dict[tuple[bytes, int], int] = {}  # epoch, P -> N
        places: dict[int, set[int]] = defaultdict(set)  # N -> its P's
        doubled: list[list[Seen]] = []
        unmatched: list[list[Seen]] = []
        disorder = holes = missing = vain = 0
        for one in self.seen:
            if one.place is not None:
                P, epoch = one.place
                disorder += at.setdefault((epoch, P), one.number) != one.number
                places[one.number].add(P)
        known = sorted({P for _, P in at})
        for name in self.names:
            announced = [range(first, last + 1) for who, first, last in self.gaps if who == name]
            heard: dict[int, Seen] = {}
            mine: set[int] = set()
            before: tuple[int, bytes] | None = None
            highest = 0
            for one in got[name]:
                if one.number in heard:
                    doubled.append([heard[one.number], one])
                    if self.explaining(*doubled[-1]) is None:
                        unmatched.append(doubled[-1])
                heard.setdefault(one.number, one)
                if one.place is not None:
                    disorder += before is not None and before[1] == one.place[1] and one.place[0] <= before[0]
                    before = one.place
                    mine.add(one.place[0])
                if not self.world.faults:
                    disorder += one.number < highest
                    highest = max(highest, one.number)
            for P in known:
                told = any(P in gap for gap in announced)
                holes += P not in mine and not told
                vain += P in mine and told
            missing += sum(
                number not in heard and not any(P in gap for gap in announced for P in places[number])
                for number in self.acked
            )
        kept = int((re.search(r"history = (\d+)", self.world.plan.conf) or (0, 1000))[1])
        return {
            **super().audit(),
            **self.dropped(),
            "pairs": len(self.acked) * len(self.names),
            "pairs missing": missing,
            "holes": holes,
            "disorder": disorder,
            "pairs doubled": len(doubled),
            "pairs doubled without a fault": len(unmatched),
            **self.shown(unmatched or doubled),
            "gaps announced": len(self.gaps),
            "announced, but kept": vain + sum(max(known, default=0) - last < kept for _, _, last in self.gaps),
            "resets": self.resets,
        }


class Slow(Broadcast):
    """One live consumer alone, which reads slowly and steadily, and bursts of large elements: it sets the pace.

    What counts as delivered went to its socket and to nobody else's. So an element that it has not read is lost.
    """

    small = True
    limit = 1 << 15
    slow = 640_000  # bytes a second

    def produce(self) -> list[asyncio.Task[None]]:
        return [*super().produce(), asyncio.ensure_future(self.bursts())]

    async def bursts(self) -> None:
        """More than a consumer's buffer holds, again and again; on the average less than the slow one can read."""
        while self.producing:
            await self.burst(60, 30_000)
            for _ in range(50):
                if self.producing:
                    await asyncio.sleep(0.1)

    def pause(self, name: str, size: int) -> float:
        return size / self.slow if name == next(iter(self.names)) else 0


class Behind(Slow):
    """The same beside one that reads at once: the slow one falls behind, and goes on from history."""

    @property
    def wanted(self) -> int:
        return 2


class Pull(Lane):
    """GET, take and waiting GETs: at most once. An answer that was lost on its way is gone."""

    KINDS: tuple[int, ...] = (0, 1, 2)

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.cuts: list[Cut] = []

    def consume(self) -> list[asyncio.Task[None]]:
        kinds = [self.KINDS[number % len(self.KINDS)] for number in range(self.consumers)]
        pullers = [asyncio.ensure_future(self.puller(f"get{number}", kind)) for number, kind in enumerate(kinds)]
        return super().consume() + pullers

    async def puller(self, name: str, kind: int) -> None:
        """One after the other; the third kind leaves in the middle of its waiting now and then.

        Who leaves reads to the end: what was written to its socket is its own, and all else must go on waiting.
        """
        ask = ("GET /q/{}", "POST /q/{}/take", "GET /q/{}?wait=2")[kind].format(self.queue)
        while self.world.consuming:
            home, asked, leaving = self.home(), 0.0, False
            try:
                reader, writer, connection = await self.connect(home)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self.world.consuming and not leaving:
                    length = "Content-Length: 0\r\n" if ask.startswith("POST") else ""
                    asked = time.monotonic()
                    writer.write(f"{ask} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode())
                    leaving = kind == 2 and self.random.random() < 0.02
                    if leaving:
                        await asyncio.sleep(self.random.random() * 0.05)
                        writer.write_eof()
                    status, _, body = await answer(reader)
                    if status == 200:
                        said = json.loads(body)
                        number = int(said["key"].rpartition(":")[2])
                        self.note(number, said["value"].encode(), name, connection, home)
                    elif status == 503 and b'"maybe"' in body:
                        self.cuts.append(Cut(asked, time.monotonic(), home, leaving))
                    elif not leaving:
                        await asyncio.sleep(0.03)
                    asked = 0.0
                self.left += leaving
            except BROKEN:
                self.refusals["left unanswered" if leaving else "pull cut"] += 1
            finally:
                if asked:
                    self.cuts.append(Cut(asked, time.monotonic(), home, leaving))
                writer.transport.abort()

    def excused(self, cut: Cut) -> bool:
        """Whether a fault of its instance explains that it was not answered.

        Who left is no excuse: its instance knew, and could bring back what it had taken, but for one that was cut
        off from Redis in that moment.
        """
        slack = 0.0 if cut.left else self.world.slack / 2
        return any(
            fault.kind in (CUTTING if cut.left else BREAKING)
            and (self.world.front or fault.instance in (cut.instance, -1))
            and fault.began - slack <= cut.over
            and cut.asked <= fault.ended + slack
            for fault in self.world.faults
        )

    def audit(self) -> dict[str, Any]:
        said = {**super().audit(), **self.doubles()}
        # What was removed for an answer that never arrived is gone by promise: no more than there were such requests.
        excused = sum(self.excused(cut) for cut in self.cuts)
        gone = said["lost"]
        said["answers lost"], said["excused"], said["gone"] = len(self.cuts), excused, gone
        said["lost"] = max(0, gone - excused)
        # The books count what was taken; whoever saw it, or whom its answer did not reach, is known here.
        said["off the books"] = self.books.get("taken", 0) - len({one.number for one in self.seen}) - gone
        return said


class Alone(Pull):
    """One GET after the other, by nobody else: what comes never comes back, so its numbers rise, whatever happens."""

    small = True
    KINDS = (0,)

    def audit(self) -> dict[str, Any]:
        numbers = [one.number for one in self.seen]
        return {**super().audit(), "disorder": sum(b <= a for a, b in zip(numbers, numbers[1:]))}


class Once(Lane):
    """Queues of one element, leased or put off by one request and then left alone: each must wait again by itself.

    Nobody touches such a queue later, so nothing but its own time can end what was begun, also when the answer of
    that one request was lost. Looking at an element touches nothing.
    """

    small = True
    LEASE = DELAY = 1
    LATE = 5 + GRACE  # no lease ends for 5 s after Redis was away; whoever had the timer may have died

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.alone: dict[str, tuple[str, bool, float]] = {}  # queue -> what was asked, whether answered, when
        self.found: dict[str, dict[str, Any] | None] = {}

    def consume(self) -> list[asyncio.Task[None]]:
        return []

    def produce(self) -> list[asyncio.Task[None]]:
        return [asyncio.ensure_future(self.producer(number)) for number in range(4)]

    async def producer(self, name: int) -> None:
        """A queue, its element, one request; every other one is leased for long, and put off at once."""
        count = 0
        while self.producing:
            count += 1
            queue = f"{self.queue}.{name}.{count}"
            await asyncio.sleep(0.1)
            try:
                if await self.world.ask("POST", f"/q/{queue}", "one", key="one") is None:
                    continue
                if count % 2:
                    asked = "GET", f"/q/{queue}?lease={self.LEASE}"
                elif await self.world.ask("GET", f"/q/{queue}?lease=60", tries=1):
                    asked = "POST", f"/q/{queue}/1?lease=0&delay={self.DELAY}"
                else:
                    continue
            except BROKEN:
                continue
            self.acked[len(self.acked) + 1] = queue.encode()
            try:
                done = await self.world.ask(*asked, tries=1) is not None
            except BROKEN:
                done = False
            self.alone[queue] = (asked[1], done, time.monotonic())

    async def settled(self) -> bool:
        last = max((when for _, _, when in self.alone.values()), default=0)
        ended = max((fault.ended for fault in self.world.faults), default=0)
        return time.monotonic() > max(last, ended) + max(self.LEASE, self.DELAY) + self.LATE

    async def drain(self) -> None:
        """Look at those whose answer was lost, and at some of the others."""
        doubtful = [queue for queue, (_, done, _) in self.alone.items() if not done]
        others = [queue for queue, (_, done, _) in self.alone.items() if done]
        looked = doubtful + self.random.sample(others, min(len(others), 500))
        for queue in looked:
            self.found[queue] = await self.world.ask("GET", f"/q/{queue}/1")
        self.looks["looks"] = len(looked)

    def audit(self) -> dict[str, Any]:
        """What is leased or delayed still, though its time is over, never ends; what was not asked in time, may."""
        gone = [queue for queue, one in self.found.items() if one is None]
        left = {
            queue: one.get("lease_ends_in", one.get("due_in"))
            for queue, one in self.found.items()
            if one is not None and one["state"] != "waiting"
        }
        never = [queue for queue, seconds in left.items() if not seconds or seconds <= 0]
        said: dict[str, Any] = {
            "acknowledged": len(self.alone),
            "unanswered": sum(not done for _, done, _ in self.alone.values()),
            "lost": len(gone),
            "never waiting again": len(never),
            "books": dict(self.looks),
        }
        if never:
            began = self.world.began
            said["first never"] = [
                (self.alone[queue][0], round(self.alone[queue][2] - began, 2), self.found[queue])
                for queue in never[:10]
            ]
        return said


class Lease(Live):
    """Leased by GET and by live consumers, acknowledged at any instance: at least once, and nothing is lost.

    Clients crash (they forget what they have), nack, and come too late. An
    acknowledgement is accepted once for each element, however often it was given.
    """

    policy = "roundrobin"
    query = "?lease=1.5&prefetch=5"

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.done: Counter[int] = Counter()
        self.unsure: set[int] = set()  # acknowledged, but the answer was lost

    @cached_property
    def todo(self) -> asyncio.Queue[bytes]:
        """Leases that are to be acknowledged; before Python 3.10 it is made for the loop that runs."""
        return asyncio.Queue()

    def options(self, name: int, count: int) -> str:
        return "?delay=0.3" if count % 20 == 0 else ""

    @property
    def wanted(self) -> int:
        return self.consumers // 2

    def consume(self) -> list[asyncio.Task[None]]:
        leasers = range(self.consumers - self.wanted)
        others = super().consume()
        others += [asyncio.ensure_future(self.leaser(f"lease{number}")) for number in leasers]
        return others + [asyncio.ensure_future(self.acker()) for _ in range(4)]

    def leased(self, number: int, lease: bytes) -> None:
        if self.random.random() < 0.95:  # else its worker crashes
            self.todo.put_nowait(lease)

    async def leaser(self, name: str) -> None:
        """GET some on lease, and acknowledge most of them."""
        while self.world.consuming:
            home = self.home()
            try:
                reader, writer, connection = await self.connect(home)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self.world.consuming:
                    writer.write(
                        f"GET /q/{self.queue}?lease=1&max=3&wait=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                    )
                    status, _, body = await answer(reader)
                    if status == 200:
                        for said in json.loads(body):
                            number = int(said["key"].rpartition(":")[2])
                            self.note(number, said["value"].encode(), name, connection, home)
                            self.leased(number, said["lease"].encode())
                    else:
                        await asyncio.sleep(0.03)
            except BROKEN:
                self.refusals["lease cut"] += 1
            finally:
                writer.transport.abort()

    async def acker(self) -> None:
        """Acknowledge and give back at any instance, again until it is answered; sometimes too late."""
        pending: list[str] = []
        while self.world.consuming or pending or not self.todo.empty():
            while not self.todo.empty() and len(pending) < 50:
                pending.append(self.todo.get_nowait().decode())
            if not pending:
                await asyncio.sleep(0.01)
                continue
            if self.random.random() < 0.02:
                await asyncio.sleep(1.6)
            nacked = [lease for lease in pending if self.random.random() < 0.05]
            acked = [lease for lease in pending if lease not in nacked]
            said = {"ack": acked, "nack": [{"lease": lease, "error": "no"} for lease in nacked]}
            try:
                done = await self.world.ask("POST", f"/q/{self.queue}/ack", json.dumps(said), tries=1)
            except BROKEN:
                done = None
            if done is None:  # it may have been done: asked again, it would be told as lost
                self.unsure |= {int(lease.partition(".")[0]) for lease in acked}
                await asyncio.sleep(0.05)
            else:
                for lease in set(acked) - set(done["lost"]):
                    self.done[int(lease.partition(".")[0])] += 1
                pending = []
                continue
            if self.random.random() < 0.5:
                pending = []  # it gives up: the leases end

    async def settled(self) -> bool:
        said = await self.world.ask("GET", f"/stats/{self.queue}")
        return said is not None and said["leased"] == said["delayed"] == said["len"] == 0

    def audit(self) -> dict[str, Any]:
        said = super().audit()
        said.update(self.dropped())
        said["given"] = len(self.seen)
        said["acknowledged twice"] = sum(count > 1 for count in self.done.values())
        drained = {one.number for one in self.seen if one.who == "drain"}
        never = self.acked.keys() - self.done.keys() - self.unsure - drained
        said["never done with"] = len(never)
        if never:
            said["first never"] = sorted(never)[:10]
        return said


LANES: dict[str, type[Lane]] = {
    kind.__name__.lower(): kind for kind in (Roundrobin, Broadcast, Pull, Lease, Solo, Alone, Once, Slow, Behind)
}
