"""Hostile bodies and heads for every address, and what one costs an instance: CPU, the longest stall, memory.

    python -m tests.support.bodies                 the table, each body as large as its address takes
    python -m tests.support.bodies --size 16       each of 16 MiB
    python -m tests.support.bodies -k multipart    some of them

test_bodies.py holds each of them against the bound. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support.memory import memory

KIB, MIB = 1 << 10, 1 << 20
FORM, TEXT, BATCH, JSON = "application/x-www-form-urlencoded", "text/plain", "application/x-ndjson", "application/json"
PARTS = "multipart/form-data; boundary=X"
LITTLE, VALUE, LARGEST_FORM, ACK, KEYS, BODY = 64 * KIB, MIB, 3 * MIB + 64 * KIB, 4 * MIB, MIB, 16 * MIB


def head(method: str, path: str, kind: str | None = None, *lines: str) -> bytes:
    """A request's head."""
    typed = () if kind is None else (f"Content-Type: {kind}",)
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *typed, *lines, "", ""]).encode()


class Case(NamedTuple):
    """One hostile body: `make` builds it for a size in bytes; `most` is what its address takes."""

    name: str
    path: str
    kind: str | None
    most: int
    make: Callable[[int], bytes]
    method: str = "POST"


def filled(before: bytes, unit: bytes, after: bytes = b"") -> Callable[[int], bytes]:
    """A body that repeats `unit` as often as it fits."""
    return lambda size: before + unit * ((size - len(before) - len(after)) // len(unit)) + after


_PART = b'--X\r\nContent-Disposition: form-data; name="value"\r\n\r\n'
#: What follows a part's head up to its name, and the rest of a form.
_NAME, _REST = b"--X\r\nContent-Disposition: form-data; name=", b"\r\n\r\nv\r\n--X--\r\n"

FORMS: dict[str, Callable[[int], bytes]] = {
    "letters": filled(b"%s=", b"a"),
    "escaped letters": filled(b"%s=", b"%61"),
    "percent signs": filled(b"%s=", b"%"),
    "broken escapes": filled(b"%s=", b"%z"),
    "half escapes": filled(b"%s=", b"%a"),
    "escapes and letters": filled(b"%s=", b"%61a"),
    "plus signs": filled(b"%s=", b"+"),
    "equal signs": filled(b"%s=", b"="),
    "no UTF-8": filled(b"%s=", b"\xff"),
    "accents": filled(b"%s=", "é".encode()),
    "letters and one emoji": filled(b"%s=", b"a", "\U0001f600".encode()),
    "a long name": filled(b"", b"n", b"=1&%s=1"),
    "a long escaped name": filled(b"", b"%6E", b"=1&%s=1"),
    "a long name that is no UTF-8": filled(b"", b"\xff", b"=1&%s=1"),
    "no fields": filled(b"%s=1", b"&"),
    "small fields": filled(b"%s=1", b"&a=b"),
    "a hundred fields": lambda size: b"&".join([b"n%d=%b" % (n, b"%2b" * (size // 303)) for n in range(99)]),
}
MULTIPARTS: dict[str, Callable[[int], bytes]] = {
    "a value": filled(_PART, b"v", b"\r\n--X--\r\n"),
    "a value of line ends": filled(_PART, b"\r\n", b"\r\n--X--\r\n"),
    "a value of half boundaries": filled(_PART, b"\r\n-", b"\r\n--X--\r\n"),
    "no UTF-8": filled(_PART, b"\xff", b"\r\n--X--\r\n"),
    "parts without a head": filled(b"--X", b"\r\n--X", b"--\r\n"),
    "small parts": filled(b"", _PART + b"v\r\n", b"--X--\r\n"),
    "a name of letters": filled(_NAME + b'"', b"n", b'"' + _REST),
    "a name of backslashes": filled(_NAME + b'"', b"\\\\", b'"' + _REST),
    "a name of backslashes without an end": filled(_NAME + b'"', b"\\\\", _REST),
    "a name of escaped letters": filled(_NAME + b'"', b"\\n", b'"' + _REST),
    "a name without quotes": filled(_NAME, b"n", _REST),
    "parameters": filled(_NAME + b"value", b";a=b", _REST),
    "quoted parameters": filled(_NAME + b"value", b';a="\\""', _REST),
    "spaces before a parameter": filled(_NAME + b"value", b" ", b";a=b" + _REST),
    "spaces": filled(_NAME + b"value", b" ", _REST),
    "semicolons": filled(_NAME + b"value", b";", _REST),
    "header lines": filled(_NAME + b"value", b"\r\nA:b", _REST),
    "a header line": filled(_NAME + b"value\r\nA:", b"b", _REST),
    "a header name": filled(_NAME + b"value\r\n", b"A", b":b" + _REST),
    "a kind": filled(b"--X\r\nContent-Disposition: ", b"f", _REST),
    "before the first boundary": filled(b"", b"p", b"\r\n" + _PART + b"v\r\n--X--\r\n"),
    "behind the last boundary": filled(_PART + b"v\r\n--X--\r\n", b"e"),
    "spaces behind the last boundary": filled(_PART + b"v\r\n--X--", b" ", b"x"),
}
BATCHES: dict[str, Callable[[int], bytes]] = {
    "LF": filled(b"", b"\n"),
    "CRLF": filled(b"", b"\r\n"),
    "CR": filled(b"", b"\r"),
    "CR CR LF": filled(b"", b"\r\r\n"),
    "small lines": filled(b"", b"a\n"),
    "small lines with CR": filled(b"", b"a\r\n"),
    "ten thousand lines": lambda size: (b"a" * (size // 10_000 - 1) + b"\n") * 10_000,
    "ten thousand lines of accents": lambda size: ("é" * ((size // 10_000 - 1) // 2) + "\n").encode() * 10_000,
    "large lines": lambda size: (b"a" * (MIB - 1) + b"\n") * max(1, size // MIB),
    "one line": filled(b"", b"a"),
    "no UTF-8": lambda size: (b"a" * (size // 10_000 - 1) + b"\n") * 9_999 + b"\xff",
    "blank lines, then a value": filled(b"", b"\n", b"v"),
}
DOCUMENTS: dict[str, Callable[[int], bytes]] = {
    "spaces": filled(b"{", b" ", b"}"),
    "lists in lists": filled(b'{"%s": ', b"[", b""),
    "objects in objects": filled(b'{"%s": ', b'{"a":', b""),
    "empty lists": filled(b'{"%s": [', b"[],", b"0]}"),
    "empty objects": filled(b'{"%s": [', b"{},", b"0]}"),
    "small objects": filled(b'{"%s": [', b'{"a":1},', b"0]}"),
    "digits": filled(b'{"%s": [', b"1,", b"0]}"),
    "numbers": filled(b'{"%s": [', b"1000,", b"0]}"),
    "floats": filled(b'{"%s": [', b"1.5e5,", b"0]}"),
    "strings": filled(b'{"%s": [', b'"ab",', b"0]}"),
    "one number": filled(b'{"%s": ', b"1", b"}"),
    "long numbers": filled(b'{"%s": [', b"1" * 999 + b",", b"0]}"),
    "longer numbers": filled(b'{"%s": [', b"1" * 4000 + b",", b"0]}"),
    "a string": filled(b'{"%s": "', b"a", b'"}'),
    "a string of accents": filled(b'{"%s": "', "é".encode(), b'"}'),
    "a string with one emoji": filled(b'{"%s": "', b"a", "\U0001f600".encode() + b'"}'),
    "a list with one emoji": filled(b'{"%s": ["', b"a", "\U0001f600".encode() + b'"]}'),
    "a string with an escaped emoji": filled(b'{"%s": "', b"a", b'\\ud83d\\ude00"}'),
    "a list with an escaped emoji": filled(b'{"%s": ["', b"a", b'\\ud83d\\ude00"]}'),
    "a string of escapes": filled(b'{"%s": "', b"\\u0061", b'"}'),
    "a string of backslashes": filled(b'{"%s": "', b"\\\\", b'"}'),
    "a string of quotes": filled(b'{"%s": "', b'\\"', b'"}'),
    "a string without an end": filled(b'{"%s": "', b"\\\\", b""),
    "quotes": filled(b"{", b'"', b"}"),
    "a long field": filled(b'{"', b"n", b'": 1}'),
    "a long escaped field": filled(b'{"', b"\\u006e", b'": 1}'),
    "a field many times": filled(b"{", b'"a":1,', b'"%s":1}'),
    "fields": lambda size: b"{" + b",".join([b'"%07x":1' % n for n in range(size // 12)]) + b"}",
    "fields of a field, the last one twice": lambda size: (
        b'{"%%s": {%b,"0":1}}' % b",".join([b'"%x":1' % n for n in range(min(size // 12, 24_000), -1, -1)])
    ),
    "no UTF-8": filled(b'{"%s": "', b"a", b'\xff"}'),
}


def _reasons(letters: bytes) -> Callable[[int], bytes]:
    nack = b'{"lease": "%d.1@e", "error": "%b' + letters + b'"}'
    return lambda size: b'{"nack": [%b]}' % b",".join([nack % (n + 1, b"r" * (size // 1000 - 60)) for n in range(1000)])


def _with(make: Callable[[int], bytes], word: bytes) -> Callable[[int], bytes]:
    return lambda size: make(size - 100).replace(b"%s", word)


def cases() -> list[Case]:
    """All of them."""
    found = []
    for path, most, word in (
        ("/q/{}", LARGEST_FORM, b"value"), ("/q/{}", LARGEST_FORM, b"ttl"), ("/", LARGEST_FORM, b"queue"),
        ("/queue", LARGEST_FORM, b"body"), ("/q/{}/take", LITTLE, b"lease"), ("/q/{}/1", LITTLE, b"error"),
        ("/p/{}", LITTLE, b"policy"), ("/control/{}", LITTLE, b"status"), ("/settings/{}", LITTLE, b"max_length"),
        ("/dead/{}", KEYS, b"keys"),
    ):  # fmt: skip
        for name, make in FORMS.items():
            found.append(Case(f"form, {word.decode()}: {name}", path, FORM, most, _with(make, word)))
    for path, most in (("/q/{}", LARGEST_FORM), ("/queue", LARGEST_FORM), ("/p/{}", LITTLE)):
        for name, make in MULTIPARTS.items():
            found.append(Case(f"multipart: {name}", path, PARTS, most, make))
    for name, make in BATCHES.items():
        found.append(Case(f"batch: {name}", "/q/{}", BATCH, BODY, make))
    for name, make in FORMS.items():
        found.append(Case(f"value: {name}", "/q/{}", TEXT, VALUE, make))
    for name, make in DOCUMENTS.items():
        command = _with(make, b'cmd": "add", "queue": "x", "value')
        found.append(Case(f"command, value: {name}", "/queue", JSON, LARGEST_FORM, command))
        found.append(Case(f"command, id: {name}", "/queue", JSON, LARGEST_FORM, _with(make, b"id")))
        found.append(Case(f"acknowledgement: {name}", "/q/{}/ack", JSON, ACK, _with(make, b"ack")))
        found.append(Case(f"settings: {name}", "/settings/{}", JSON, LITTLE, _with(make, b"max_length")))
    lease = b'"1.1@%s"' % (b"e" * 64)
    found.append(Case("acknowledgement: a thousand reasons", "/q/{}/ack", JSON, ACK, _reasons(b"")))
    emoji = "\U0001f600".encode()
    found.append(Case("acknowledgement: a thousand reasons with an emoji", "/q/{}/ack", JSON, ACK, _reasons(emoji)))
    keys = filled(b'{"keys": [', b'"{}:' + b"a" * 1200 + emoji + b'",', b'"{}:1"]}')
    found.append(Case("keys: a list with emojis", "/dead/{}", JSON, KEYS, keys))
    leases = filled(b'{"ack": [', lease + b",", lease + b"]}")
    found.append(Case("acknowledgement: leases", "/q/{}/ack", JSON, ACK, leases))
    for name, unit in (("quotes", b'"'), ("no UTF-8", b"\xff"), ("plus signs", b"+")):
        found.append(Case(f"page: {name}", "/queue", FORM, LARGEST_FORM, filled(b"page=1&body=", unit)))
    added = filled(b'page=1&body={"cmd": "add", "queue": "x", "value": "', b'\\"', b'"}')
    found.append(Case("page: a value of quotes", "/queue", FORM, 2 * VALUE, added))
    found.append(Case("keys: commas", "/dead/{}", FORM, KEYS, filled(b"keys=", b",")))
    found.append(Case("keys: a key", "/dead/{}", FORM, KEYS, filled(b"keys=", b"{}:1,")))
    for method, path in (("GET", "/q/{}"), ("DELETE", "/q/{}/1"), ("GET", "/stats/{}"), ("GET", "/nothing")):
        found.append(Case("form: escapes", path, FORM, LITTLE, filled(b"a=", b"%61"), method))
    return found


#: Heads of nearly 16 KiB, one MiB of them on one connection.
LINE = 8000
HEADS: dict[str, bytes] = {
    "a query of escapes": head("GET", "/q/{}?a=" + "%61" * (LINE // 3)),
    "a query of percent signs": head("GET", "/q/{}?a=" + "%" * LINE),
    "a query of ampersands": head("GET", "/q/{}?" + "&" * LINE),
    "an unknown parameter": head("GET", "/q/{}?" + "l" * LINE + "=1"),
    "a path of letters": head("GET", "/" + "a" * LINE),
    "a path of slashes": head("GET", "/" * LINE),
    "a path of escapes": head("GET", "/q/" + "%61" * (LINE // 3)),
    "a path of percent signs": head("GET", "/q/" + "%" * LINE),
    "since of commas": head("GET", "/c/{}?since=" + "," * LINE),
    "since of words": head("GET", "/sse/{}?since=" + "1@a," * (LINE // 4)),
    "since of digits": head("GET", "/c/{}?since=" + "1" * LINE),
    "queues": head("GET", "/c/" + "a," * (LINE // 2)),
    "a callback": head("GET", "/q/{}?callback=" + "a." * (LINE // 2)),
    "a Connection of commas": head("GET", "/healthz", None, "Connection: " + "," * 15000),
    "an Upgrade of commas": head("GET", "/ws/{}", None, "Connection: Upgrade", "Upgrade: " + "," * 15000),
    "a Sec-WebSocket-Key": head("GET", "/ws/{}", None, "Connection: Upgrade", "Upgrade: websocket",
                                "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "a" * 15000),
    "a hundred lines": head("GET", "/healthz", None, *(f"X-{n}: {'v' * 140}" for n in range(97))),
    "colons": head("GET", "/healthz", None, "X:" + ":" * 15000),
    "spaces": head("GET", "/healthz", None, "X:" + " " * 15000 + "x"),
    "an If-Match of commas": head("DELETE", "/q/{}/1", None, "If-Match: " + "," * 15000),
    "an Idempotency-Key": head("POST", "/q/{}", TEXT, "Content-Length: 0", "Idempotency-Key: " + "k" * 15000),
    "a RestMQ- header": head("GET", "/q/{}", None, "RestMQ-" + "l" * 15000 + ": 1"),
    "since in a header": head("GET", "/c/{}", None, "RestMQ-Since: " + "1@a," * 3700),
    "a cookie": head("GET", "/ws/{}", None, "Cookie: " + "a=b;" * 3700),
    "an Authorization": head("GET", "/q/{}", None, "Authorization: Basic " + "YTph" * 3700),
    "an Origin": head("GET", "/q/{}", None, "Origin: http://" + "a" * 15000),
    "a Referer": head("GET", "/q/{}", None, "Referer: http://" + "a/" * 7500),
    "a boundary of backslashes": head(
        "POST", "/q/{}", 'multipart/form-data; boundary="' + "\\\\" * 7400, "Content-Length: 0"),
    "a boundary behind parameters": head("POST", "/q/{}", "multipart/form-data" + ";a=b" * 3600, "Content-Length: 0"),
}  # fmt: skip


class Spent(NamedTuple):
    """What one request took: seconds of CPU, bytes of memory at its height and kept after it; and its status."""

    cpu: float
    peak: int
    kept: int
    status: int


def _cpu(pid: int) -> float:
    """Seconds of CPU of a process, to the nanosecond (proc_pid_schedstat(5): /proc/PID/schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def answered(link: socket.socket, many: int = 1) -> int:
    """The status of the last of so many answers, or of the one that ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while data.count(b"HTTP/1.1 ") < many or not data.endswith((b"\r\n", b"}", b"</html>", b"</html>\n")):
            more = link.recv(1 << 20)
            if not more:
                break
            data += more
    return int(data.rpartition(b"HTTP/1.1 ")[2][:3] or 0)


def spend(pid: int, port: int, data: bytes, many: int = 1) -> Spent:
    """Send requests on a connection of their own, and see what that took."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before, cpu = memory(pid, "VmRSS"), _cpu(pid)
    with socket.create_connection(("127.0.0.1", port), timeout=300) as link:
        sender = threading.Thread(target=_send, args=(link, data))
        sender.start()
        status = answered(link, many)
        sender.join()
    cpu = _cpu(pid) - cpu
    return Spent(cpu, memory(pid, "VmHWM") - before, memory(pid, "VmRSS") - before, status)


def _send(link: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it was refused and closed
        link.sendall(data)


class Watch(threading.Thread):
    """Another client, that asks again and again: how long was the longest answer?"""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.link = socket.create_connection(("127.0.0.1", port), timeout=300)
        self.longest, self.over = 0.0, False

    def run(self) -> None:
        asked = head("GET", "/healthz")
        while not self.over:
            began = time.monotonic()
            self.link.sendall(asked)
            answered(self.link)
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.001)
        self.link.close()


def request(case: Case, queue: str, size: int) -> bytes:
    """A case as it goes over the wire."""
    body = case.make(size).replace(b"{}", queue.encode())
    path = case.path.replace("{}", queue)
    return head(case.method, path, case.kind, f"Content-Length: {len(body)}") + body


def rows(only: str, size: int) -> list[tuple[str, int, float, float, float, float, int]]:
    """Name, size, then milliseconds of CPU, of stall, bytes at the peak and kept, each for a byte or MiB."""
    from tests.support.instance import Instance
    from tests.support.redis_server import RedisServer

    found = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "redis").mkdir()
        redis = RedisServer(Path(folder) / "redis")
        one = Instance(Path(folder), redis.address)
        try:
            jobs = [(f"{c.method} {c.path} {c.name}", request(c, "x", size or c.most), 1) for c in cases()]
            for name, line in HEADS.items():
                line = line.replace(b"{}", b"x")
                many = max(1, min(128, MIB // len(line)))
                jobs.append((f"head: {name}", line * many, many))
            for name, data, many in jobs:
                if only not in name:
                    continue
                spend(one.process.pid, one.port, head("DELETE", "/q/x"))
                watch = Watch(one.port)
                watch.start()
                time.sleep(0.01)
                spent = spend(one.process.pid, one.port, data, many)
                watch.over = True
                watch.join()
                mib = len(data) / MIB
                found.append((name, len(data), spent.cpu * 1000 / mib, watch.longest * 1000 / mib,
                              spent.peak / len(data), spent.kept / len(data), spent.status))  # fmt: skip
                print(f"{name:60.60} {len(data) / MIB:6.2f} MiB {found[-1][2]:9.1f} {found[-1][3]:9.1f} "
                      f"{found[-1][4]:7.1f} {found[-1][5]:7.1f} {found[-1][6]:5}", flush=True)  # fmt: skip
        finally:
            one.stop()
            redis.stop()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=0, help="MiB of each body [as much as the address takes]")
    parser.add_argument("-k", default="", help="only those whose name has this in it")
    given = parser.parse_args()
    print(f"{'':60} {'size':>10} {'CPU':>9} {'stall':>9} {'peak':>7} {'kept':>7} status")
    print(f"{'':60} {'':>10} {'ms/MiB':>9} {'ms/MiB':>9} {'B/B':>7} {'B/B':>7}")
    rows(given.k, given.size * MIB)


if __name__ == "__main__":
    main()
