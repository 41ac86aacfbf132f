"""Load on several instances while they are killed, stopped and cut off; then every element is accounted for.

A program, and what tests/faults/test_faults.py runs for a shorter time:

    python -m tests.support.harness --seconds 600 --every 3

Between each instance and Redis stands a Proxy, which can cut or deafen either
connection. The clients are in lanes.py, a lane a queue. At the end all is healed,
what waits is taken, and each lane tells what it found: lost, doubled, out of
order, each doubled element matched to a fault of the instance that gave it first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.instance import Instance, troubles
from tests.support.lanes import BROKEN, LANES, SLACK, Fault, Lane, answer
from tests.support.nginx import Nginx
from tests.support.patience import LONG, PATIENCE
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer

FAULTS = ("kill", "killall", "stop", "cut", "deaf", "redis", "freeze", "leave", "away", "fill")


class World:
    """Redis, the proxies, the instances; what was done to them, and what came of it."""

    def __init__(self, folder: Path, plan: argparse.Namespace) -> None:
        self.folder, self.plan = folder, plan
        self.random = random.Random(plan.seed)
        self.redis: RedisServer | None = None
        self.nginx: Nginx | None = None
        self.front = 0
        self.proxies: list[Proxy] = []
        self.instances: list[Instance] = []
        self.faults: list[Fault] = []
        self.leaving = self.away = 0.0
        self.began = time.monotonic()
        self.producing = self.consuming = True
        self.late = 0.0  # seconds that this program was late, at most: how long others had the machine
        kinds = [LANES[name] for name in plan.lanes]
        share = 1 / max(1, sum(not kind.small for kind in kinds))
        large = plan.rate * share, max(1, round(plan.producers * share)), round(plan.consumers * share)
        self.lanes: list[Lane] = [kind(self, *((20, 1, 1) if kind.small else large)) for kind in kinds]

    @property
    def slack(self) -> float:
        """Seconds that what was seen may be later than what happened: the instances may be as late as this program."""
        return SLACK + 2 * self.late

    async def watch(self) -> None:
        """Measure how late this program is."""
        while True:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            self.late = max(self.late, time.monotonic() - due)

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
        if self.plan.nginx:
            upstreams = [f"127.0.0.1:{one.port}" for one in self.instances]
            named = "        add_header X-Upstream $upstream_addr always;\n"
            self.nginx = await asyncio.to_thread(Nginx, self.folder, upstreams, named)
            self.front = self.nginx.port
            await self.ask("GET", "/stats/")

    async def stop(self) -> list[str]:
        """End all; answers what the logs should not hold."""
        found = []
        if self.nginx is not None:
            await asyncio.to_thread(self.nginx.end)
        for instance in self.instances:
            with contextlib.suppress(ProcessLookupError):
                instance.process.send_signal(signal.SIGCONT)
        for log in await asyncio.gather(*(asyncio.to_thread(instance.stop) for instance in self.instances)):
            found += troubles(log)
        for proxy in self.proxies:
            proxy.stop()
            proxy.cut()
        if self.redis is not None:
            self.redis.process.send_signal(signal.SIGCONT)
            await asyncio.to_thread(self.redis.stop)
        return found

    async def form(self, path: str, body: str) -> None:
        """POST a form to some instance until it says 200."""
        for attempt in range(100):
            instance = self.instances[attempt % len(self.instances)]
            with contextlib.suppress(OSError):
                if (await asyncio.to_thread(instance.form, path, body))[0] == 200:
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"nobody takes {path}")

    async def ask(self, method: str, path: str, body: str = "", tries: int = 50, key: str = "") -> Any:
        """One request to any instance; the JSON of its answer, None when it is not 200. Raises what is in BROKEN.

        With a `key` the body is a value to be stored, and the answer is its key.
        """
        for left in range(tries - 1, -1, -1):
            port = self.front or self.random.choice(self.instances).port
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    kind = f"text/plain\r\nIdempotency-Key: {key}" if key else "application/json"
                    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
                    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                    status, _, said = await answer(reader)
                finally:
                    writer.transport.abort()
            except BROKEN:
                if not left:
                    raise
                await asyncio.sleep(0.1)
                continue
            if status in (502, 503, 504) and left:
                await asyncio.sleep(0.1)
                continue
            if status != 200:
                return None
            return said.decode() if key else json.loads(said)
        return None

    # -- what is done to them

    async def torment(self) -> None:
        """A fault every so often, until the time is over."""
        end = time.monotonic() + self.plan.seconds
        while self.plan.faults and time.monotonic() < end:
            await asyncio.sleep(self.plan.every * self.random.uniform(0.7, 1.3))
            if time.monotonic() >= end:
                break
            kind = self.random.choice(self.plan.faults)
            victim = self.random.randrange(len(self.instances))
            began, place = time.monotonic(), len(self.faults)
            self.faults.append(Fault(kind, victim, began, float("inf")))
            victim = await getattr(self, "do_" + kind)(victim)
            self.faults[place] = Fault(kind, victim, began, time.monotonic())
            acked = sum(len(lane.acked) for lane in self.lanes)
            left, took = max(0.0, end - time.monotonic()), time.monotonic() - began
            say(f"{left:4.0f} s left: {kind} {victim} for {took:.1f} s; {acked} acknowledged")
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
            proxy.refuses = True
            proxy.cut("both")
            await asyncio.sleep(self.random.uniform(0.2, 5))
            proxy.heal()
        return victim

    async def do_deaf(self, victim: int) -> int:
        """Redis is heard no more by it, over one kind of connection or both."""
        proxy = self.proxies[victim]
        proxy.deafen_all(self.random.choice(("commands", "messages", "both")))
        await asyncio.sleep(self.random.uniform(1, 8))
        proxy.heal()
        return victim

    async def do_redis(self, victim: int) -> int:
        """Redis itself is killed and comes back with what is on its disk."""
        assert self.redis is not None
        self.redis.process.kill()
        await asyncio.to_thread(self.redis.process.wait)
        await asyncio.sleep(self.random.uniform(0, 1))
        await asyncio.to_thread(self.redis.start)
        return -1

    async def do_freeze(self, victim: int) -> int:
        """Redis sleeps for longer than the deadline: what it was asked meanwhile it does when it wakes."""
        assert self.redis is not None
        self.redis.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(6.5 * self.random.uniform(0.9, 1.1))
        self.redis.process.send_signal(signal.SIGCONT)
        return -1

    async def do_leave(self, victim: int) -> int:
        """Some live consumers end their connections."""
        self.leaving = time.monotonic()
        return -1

    async def do_away(self, victim: int) -> int:
        """Some live consumers leave, and come back when history no longer reaches as far; every other time, before."""
        lane = self.lanes[0]
        times = sum(fault.kind == "away" for fault in self.faults)
        until = len(lane.acked) + round((2000 if times % 2 else 500) * self.random.uniform(0.8, 1.2))
        self.away = float("inf")
        while self.producing and len(lane.acked) < until:
            await asyncio.sleep(0.05)
        self.away = 0.0
        return -1

    async def do_fill(self, victim: int) -> int:
        """Live consumers of this instance that do not read, and more than their sockets hold."""
        stuck = []
        lanes = [lane for lane in self.lanes if lane.name in ("broadcast", "lease")]
        for lane in lanes:
            for _ in range(2):
                link = socket.socket()
                link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                with contextlib.suppress(OSError):
                    link.connect(("127.0.0.1", self.instances[victim].port))
                    query = getattr(lane, "query", "")
                    link.sendall(f"GET /c/{lane.queue}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                stuck.append(link)
        await asyncio.sleep(0.2)
        for lane in lanes:
            await lane.burst(100, 50_000)
        await asyncio.sleep(1)
        for link in stuck:
            link.close()
        return victim

    # -- the end

    async def settle(self) -> None:
        """All is healed; wait until nothing more moves, then take what waits."""
        for proxy in self.proxies:
            proxy.heal()
        self.producing = False
        quiet, before = 0.0, -1
        for _ in range(1200):
            await asyncio.sleep(0.1)
            count = sum(len(lane.seen) for lane in self.lanes)
            quiet, before = (quiet + 0.1, before) if count == before else (0.0, count)
            if quiet > 4.5 and all([await lane.settled() for lane in self.lanes]):
                break
        self.consuming = False


def say(text: str) -> None:
    """One line of progress."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


async def run(folder: Path, plan: argparse.Namespace) -> dict[str, Any]:
    """The whole thing; answers what each lane found, by its name."""
    world = World(folder, plan)
    tasks: list[asyncio.Task[None]] = []
    makers: list[asyncio.Task[None]] = []
    try:
        await world.start()
        tasks.append(asyncio.ensure_future(world.watch()))
        for lane in world.lanes:
            await lane.begin()
            tasks += lane.consume()
        while not all(lane.ready for lane in world.lanes):
            await asyncio.sleep(0.05)
        for lane in world.lanes:
            makers += lane.produce()
        tasks += makers
        say(f"{plan.instances} instances, {plan.consumers} consumers, seed {plan.seed}")
        if plan.elements:
            await asyncio.wait_for(asyncio.gather(*makers), plan.seconds + LONG)
        else:
            await world.torment()
        await world.settle()
        for task in tasks[1:]:  # all but the watch
            await asyncio.wait_for(task, PATIENCE)
        for lane in world.lanes:
            await lane.drain()
        found = findings(world)
    finally:
        for task in tasks:
            task.cancel()
        logs = await world.stop()
        if logs:
            say(f"the logs hold {logs}; see {folder}")
    found["logs"] = logs
    return found


def findings(world: World) -> dict[str, Any]:
    """What each lane found, by its name; what was done; what the logs hold is not known yet."""
    found: dict[str, Any] = {"seed": world.plan.seed, "faults": dict(Counter(fault.kind for fault in world.faults))}
    found["late"] = round(world.late, 3)
    found.update({lane.name: lane.audit() for lane in world.lanes})
    return {**found, "logs": []}


def failures(found: dict[str, Any]) -> list[str]:
    """What of the findings breaks a promise."""
    broken = ["the logs hold tracebacks"] if found["logs"] else []
    for name, lane in found.items():
        if not isinstance(lane, dict) or name == "faults":
            continue
        for word in (
            "lost",
            "wrong",
            "doubled without a fault",
            "pairs missing",
            "pairs doubled without a fault",
            "holes",
            "disorder",
            "announced, but kept",
            "resets",
            "uneven",
            "dropped",
            "left over",
            "off the books",
            "acknowledged twice",
            "never done with",
            "never waiting again",
        ):
            if lane.get(word):
                broken.append(f"{name}: {word}: {lane[word]}")
        if lane["books"].get("imbalanced"):
            broken.append(f"{name}: the books did not balance")
        if not lane["acknowledged"] or not lane["books"].get("looks"):
            broken.append(f"{name}: nothing happened")
        if name in ("pull", "alone") and lane["doubled"]:
            broken.append(f"{name}: given twice: {lane['doubled']}")
    return broken


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12, help="how long [12]")
    parser.add_argument("--every", type=float, default=3, help="seconds from one fault to the next, about [3]")
    parser.add_argument(
        "--faults",
        default="kill,stop,cut,deaf,redis,freeze,leave,fill",
        help=", ".join(FAULTS) + " [all but killall, away]",
    )
    parser.add_argument("--lanes", default=",".join(LANES), help=", ".join(LANES) + " [all]")
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--consumers", type=int, default=36)
    parser.add_argument("--producers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=400, help="adds a second [400]")
    parser.add_argument("--elements", type=int, default=0, help="end after so many, without faults")
    parser.add_argument("--stop", type=float, default=6, help="seconds that a stop lasts [6]")
    parser.add_argument("--nginx", action="store_true", help="all through one Nginx, with docs/nginx.conf")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--deadline", type=float, default=5, help="seconds that Redis has to answer [5]")
    parser.add_argument("--silence", type=float, default=3, help="seconds until an instance counts as dead [3]")
    parser.add_argument(
        "--conf",
        default="[queues]\nhistory = 100000\nhistory_bytes = 512MiB\n",
        help="restmq.conf of the instances",
    )
    parser.add_argument("--keep", default="", help="a folder to keep logs in")
    plan = parser.parse_args(words)
    plan.faults = [word for word in plan.faults.split(",") if word]
    plan.lanes = plan.lanes.split(",")
    plan.conf += f"[redis]\ndeadline = {plan.deadline}s\n[server]\nsilence = {plan.silence}s\n"
    for word in [*plan.faults, *plan.lanes]:
        if word not in (*FAULTS, *LANES):
            parser.error(f"{word} is no fault and no lane")
    return plan


def main() -> None:
    """Run it, print the findings as JSON; the exit code is 1 when a promise was broken."""
    plan = options()
    with contextlib.nullcontext(plan.keep) if plan.keep else tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(Path(folder), plan))
    print(json.dumps(found, indent=1))
    broken = failures(found)
    print("\n".join(broken) or "every promise was kept")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
