"""The clients of the fault harness, a lane a queue: who produces, who consumes, and what must come of it.

A lane writes down every key that was acknowledged and every element that arrived,
with the time, the connection and the instance. audit() compares the two. Owns no
knowledge of the scripts: all it sees is the wire. faults.py makes the world they
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
from typing import Any, NamedTuple

ELEMENT = re.compile(
    rb'\{"key": "[^":]+:(\d+)", "value": "([^"]*)"(?:, "lease": "([^"]*)")?(?:, "id": "([^"]*)")?\}'
    rb'|\{[^{}]*"gap": \[(\d+), (\d+)\]'
)
SSE_ID = re.compile(rb"id: (\d+@\S+)\n")
TRANSPORTS = ("c", "sse", "ws")
HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}\r\n"
)
GRACE = 4.0  # seconds after a fault in which others take over what was not confirmed
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


async def answer(reader: asyncio.StreamReader, patience: float = 12) -> tuple[int, bytes, bytes]:
    """The next answer: status, head and body. Raises what is in BROKEN."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience)
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split(b" ")[1]), head, body


class Unchunked:
    """Reads a body as it comes; Nginx may cut its chunks anywhere (RFC 9112 section 7.1)."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        self._reader, self._chunked = reader, b"chunked" in head.lower()
        self._raw = b""
        self._left = 0

    async def read(self) -> bytes:
        """What comes next; b"" at the end."""
        while True:
            data = await self._reader.read(1 << 18)
            if not data or not self._chunked:
                return data
            self._raw += data
            body = b""
            while self._raw:
                if self._left > 2:
                    part = self._raw[: self._left - 2]
                    body, self._raw, self._left = body + part, self._raw[len(part) :], self._left - len(part)
                elif self._left:
                    if len(self._raw) < 2:
                        break
                    self._raw, self._left = self._raw[2:], 0
                else:
                    size, end, rest = self._raw.partition(b"\r\n")
                    if not end:
                        break
                    if not int(size, 16):
                        return body
                    self._raw, self._left = rest, int(size, 16) + 2
            if body:
                return body


class Lane:
    """One queue with its clients. `world` tells which instances there are."""

    policy = ""

    def __init__(self, world: Any, rate: float, producers: int, consumers: int) -> None:
        self.world, self.rate, self.producers, self.consumers = world, rate, producers, consumers
        self.name = type(self).__name__.lower()
        self.queue = f"{self.name}{world.plan.seed}"
        self.random = random.Random(f"{world.plan.seed}{self.name}")
        self.acked: dict[int, bytes] = {}
        self.acked_at: dict[int, float] = {}
        self.sent: set[bytes] = set()  # values that were sent, acknowledged or not
        self.values: dict[int, bytes] = {}
        self.seen: list[Seen] = []
        self.refusals: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.unanswered = 0  # requests that take, whose connection ended before the answer
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
        most = self.world.plan.elements
        return self.world.producing and (not most or len(self.acked) < most)

    def home(self) -> int:
        """Any instance."""
        return self.random.randrange(len(self.world.instances))

    async def connect(self, home: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        """A connection to an instance, or to what stands before them all; and its number."""
        port = self.world.front or self.world.instances[home].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        self._connections += 1
        return reader, writer, self._connections

    def note(self, number: int, value: bytes, who: str, connection: int, home: int) -> None:
        """An element arrived. Its value must be the one of its key, whoever sees it."""
        before = self.values.setdefault(number, value)
        assert before == value, f"element {number} is {before!r} and {value!r}"
        self.seen.append(Seen(number, who, connection, home, time.monotonic()))

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
        for count in range(many):
            value = b"%s.burst.%d.%s" % (self.name.encode(), len(self.sent), b"x" * size)
            self.sent.add(value)
            key = f"burst-{len(self.sent)}-{count}"
            said = await self.world.ask("POST", f"/q/{self.queue}", value.decode(), key=key)
            if said is not None:
                number = int(said.rpartition(":")[2])
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
        """Take what waits."""
        while True:
            said = await self.world.ask("POST", f"/q/{self.queue}/take")
            if not said:
                return
            self.note(int(said["key"].rpartition(":")[2]), said["value"].encode(), "drain", 0, -1)

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
        }
        if lost:
            said["first lost"] = [(n, self.acked[n].decode(), round(self.acked_at[n], 2)) for n in lost[:10]]
        delays = sorted(found[n][0].when - at for n, at in self.acked_at.items() if n in found)
        if delays:
            shares = (("median", 0.5), ("99 %", 0.99), ("most", 1.0))
            said["ms"] = {word: round(1000 * delays[int(share * (len(delays) - 1))], 1) for word, share in shares}
        return said

    def explained(self, first: Seen, again: Seen) -> bool:
        """Whether a fault of the instance that gave it first explains that it was given again."""
        return any(
            fault.instance in (first.instance, -1)
            and fault.began - 1.5 <= again.when
            and first.when <= fault.ended + GRACE
            for fault in self.world.faults
            if fault.kind != "leave"
        )

    def doubles(self) -> dict[str, Any]:
        """Elements that more than one saw, and those for which no fault can be named."""
        found: dict[int, list[Seen]] = defaultdict(list)
        for one in self.seen:
            found[one.number].append(one)
        doubled = [seen for seen in found.values() if len(seen) > 1]
        unmatched = [seen for seen in doubled if not all(self.explained(seen[0], one) for one in seen[1:])]
        said: dict[str, Any] = {"doubled": len(doubled), "doubled without a fault": len(unmatched)}
        if unmatched:
            began = self.world.began
            said["some unmatched"] = [
                [(one.number, one.who, one.connection, one.instance, round(one.when - began, 2)) for one in seen]
                for seen in unmatched[:: max(1, len(unmatched) // 8)]
            ]
            said["faults"] = [
                (fault.kind, fault.instance, round(fault.began - began, 2), round(fault.ended - began, 2))
                for fault in self.world.faults
            ]
        return said


class Live(Lane):
    """A lane of live consumers, all three transports in turn, that come back whenever their stream ends."""

    query = ""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.positions: dict[int, list[int]] = defaultdict(list)  # N -> P, as the ids tell
        self.last: dict[str, bytes] = {}  # consumer -> the last id it has
        self.gaps: list[tuple[str, int, int]] = []

    def consume(self) -> list[asyncio.Task[None]]:
        others = super().consume()
        instances = len(self.world.instances)
        for number in range(self.wanted):
            transport = TRANSPORTS[number // instances % 3]
            others.append(asyncio.ensure_future(self.consumer(f"{transport}{number}", transport, number % instances)))
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
            try:
                reader, writer, connection = await self.connect(home)
            except OSError:
                await asyncio.sleep(0.05)
                home = self.home()
                continue
            extra = HANDSHAKE if transport == "ws" else ""
            query = self.query
            if self.policy == "broadcast":  # it resumes: by the header, as a browser does, or by since
                since = self.last.get(name, b"now").decode()
                if transport == "sse" and name in self.last:
                    extra += f"Last-Event-ID: {since}\r\n"
                else:
                    query = f"?since={since}"
            writer.write(f"GET /{transport}/{self.queue}{query} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                upstream = re.search(rb"X-Upstream: \S+:(\d+)", head)
                if upstream:
                    ports = [one.port for one in self.world.instances]
                    home = ports.index(int(upstream[1]))
                if head.split(b" ")[1] in (b"200", b"101"):
                    self.connected += 1
                    try:
                        await self.listen(Unchunked(reader, head), name, connection, home)
                    finally:
                        self.connected -= 1
                elif head.split(b" ")[1] not in (b"503", b"502", b"504"):
                    raise AssertionError(head)
            except BROKEN:
                pass  # it ends as it may; the next connection goes on
            finally:
                writer.transport.abort()
            await asyncio.sleep(0.05)
            home = self.home()

    async def listen(self, reader: Unchunked, name: str, connection: int, home: int) -> None:
        """Write down what comes, until the stream ends or it is time to leave."""
        rest, began = b"", time.monotonic()
        while self.world.consuming:
            if self.world.leaving > began and self.random.random() < 0.1:
                self.left += 1
                return
            try:
                data = await asyncio.wait_for(reader.read(), 0.5)
            except asyncio.TimeoutError:
                continue
            if not data:
                return
            rest += data
            end = 0
            for found in ELEMENT.finditer(rest):
                places = SSE_ID.findall(rest, end, found.start())
                word = found[4] or (places[-1] if places else b"")
                end = found.end()
                if found[5]:
                    self.gaps.append((name, int(found[5]), int(found[6])))
                    continue
                self.note(int(found[1]), found[2], name, connection, home)
                if word:
                    self.last[name] = word
                    self.positions[int(found[1])].append(int(word.partition(b"@")[0]))
                if found[3]:
                    self.leased(int(found[1]), found[3])
            rest = rest[end:][-(1 << 20) :]

    def leased(self, number: int, lease: bytes) -> None:
        """It came with a lease."""


class Roundrobin(Live):
    """Each element to exactly one."""

    policy = "roundrobin"

    def audit(self) -> dict[str, Any]:
        shares = Counter(one.who for one in self.seen if one.who != "drain")
        return {
            **super().audit(),
            **self.doubles(),
            "left": self.left,
            "shares": [min(shares.values(), default=0), max(shares.values(), default=0)],
        }


class Broadcast(Live):
    """Every element to everybody, in one order; who comes back misses nothing."""

    policy = "broadcast"

    def audit(self) -> dict[str, Any]:
        """Positions grow by one along every consumer's whole life, whichever connections it had."""
        consumers: dict[str, list[Seen]] = defaultdict(list)
        for one in self.seen:
            if one.who != "drain":
                consumers[one.who].append(one)
        holes = disorder = doubled = unmatched = missing = 0
        for seen in consumers.values():
            before = None
            heard: dict[int, Seen] = {}
            for one in seen:
                places = self.positions.get(one.number, [])
                if one.number in heard:
                    doubled += 1
                    unmatched += not self.explained(heard[one.number], one)
                heard.setdefault(one.number, one)
                if before is not None and places and before + 1 not in places:
                    if max(places) <= before:
                        disorder += 1
                    elif one.number not in self.positions or len(set(places)) == 1:
                        holes += 1
                if places:
                    before = before + 1 if before is not None and before + 1 in places else max(places)
            missing += len(self.acked.keys() - heard.keys())
        return {
            **super().audit(),
            "pairs": len(self.acked) * len(consumers),
            "pairs missing": missing,
            "holes": holes,
            "disorder": disorder,
            "pairs doubled": doubled,
            "pairs doubled without a fault": unmatched,
            "gaps announced": len(self.gaps),
            "left": self.left,
        }


class Pull(Lane):
    """GET, take and waiting GETs: at most once. An answer that was lost on its way is gone."""

    def consume(self) -> list[asyncio.Task[None]]:
        pullers = [asyncio.ensure_future(self.puller(f"get{number}", number % 3)) for number in range(self.consumers)]
        return super().consume() + pullers

    async def puller(self, name: str, kind: int) -> None:
        """One after the other; the third kind leaves in the middle of its waiting now and then."""
        ask = ("GET /q/{}", "POST /q/{}/take", "GET /q/{}?wait=2")[kind].format(self.queue)
        while self.world.consuming:
            home, asking = self.home(), False
            try:
                reader, writer, connection = await self.connect(home)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self.world.consuming:
                    length = "Content-Length: 0\r\n" if ask.startswith("POST") else ""
                    writer.write(f"{ask} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode())
                    asking = True
                    if kind == 2 and self.random.random() < 0.02:
                        await asyncio.sleep(self.random.random() * 0.05)
                        break  # it leaves
                    status, _, body = await answer(reader)
                    asking = False
                    if status == 200:
                        said = json.loads(body)
                        number = int(said["key"].rpartition(":")[2])
                        self.note(number, said["value"].encode(), name, connection, home)
                    else:
                        self.unanswered += status == 503 and b'"maybe"' in body
                        await asyncio.sleep(0.03)
            except BROKEN:
                self.refusals["pull cut"] += 1
            finally:
                self.unanswered += asking
                writer.transport.abort()

    def audit(self) -> dict[str, Any]:
        said = {**super().audit(), **self.doubles()}
        # What was removed for an answer that never arrived is gone by promise: no more than there were such requests.
        said["answers lost"] = self.unanswered
        said["lost"] = max(0, said["lost"] - self.unanswered)
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
        self.todo: asyncio.Queue[bytes] = asyncio.Queue()

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
        said["given"] = len(self.seen)
        said["acknowledged twice"] = sum(count > 1 for count in self.done.values())
        drained = {one.number for one in self.seen if one.who == "drain"}
        never = self.acked.keys() - self.done.keys() - self.unsure - drained
        said["never done with"] = len(never)
        if never:
            said["first never"] = sorted(never)[:10]
        return said


LANES: dict[str, type[Lane]] = {"roundrobin": Roundrobin, "broadcast": Broadcast, "pull": Pull, "lease": Lease}
