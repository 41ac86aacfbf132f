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
PATIENCE = 30  # seconds in which something must come
EXAMPLE = """
With RestMQ started by ./start.sh:

    python3 docs/examples/carry.py README.md

The queues are QUEUE.get and QUEUE.live. What is in them before is deleted, and nothing is left in them after. The exit
status is 0 when every line came out equal, and 1 otherwise.
"""


def bar(word: str, done: int, whole: int) -> None:
    """One line that fills; where nobody watches it, only the full one."""
    watched = sys.stderr.isatty()
    if watched or done == whole:
        full = 30 * done // max(whole, 1)
        begin, end = "\r" if watched else "", "\n" if done == whole else ""
        text = f"{begin}{word:9} [{'#' * full}{'.' * (30 - full)}] {done}/{whole}"
        print(text, end=end, file=sys.stderr, flush=True)


def authority(host: str, port: int) -> str:
    """What Host says; an IPv6 address has brackets there."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def status_of(line: bytes) -> int:
    """The status in an answer's first line. Raises OSError when there is none."""
    words = line.split()
    if len(words) < 2:
        raise OSError("the server closed the connection")
    return int(words[1])


class Client:
    """A keep-alive connection that sends requests ahead of their answers."""

    def __init__(self, host: str, port: int) -> None:
        self.host = authority(host, port)
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.file = self.socket.makefile("rb")

    def ask(self, requests: Iterable[bytes]) -> list[tuple[int, bytes]]:
        """Send all, then read as many answers: status and body."""
        sent = list(requests)
        self.socket.sendall(b"".join(sent))
        return [self._answer() for _ in sent]

    def _answer(self) -> tuple[int, bytes]:
        status, size = status_of(self.file.readline()), 0
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

    def purge(self, path: str) -> bytes:
        """A request that empties a queue."""
        return f"DELETE {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()


def store(client: Client, queue: str, lines: list[bytes]) -> None:
    """Every line becomes an element."""
    for at in range(0, len(lines), AHEAD):
        part = lines[at : at + AHEAD]
        answers = client.ask(client.post(f"/q/{queue}", line) for line in part)
        for number, (status, body) in enumerate(answers, at + 1):
            if status != 200:
                raise SystemExit(f"\n{queue}: its line {number} was refused: {status} {body.decode().strip()}")
        bar("stored", at + len(part), len(lines))


def take(client: Client, queue: str, count: int) -> list[bytes]:
    """What GET gives, in its order."""
    out: list[bytes] = []
    while len(out) < count:
        want = min(AHEAD, count - len(out))
        for status, body in client.ask([client.get(f"/q/{queue}")] * want):
            if status != 200:
                raise SystemExit(f"\nafter {len(out)} of {count} lines the queue answers {status}")
            out.append(json.loads(body)["value"].encode())
        bar("taken", len(out), count)
    return out


def stream(host: str, port: int, kind: str, queue: str) -> Iterator[bytes]:
    """The values that a live consumer sees; first an empty one when it is connected."""
    if kind == "ws":
        yield from websocket(host, port, queue)
        return
    link = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    link.request("GET", f"/{kind}/{queue}")
    answer = link.getresponse()
    if answer.status != 200:
        raise OSError(f"/{kind}/{queue} answers {answer.status}: {answer.read().decode().strip()}")
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
    link = socket.create_connection((host, port), timeout=PATIENCE)
    key = base64.b64encode(os.urandom(16)).decode()
    link.sendall(
        f"GET /ws/{queue} HTTP/1.1\r\nHost: {authority(host, port)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    file = link.makefile("rb")
    first = file.readline()
    if status_of(first) != 101:
        raise OSError(f"/ws/{queue} answers {first.decode().strip()}")
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


class Listener(threading.Thread):
    """One live consumer: fills `out` with what it sees. `trouble` is why it ended before `count` lines."""

    def __init__(self, host: str, port: int, kind: str, queue: str, count: int) -> None:
        super().__init__(daemon=True)
        self.where, self.count = (host, port, kind, queue), count
        self.kind, self.trouble, self.out = kind, "", []  # type: tuple[str, str, list[bytes]]
        self.connected = threading.Event()
        self.start()
        if not self.connected.wait(PATIENCE) or self.trouble:
            raise SystemExit(self.trouble or f"/{kind}/{queue} does not answer")

    def run(self) -> None:
        """Until all came."""
        try:
            seen = stream(*self.where)
            next(seen)
            self.connected.set()
            while len(self.out) < self.count:
                self.out.append(next(seen))
        except (OSError, ValueError, StopIteration) as error:
            self.trouble = str(error) or "the stream ended"
            self.connected.set()


def listen(listeners: list[Listener]) -> None:
    """Wait until all have seen everything, or nothing came for a while."""
    whole, before, since = listeners[0].count, -1, time.monotonic()
    while any(one.is_alive() for one in listeners) and time.monotonic() - since < PATIENCE:
        fewest = min(len(one.out) for one in listeners)
        if fewest != before:
            before, since = fewest, time.monotonic()
            if fewest < whole:
                bar("heard", fewest, whole)
        time.sleep(0.05)
    bar("heard", min(len(one.out) for one in listeners), whole)


def carry(host: str, port: int, name: str, lines: list[bytes]) -> bool:
    """Carry lines by GET and by live consumers, and tell. True when everything came out as it went in."""
    client = Client(host, port)
    quiet, live = f"{name}.get", f"{name}.live"
    client.ask([client.purge(f"/q/{quiet}"), client.purge(f"/q/{live}")])

    middle = len(lines) // 2
    store(client, quiet, lines[:middle])
    good = take(client, quiet, middle) == lines[:middle]
    print(f"GET: {middle} lines, {'equal' if good else 'DIFFERENT'}", flush=True)

    rest = lines[middle:]
    listeners = [Listener(host, port, kind, live, len(rest)) for kind in ("c", "sse", "ws")]
    store(client, live, rest)
    listen(listeners)
    for one in listeners:
        equal = one.out == rest
        print(f"/{one.kind}: {len(one.out)} lines, {'equal' if equal else 'DIFFERENT'}")
        if one.trouble:
            print(f"/{one.kind}: {one.trouble}", file=sys.stderr)
        good = good and equal
    return good


def main() -> int:
    """0 when everything came out as it went in."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=how)
    parser.add_argument("file", help="any text in UTF-8")
    parser.add_argument("--url", default="http://localhost:8888", help="where RestMQ is [%(default)s]")
    parser.add_argument("--queue", default="carried", help="the queues' names begin with this [%(default)s]")
    asked = parser.parse_args()
    place = urlsplit(asked.url)
    if place.scheme != "http" or not place.hostname:
        parser.error("--url is http://HOST:PORT")
    try:
        with open(asked.file, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        parser.error(str(error))
    try:
        return 0 if carry(place.hostname, place.port or 80, asked.queue, lines) else 1
    except OSError as error:
        raise SystemExit(f"no RestMQ at {asked.url}: {error}; ./start.sh starts one") from None
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
