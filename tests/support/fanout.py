"""Load: many live consumers of one queue, a few producers; counts what arrives where.

Owns the measuring side only and knows RestMQ by its wire: tests call
`run()`, a bench calls it as a program and gets one line of JSON. Each value
holds a mark, so deliveries are counted in the raw stream, whatever frames it:

    python -m tests.support.fanout 127.0.0.1:8888 --transport sse -n 1000 -m 500 --producers 8
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import time
from collections import deque
from typing import NamedTuple

MARK = re.compile(rb"<<(\d+)>>")
TRANSPORTS = {"comet": "c", "sse": "sse", "websocket": "ws"}


class Plan(NamedTuple):
    """What to do: where, how many, how. `flight` is how many requests a producer has unanswered."""

    host: str
    port: int
    queue: str = "fanout"
    transport: str = "sse"
    consumers: int = 100
    messages: int = 100
    producers: int = 1
    flight: int = 1
    size: int = 64
    roundrobin: bool = False
    limit: float = 60.0
    prefix: str = ""


class Result(NamedTuple):
    """What came of it. `writes` counts the server's chunks over all consumers, on SSE only (0 elsewhere)."""

    wanted: int
    delivered: int
    fewest: int
    most: int
    doubled: int
    refused: int
    lost: int
    reads: int
    writes: int
    adds_per_second: float
    deliveries_per_second: float
    latency_p50_ms: float
    latency_p99_ms: float


class _Run:
    """What consumers and producers share."""

    def __init__(self, plan: Plan) -> None:
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.open = 0
        self.delivered = 0
        self.lost = 0
        self.refused = 0
        self.ending = False
        self.sent: dict[int, float] = {}
        self.latencies: list[float] = []
        self.wanted = plan.messages * (1 if plan.roundrobin else plan.consumers)
        self.all_open: asyncio.Future[None] = loop.create_future()
        self.all_came: asyncio.Future[float] = loop.create_future()


class _Consumer(asyncio.Protocol):
    """One live consumer. The first of them keeps the numbers, to find what came twice, and times them."""

    def __init__(self, run: _Run, first: bool) -> None:
        self.run, self.first = run, first
        self.count = self.reads = self.ends = 0
        self.numbers: list[int] = []
        self.head: bytes | None = b""
        self.tail = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        plan = self.run.plan
        head = f"GET {plan.prefix}/{TRANSPORTS[plan.transport]}/{plan.queue} HTTP/1.1\r\nHost: {plan.host}\r\n"
        if plan.transport == "websocket":
            key = base64.b64encode(os.urandom(16)).decode("ascii")
            head += f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            head += "Sec-WebSocket-Version: 13\r\n"
        transport.write(head.encode("ascii") + b"\r\n")

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self.head is not None:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.head = None
            if head[9:12] not in (b"200", b"101"):
                raise RuntimeError(f"the server answered {head[:200]!r}")
            self.run.open += 1
            if self.run.open == self.run.plan.consumers:
                self.run.all_open.set_result(None)
        count = data.count(b">>") if not self.tail else (self.tail + data).count(b">>")
        if count:
            self.reads += 1
        if self.run.plan.transport == "sse":
            self.ends += data.count(b"\r\n")
        if self.first:
            whole = self.tail + data
            after = 0
            for mark in MARK.finditer(whole):
                number = int(mark[1])
                self.numbers.append(number)
                self.run.latencies.append(now - self.run.sent[number])
                after = mark.end()
            self.tail = whole[after:][-32:].rpartition(b">>")[2]
        else:
            self.tail = b">" if data.endswith(b">") and not data.endswith(b">>") else b""
        self.count += count
        self.run.delivered += count
        if self.run.delivered >= self.run.wanted and not self.run.all_came.done():
            self.run.all_came.set_result(now)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.run.ending:
            self.run.lost += 1


class _Producer(asyncio.Protocol):
    """One producer: keeps `flight` requests on the way until its share is done."""

    def __init__(self, run: _Run, numbers: range) -> None:
        self.run = run
        self.numbers = deque(numbers)
        self.unanswered = 0
        self.buffer = b""
        self.padding = "x" * run.plan.size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        plan, requests = self.run.plan, []
        while self.numbers and self.unanswered < plan.flight:
            number = self.numbers.popleft()
            value = f"<<{number}>>{self.padding}"[: max(plan.size, 12)]
            requests.append(
                f"POST {plan.prefix}/q/{plan.queue} HTTP/1.1\r\nHost: {plan.host}\r\n"
                f"Content-Type: text/plain\r\nContent-Length: {len(value)}\r\n\r\n{value}"
            )
            self.unanswered += 1
            self.run.sent[number] = time.perf_counter()
        if requests:
            self.transport.write("".join(requests).encode("ascii"))
        elif not self.unanswered:
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            size = re.search(rb"(?i)content-length: *(\d+)", head)
            if not end or len(rest) < int(size[1] if size else 0):
                break
            self.buffer = rest[int(size[1]) if size else 0 :]
            self.unanswered -= 1
            if head[9:12] != b"200":
                self.run.refused += 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("a producer's connection was closed"))


async def _connect(plan: Plan, protocol: asyncio.Protocol) -> None:
    await asyncio.get_running_loop().create_connection(lambda: protocol, plan.host, plan.port)


async def run(plan: Plan) -> Result:
    """Open the consumers, let the producers run, count. Raises TimeoutError when not all open in time."""
    state = _Run(plan)
    consumers = [_Consumer(state, place == 0) for place in range(plan.consumers)]
    for consumer in consumers:
        await _connect(plan, consumer)
    await asyncio.wait_for(state.all_open, plan.limit)
    await asyncio.sleep(0.2)
    before = sum(consumer.ends for consumer in consumers)
    start = time.perf_counter()
    producers = [_Producer(state, range(place, plan.messages, plan.producers)) for place in range(plan.producers)]
    for producer in producers:
        await _connect(plan, producer)
    await asyncio.wait_for(asyncio.gather(*(producer.done for producer in producers)), plan.limit)
    added = time.perf_counter()
    await asyncio.wait([state.all_came], timeout=plan.limit)
    end = state.all_came.result() if state.all_came.done() else time.perf_counter()
    await asyncio.sleep(0.1)  # for what comes twice
    state.ending = True
    connections: list[_Consumer | _Producer] = [*consumers, *producers]
    for connection in connections:
        connection.transport.abort()
    latencies = sorted(state.latencies) or [0.0]
    counts = [consumer.count for consumer in consumers]
    numbers = consumers[0].numbers
    return Result(
        wanted=state.wanted,
        delivered=state.delivered,
        fewest=min(counts),
        most=max(counts),
        doubled=len(numbers) - len(set(numbers)),
        refused=state.refused,
        lost=state.lost,
        reads=sum(consumer.reads for consumer in consumers),
        writes=(sum(consumer.ends for consumer in consumers) - before) // 2,
        adds_per_second=round(plan.messages / (added - start), 1),
        deliveries_per_second=round(state.delivered / (end - start), 1),
        latency_p50_ms=round(latencies[len(latencies) // 2] * 1e3, 2),
        latency_p99_ms=round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", help="HOST:PORT of a RestMQ, or of a proxy before it")
    parser.add_argument("--queue", default="fanout")
    parser.add_argument("--transport", choices=sorted(TRANSPORTS), default="sse")
    parser.add_argument("-n", "--consumers", type=int, default=100)
    parser.add_argument("-m", "--messages", type=int, default=100)
    parser.add_argument("--producers", type=int, default=1)
    parser.add_argument("--flight", type=int, default=1, help="unanswered requests a producer")
    parser.add_argument("--size", type=int, default=64, help="bytes of a value, at least 12")
    parser.add_argument("--roundrobin", action="store_true", help="the queue is: each value comes once")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    options = vars(parser.parse_args())
    host, _, port = options.pop("address").rpartition(":")
    result = asyncio.run(run(Plan(host=host, port=int(port), **options)))
    print(json.dumps(result._asdict()))


if __name__ == "__main__":
    main()
