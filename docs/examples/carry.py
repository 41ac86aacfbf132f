#!/usr/bin/env python3
"""Carries a text file through RestMQ and back, and tells whether every line came out as it went in.

The first half of the lines goes into one queue and is taken out by GET. The other half goes into a second queue
that live consumers hear over Comet, SSE and a WebSocket: each must see every line, in order. Needs nothing but
Python.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

AHEAD = 100  # pipelined requests


def bar(word: str, done: int, whole: int) -> None:
    """One line that fills."""
    if sys.stderr.isatty() or done == whole:
        full = 30 * done // max(whole, 1)
        end = "\n" if done == whole else ""
        print(f"\r{word:8} [{'#' * full}{'.' * (30 - full)}] {done}/{whole}", end=end, file=sys.stderr, flush=True)


class Client:
    """A keep-alive connection that sends requests ahead of their answers."""

    def __init__(self, host: str, port: int) -> None:
        self.host = f"{host}:{port}"
        self.socket = socket.create_connection((host, port), timeout=30)
        self.file = self.socket.makefile("rb")

    def ask(self, requests: Iterable[bytes]) -> list[tuple[int, bytes]]:
        """Send all, then read as many answers: status and body."""
        sent = list(requests)
        self.socket.sendall(b"".join(sent))
        return [self._answer() for _ in sent]

    def _answer(self) -> tuple[int, bytes]:
        status, size = int(self.file.readline().split()[1]), 0
        while True:
            line = self.file.readline().strip().lower()
            if not line:
                return status, self.file.read(size)
            if line.startswith(b"content-length:"):
                size = int(line[15:])

    def post(self, path: str, value: bytes) -> bytes:
        """A request that stores a value."""
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: text/plain\r\n"
        return f"{head}Content-Length: {len(value)}\r\n\r\n".encode() + value

    def get(self, path: str) -> bytes:
        """A request that takes an element."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()


def store(client: Client, queue: str, lines: list[bytes]) -> None:
    """Every line becomes an element."""
    for at in range(0, len(lines), AHEAD):
        part = lines[at : at + AHEAD]
        for status, body in client.ask(client.post(f"/q/{queue}", line) for line in part):
            if status != 200:
                raise SystemExit(f"a line was refused: {status} {body.decode()}")
        bar("in", at + len(part), len(lines))


def take(client: Client, queue: str, count: int) -> list[bytes]:
    """What GET gives, in its order."""
    out: list[bytes] = []
    while len(out) < count:
        want = min(AHEAD, count - len(out))
        for status, body in client.ask([client.get(f"/q/{queue}")] * want):
            if status != 200:
                raise SystemExit(f"after {len(out)} of {count} lines the queue answers {status}")
            out.append(json.loads(body)["value"].encode())
        bar("GET", len(out), count)
    return out


def stream(host: str, port: int, kind: str, queue: str) -> Iterator[bytes]:
    """The values that a live consumer sees; first an empty one when it is connected."""
    if kind == "ws":
        yield from websocket(host, port, queue)
        return
    link = http.client.HTTPConnection(host, port, timeout=60)
    link.request("GET", f"/{kind}/{queue}")
    answer = link.getresponse()
    yield b""
    while True:
        line = answer.readline()
        if not line:
            return
        line = line.strip()
        if kind == "sse":
            line = line[5:].strip() if line.startswith(b"data:") else b""
        if line:
            yield json.loads(line)["value"].encode()


def websocket(host: str, port: int, queue: str) -> Iterator[bytes]:
    """As much of RFC 6455 as a listener needs."""
    link = socket.create_connection((host, port), timeout=60)
    key = base64.b64encode(os.urandom(16)).decode()
    link.sendall(
        f"GET /ws/{queue} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    file = link.makefile("rb")
    while file.readline().strip():
        pass  # the handshake's lines
    yield b""
    while True:
        kind, size = file.read(2)
        if size == 126:
            size = int.from_bytes(file.read(2), "big")
        elif size == 127:
            size = int.from_bytes(file.read(8), "big")
        data = file.read(size)
        if kind & 15 == 1:
            yield json.loads(data)["value"].encode()


def hear(host: str, port: int, kind: str, queue: str, count: int, out: list[bytes], ready: threading.Event) -> None:
    """Fills `out` with what one live consumer sees."""
    seen = stream(host, port, kind, queue)
    next(seen)
    ready.set()
    for value in seen:
        out.append(value)
        if len(out) == count:
            return


def main() -> int:
    """0 when everything came out as it went in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="any text in UTF-8")
    parser.add_argument("--url", default="http://localhost:8888", help="where RestMQ is [%(default)s]")
    parser.add_argument("--queue", default="carried", help="the queues' name begins with this [%(default)s]")
    asked = parser.parse_args()
    place = urlsplit(asked.url)
    host, port = place.hostname or "localhost", place.port or 80
    with open(asked.file, "rb") as file:
        lines = file.read().split(b"\n")
    middle = len(lines) // 2
    client = Client(host, port)

    quiet = f"{asked.queue}.get"
    store(client, quiet, lines[:middle])
    good = take(client, quiet, middle) == lines[:middle]
    print(f"GET: {middle} lines, {'equal' if good else 'DIFFERENT'}")

    live, rest = f"{asked.queue}.live", lines[middle:]
    heard: dict[str, list[bytes]] = {"c": [], "sse": [], "ws": []}
    threads = []
    for kind, out in heard.items():
        ready = threading.Event()
        thread = threading.Thread(target=hear, args=(host, port, kind, live, len(rest), out, ready), daemon=True)
        thread.start()
        threads.append(thread)
        ready.wait(10)
    store(client, live, rest)
    end = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0.1, end - time.monotonic()))
    for kind, out in heard.items():
        print(f"/{kind}: {len(out)} lines, {'equal' if out == rest else 'DIFFERENT'}")
        good = good and out == rest
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
