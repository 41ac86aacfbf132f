"""Load on several instances while they are killed, stopped and cut off; then every element is accounted for.

A program, and what tests/test_faults.py runs for a shorter time:

    python tests/faults.py --seconds 600 --every 3 --policy roundrobin --faults kill,stop,cut

Producers POST and write down each key that was acknowledged; live consumers on
all three transports, and clients that GET, write down each key they see, with
the time, the connection and the instance. Between each instance and Redis
stands a Proxy, which can cut or deafen either connection. At the end all is
healed, what waits is taken, and audit() compares: lost, doubled, out of order,
each doubled element matched to a fault of the instance that gave it first.
Owns no knowledge of the scripts: all it sees is the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conftest import Instance, RedisServer, troubles

ELEMENT = re.compile(rb'\{(?:"id": "[^"]*", )?"key": "[^":]+:(\d+)", "value": "([^"]*)"')
SSE_ID = re.compile(rb"id: (\d+)@")
TRANSPORTS = ("c", "sse", "ws")
HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}\r\n"
)
GRACE = 4.0  # seconds after a fault in which others may take over what was not confirmed


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


class Proxy:
    """Carries bytes between one instance and Redis, until it is told to cut, or to swallow what Redis says."""

    def __init__(self, path: Path, redis: Path) -> None:
        self.path, self._redis = path, redis
        self._links: dict[asyncio.Transport, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf: set[str] = set()
        self.refusing = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        """End all."""
        self._server.close()
        self.cut("both")
        for task in list(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            back, out = await asyncio.open_unix_connection(str(self._redis))
        except OSError:
            writer.transport.abort()
            return
        self._links[writer.transport] = "commands"
        down = asyncio.ensure_future(self._carry(back, writer, writer.transport))
        self._tasks.add(down)
        down.add_done_callback(self._tasks.discard)
        await self._carry(reader, out, None, writer.transport)
        out.close()

    async def _carry(self, reader: Any, writer: Any, down: Any, up: Any = None) -> None:
        try:
            while data := await reader.read(65536):
                if up is not None and b"SUBSCRIBE" in data:
                    self._links[up] = "messages"
                if down is not None and self._links.get(down) in self._deaf:
                    continue  # it is said, and nobody hears it
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass  # the other side is cut, which is what we are here for
        finally:
            writer.transport.abort()
            self._links.pop(down if down is not None else up, None)

    def cut(self, link: str) -> None:
        """End the connections of one kind (commands, messages) or both."""
        for transport, kind in list(self._links.items()):
            if link in (kind, "both"):
                transport.abort()

    def deafen(self, link: str) -> None:
        """From now on what Redis says over this kind of connection is swallowed."""
        self._deaf |= {"commands", "messages"} if link == "both" else {link}

    def heal(self) -> None:
        """Carry everything again; what was swallowed is lost, so those connections end."""
        for link in self._deaf:
            self.cut(link)
        self._deaf.clear()
        self.refusing = False


class World:
    """Redis, the proxies, the instances; what was done to them, and what came of it."""

    def __init__(self, folder: Path, plan: argparse.Namespace) -> None:
        self.folder, self.plan = folder, plan
        self.random = random.Random(plan.seed)
        self.queue = plan.queue
        self.redis: RedisServer
        self.proxies: list[Proxy] = []
        self.instances: list[Instance] = []
        self.faults: list[Fault] = []
        self.acked: dict[int, bytes] = {}
        self.maybe: set[bytes] = set()
        self.acked_at: dict[int, float] = {}
        self.seen: list[Seen] = []
        self.values: dict[int, bytes] = {}
        self.positions: dict[int, list[int]] = defaultdict(list)  # N -> P, as SSE tells
        self.unanswered = 0  # GETs whose connection ended before the answer
        self.left = 0
        self.refusals: Counter[str] = Counter()
        self.latest = 0.0
        self.producing = True
        self.consuming = True
        self.connected = 0
        self._connections = 0

    async def start(self) -> None:
        """Redis with every write on the disk, and the instances, each behind its proxy."""
        redis = self.folder / "redis"
        redis.mkdir(parents=True)
        self.redis = await asyncio.to_thread(RedisServer, redis, "--appendfsync always")
        for number in range(self.plan.instances):
            folder = self.folder / f"instance{number}"
            folder.mkdir()
            proxy = Proxy(folder / "proxy.sock", self.redis.socket)
            await proxy.start()
            self.proxies.append(proxy)
            self.instances.append(await asyncio.to_thread(Instance, folder, f"unix:{proxy.path}", self.plan.conf))

    async def stop(self) -> list[str]:
        """End all; answers what the logs should not hold."""
        found = []
        for instance in self.instances:
            with contextlib.suppress(ProcessLookupError):
                instance.process.send_signal(signal.SIGCONT)
            found += troubles(await asyncio.to_thread(instance.stop))
        for proxy in self.proxies:
            await proxy.stop()
        await asyncio.to_thread(self.redis.stop)
        return found

    def connection(self) -> int:
        """A number for a new connection."""
        self._connections += 1
        return self._connections

    async def form(self, path: str, body: str) -> None:
        """POST a form to some instance until it says 200."""
        for attempt in range(100):
            instance = self.instances[attempt % len(self.instances)]
            with contextlib.suppress(OSError):
                if (await asyncio.to_thread(instance.form, path, body))[0] == 200:
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"nobody takes {path}")

    # -- what is done to them

    async def torment(self) -> None:
        """A fault every so often, until the time is over."""
        end = time.monotonic() + self.plan.seconds
        kinds: list[str] = self.plan.faults
        while kinds and time.monotonic() < end:
            await asyncio.sleep(self.plan.every * self.random.uniform(0.7, 1.3))
            if time.monotonic() >= end:
                break
            kind = self.random.choice(kinds)
            victim = self.random.randrange(len(self.instances))
            began = time.monotonic()
            place = len(self.faults)
            self.faults.append(Fault(kind, victim, began, float("inf")))
            victim = await getattr(self, "do_" + kind)(victim)
            self.faults[place] = Fault(kind, victim, began, time.monotonic())
            say(f"{kind} {victim}: {time.monotonic() - began:.1f} s; {len(self.acked)} acknowledged")
        left = end - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)

    async def do_kill(self, victim: int) -> int:
        """kill -9, and a new one in its place."""
        instance = self.instances[victim]
        instance.process.kill()
        await asyncio.to_thread(instance.process.wait)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(instance.start)
        return victim

    async def do_killall(self, victim: int) -> int:
        """All at once."""
        await asyncio.gather(*(self.do_kill(number) for number in range(len(self.instances))))
        return -1

    async def do_stop(self, victim: int) -> int:
        """Longer than its beat lasts."""
        process = self.instances[victim].process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.plan.stop * self.random.uniform(0.85, 1.15))
        process.send_signal(signal.SIGCONT)
        return victim

    async def do_cut(self, victim: int) -> int:
        """Its connections to Redis end, one kind or both; sometimes they are refused for a while."""
        proxy = self.proxies[victim]
        proxy.cut(self.random.choice(("commands", "messages", "both")))
        if self.random.random() < 0.5:
            proxy.refusing = True
            proxy.cut("both")
            await asyncio.sleep(self.random.uniform(0.2, 5))
            proxy.heal()
        return victim

    async def do_deaf(self, victim: int) -> int:
        """Redis is heard no more by it, over one kind of connection or both."""
        proxy = self.proxies[victim]
        proxy.deafen(self.random.choice(("commands", "messages", "both")))
        await asyncio.sleep(self.random.uniform(1, 8))
        proxy.heal()
        return victim

    async def do_redis(self, victim: int) -> int:
        """Redis itself is killed and comes back with what is on its disk."""
        self.redis.process.kill()
        await asyncio.to_thread(self.redis.process.wait)
        await asyncio.sleep(self.random.uniform(0, 1))
        await asyncio.to_thread(self.redis.start)
        return -1

    async def do_leave(self, victim: int) -> int:
        """Some consumers end their connections: see consumer()."""
        self.latest = time.monotonic()
        return -1

    # -- clients

    async def producer(self, name: int) -> None:
        """POST, one after the other, over connections that are kept."""
        count, pause = 0, self.plan.producers / self.plan.rate
        following = time.monotonic()
        while self.producing and (not self.plan.elements or len(self.acked) < self.plan.elements):
            try:
                reader, writer = await self.connect()
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self.producing and (not self.plan.elements or len(self.acked) < self.plan.elements):
                    count += 1
                    value = b"%d.%d" % (name, count)
                    head = f"POST /q/{self.queue} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
                    self.maybe.add(value)
                    writer.write(f"{head}Content-Length: {len(value)}\r\n\r\n".encode() + value)
                    status, body = await answer(reader)
                    if status == 200:
                        number = int(body.rpartition(b":")[2])
                        assert number not in self.acked, f"{number} was given to two adds"
                        self.acked[number] = value
                        self.acked_at[number] = time.monotonic()
                        self.maybe.discard(value)
                    else:
                        assert status == 503, (status, body)
                        self.refusals["503 " + json.loads(body).get("stored", "")] += 1
                        if b'"no"' in body:
                            self.maybe.discard(value)
                        await asyncio.sleep(0.1)
                    following += pause
                    wait = following - time.monotonic()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    else:
                        following = max(following, time.monotonic() - 1)
            except (OSError, EOFError, asyncio.TimeoutError):
                self.refusals["cut"] += 1
            finally:
                writer.transport.abort()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to any instance."""
        port = self.random.choice(self.instances).port
        return await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)

    async def consumer(self, name: str, transport: str, home: int) -> None:
        """A live consumer that comes back whenever its stream ends."""
        while self.consuming:
            instance = self.instances[home]
            connection = self.connection()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
            except OSError:
                await asyncio.sleep(0.05)
                home = self.random.randrange(len(self.instances))
                continue
            extra = HANDSHAKE if transport == "ws" else ""
            writer.write(f"GET /{transport}/{self.queue} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                if head.split(b" ")[1] in (b"200", b"101"):
                    self.connected += 1
                    try:
                        await self.listen(reader, writer, name, connection, home)
                    finally:
                        self.connected -= 1
            except (OSError, EOFError, asyncio.TimeoutError):
                pass  # it ends as it may; the next connection goes on
            finally:
                writer.transport.abort()
            await asyncio.sleep(0.05)
            home = self.random.randrange(len(self.instances))

    async def listen(self, reader: Any, writer: Any, name: str, connection: int, home: int) -> None:
        """Write down what comes, until the stream ends or it is time to leave."""
        rest, began = b"", time.monotonic()
        while self.consuming:
            if self.latest > began and self.random.random() < 0.1:
                self.left += 1
                return
            try:
                data = await asyncio.wait_for(reader.read(1 << 18), 0.5)
            except asyncio.TimeoutError:
                continue
            if not data:
                return
            rest += data
            now, end = time.monotonic(), 0
            for found in ELEMENT.finditer(rest):
                number = int(found[1])
                self.note(number, found[2])
                self.seen.append(Seen(number, name, connection, home, now))
                places = SSE_ID.findall(rest, end, found.start())
                if places:  # the last: a stream opens with an id of its own
                    self.positions[number].append(int(places[-1]))
                end = found.end()
            rest = rest[end:][-4096:]

    def note(self, number: int, value: bytes) -> None:
        """The value must be the one of its key, whoever sees it."""
        before = self.values.setdefault(number, value)
        assert before == value, f"element {number} is {before!r} and {value!r}"

    async def puller(self, name: str) -> None:
        """GET, one after the other."""
        while self.consuming:
            home = self.random.randrange(len(self.instances))
            connection = self.connection()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.instances[home].port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            asking = False
            try:
                while self.consuming:
                    writer.write(f"GET /q/{self.queue} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    asking = True
                    status, body = await answer(reader)
                    asking = False
                    if status == 200:
                        said = json.loads(body)
                        number = int(said["key"].rpartition(":")[2])
                        self.note(number, said["value"].encode())
                        self.seen.append(Seen(number, name, connection, home, time.monotonic()))
                    else:
                        if status == 503 and b'"maybe"' in body:
                            self.unanswered += 1
                        await asyncio.sleep(0.05)
            except (OSError, EOFError, asyncio.TimeoutError):
                self.unanswered += asking
            finally:
                writer.transport.abort()

    # -- the end

    async def settle(self) -> None:
        """All is healed; wait until nothing more moves, then take what waits."""
        for proxy in self.proxies:
            proxy.heal()
        self.producing = False
        quiet, before = 0.0, -1
        for _ in range(300):
            await asyncio.sleep(0.1)
            quiet, before = (quiet + 0.1, before) if len(self.seen) == before else (0.0, len(self.seen))
            if quiet > 4.5 and await self.stats("leased") == 0:
                break
        self.consuming = False
        await asyncio.sleep(1)
        instance = self.instances[0]
        while True:
            status, _, body = await asyncio.to_thread(instance.http, "GET", f"/q/{self.queue}")
            if status != 200:
                break
            said = json.loads(body)
            number = int(said["key"].rpartition(":")[2])
            self.note(number, said["value"].encode())
            self.seen.append(Seen(number, "settle", 0, -1, time.monotonic()))

    async def stats(self, word: str) -> Any:
        """A number of the queue."""
        with contextlib.suppress(OSError):
            status, _, body = await asyncio.to_thread(self.instances[0].http, "GET", f"/stats/{self.queue}")
            if status == 200:
                return json.loads(body)[word]
        return None


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next answer: status and body. Raises EOFError, TimeoutError."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 12)
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split(b" ")[1]), body


def say(text: str) -> None:
    """One line of progress."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def audit(world: World) -> dict[str, Any]:
    """What came of every acknowledged element."""
    plan = world.plan
    by_number: dict[int, list[Seen]] = defaultdict(list)
    for one in world.seen:
        by_number[one.number].append(one)
    known = {value: number for number, value in world.acked.items()}
    strange = [n for n, value in world.values.items() if n not in world.acked and value not in world.maybe]
    wrong = [n for n, value in world.acked.items() if world.values.get(n, value) != value]
    lost = sorted(n for n in world.acked if n not in by_number)
    said: dict[str, Any] = {
        "policy": plan.policy,
        "seed": plan.seed,
        "faults": dict(Counter(fault.kind for fault in world.faults)),
        "acknowledged": len(world.acked),
        "lost": len(lost),
        "strange": len(strange) + len(wrong) + (len(known) != len(world.acked)),
        "refusals": dict(world.refusals),
        "unanswered": world.unanswered,
        "left": world.left,
        "taken at the end": sum(one.who == "settle" for one in world.seen),
    }
    if lost:
        said["first lost"] = [(n, world.acked[n].decode(), round(world.acked_at[n], 2)) for n in lost[:10]]
    delays = sorted(by_number[n][0].when - at for n, at in world.acked_at.items() if n in by_number)
    if delays:
        said["ms"] = {word: round(1000 * delays[int(share * (len(delays) - 1))], 1) for word, share in
                      (("median", 0.5), ("99 %", 0.99), ("most", 1.0))}  # fmt: skip
    if plan.policy == "broadcast":
        said.update(_audit_broadcast(world))
    else:
        doubled = {n: seen for n, seen in by_number.items() if len(seen) > 1}
        said["doubled"] = len(doubled)
        unmatched = [n for n, seen in doubled.items() if not all(_matched(world, seen[0], one) for one in seen[1:])]
        said["doubled without a fault"] = len(unmatched)
        if unmatched:
            said["first unmatched"] = [tuple(one) for one in by_number[unmatched[0]]]
        shares = Counter(one.who for one in world.seen if one.who != "settle")
        said["shares"] = [min(shares.values(), default=0), max(shares.values(), default=0)]
    return said


def _matched(world: World, first: Seen, again: Seen) -> bool:
    """Whether a fault of the instance that gave it first explains that it was given again."""
    return any(
        fault.instance in (first.instance, -1) and fault.began - 1.5 <= again.when and first.when <= fault.ended + GRACE
        for fault in world.faults
        if fault.kind != "leave"
    )


def _audit_broadcast(world: World) -> dict[str, Any]:
    """Every connection hears a run of positions without a hole; nothing is heard twice without a fault."""
    connections: dict[int, list[Seen]] = defaultdict(list)
    consumers: dict[str, list[Seen]] = defaultdict(list)
    for one in world.seen:
        if one.who != "settle":
            connections[one.connection].append(one)
            consumers[one.who].append(one)
    holes = disorder = unknown = 0
    for seen in connections.values():
        before = None
        for one in seen:
            places = world.positions.get(one.number)
            if not places:
                unknown += 1
                before = None
                continue
            if before is None:
                before = min(places)
            elif before + 1 in places:
                before += 1
            elif max(places) < before:
                disorder += 1
                before = max(places)
            else:
                holes += 1
                before = max(places)
    doubled = unmatched = 0
    for seen in consumers.values():
        first: dict[int, Seen] = {}
        for one in seen:
            if one.number in first:
                doubled += 1
                unmatched += not any(f.kind != "leave" and f.began <= one.when for f in world.faults)
            else:
                first[one.number] = one
    complete = [len({one.number for one in seen}) for seen in consumers.values()]
    return {
        "holes": holes,
        "disorder": disorder,
        "without position": unknown,
        "doubled": doubled,
        "doubled without a fault": unmatched,
        "heard by each": [min(complete, default=0), max(complete, default=0)],
    }


async def run(folder: Path, plan: argparse.Namespace) -> dict[str, Any]:
    """The whole thing; answers audit()'s findings."""
    world = World(folder, plan)
    tasks: list[asyncio.Task[None]] = []
    try:
        await world.start()
        if plan.policy in ("broadcast", "roundrobin"):
            await world.form(f"/p/{world.queue}", f"policy={plan.policy}")
        for number in range(plan.consumers):
            home = number % plan.instances
            if plan.policy == "pull":
                tasks.append(asyncio.ensure_future(world.puller(f"get{number}")))
            else:
                transport = TRANSPORTS[number // plan.instances % 3]
                work = world.consumer(f"{transport}{number}", transport, home)
                tasks.append(asyncio.ensure_future(work))
        while plan.policy != "pull" and world.connected < plan.consumers:
            await asyncio.sleep(0.05)
        makers = [asyncio.ensure_future(world.producer(number)) for number in range(plan.producers)]
        tasks += makers
        say(f"{plan.instances} instances, {plan.consumers} consumers, seed {plan.seed}")
        if plan.elements:
            await asyncio.wait_for(asyncio.gather(*makers), plan.seconds + 60)
        else:
            await world.torment()
        await world.settle()
        for task in tasks:
            await asyncio.wait_for(task, 20)
        return audit(world)
    finally:
        for task in tasks:
            task.cancel()
        found = await world.stop()
        if found:
            say(f"the logs hold {found}; see {folder}")


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12, help="how long [12]")
    parser.add_argument("--every", type=float, default=2, help="seconds from one fault to the next, about [2]")
    parser.add_argument("--faults", default="kill", help="kill, killall, stop, cut, deaf, redis, leave; commas [kill]")
    parser.add_argument("--policy", default="roundrobin", choices=["roundrobin", "broadcast", "pull"])
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--consumers", type=int, default=30)
    parser.add_argument("--producers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=400, help="adds a second [400]")
    parser.add_argument("--elements", type=int, default=0, help="stop after so many, without faults")
    parser.add_argument("--stop", type=float, default=6, help="seconds that a stop lasts [6]")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--queue", default="q")
    parser.add_argument("--conf", default="", help="restmq.conf of the instances")
    parser.add_argument("--keep", default="", help="a folder to keep logs in")
    plan = parser.parse_args(words)
    plan.faults = [word for word in plan.faults.split(",") if word]
    return plan


def main() -> None:
    """Run it, print the findings as JSON."""
    plan = options()
    scratch: Callable[[], Any] = tempfile.TemporaryDirectory
    with contextlib.nullcontext(plan.keep) if plan.keep else scratch() as folder:
        print(json.dumps(asyncio.run(run(Path(folder), plan))))


if __name__ == "__main__":
    main()
