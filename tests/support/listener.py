"""A live consumer of our own, that reads /c, /sse and raw answers byte by byte."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from tests.support.chunks import Chunks
from tests.support.patience import PATIENCE


class Listener:
    """A live consumer of our own on a raw socket: reads chunks, or as much as was announced, or all."""

    def __init__(
        self,
        port: int,
        target: str,
        headers: str = "",
        version: str = "1.1",
        method: str = "GET",
        buffer: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.socket(socket.AF_INET)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        if context is not None:  # an end without TLS's own goodbye must not look like a clean one
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        self.body = bytearray()
        self.rest = bytearray()  # what came of a chunk that has not ended
        self.ended = False
        self.cut = False  # it was reset, or ended without TLS's goodbye
        self.socket.sendall(f"{method} {target} HTTP/{version}\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())
        raw = b""
        while b"\r\n\r\n" not in raw:
            data = self.socket.recv(65536)
            assert data, f"no answer but {raw!r}"
            raw += data
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.chunks = Chunks() if self.headers.get("transfer-encoding") == "chunked" else None
        self._length = int(self.headers.get("content-length", -1))
        self.take(rest)

    @property
    def trailer(self) -> str:
        """The line behind the last chunk."""
        return self.chunks.trailer if self.chunks else ""

    def take(self, data: bytes) -> None:
        """These bytes came."""
        if self.chunks is not None:
            self.rest += self.chunks.receive(data)
            whole = len(self.rest) - self.chunks.open
            self.body += self.rest[:whole]
            del self.rest[:whole]
            self.ended = self.chunks.ended
        else:
            self.body += data
            self.ended = self.ended or len(self.body) == self._length

    def read(self, seconds: float) -> bool:
        """Read what comes within that time; False when nothing came."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1 << 18)
        except socket.timeout:
            return False
        except (ConnectionResetError, ssl.SSLEOFError):
            data, self.cut = b"", True
        if data:
            self.take(data)
        else:
            self.ended = True
        return bool(data)

    def until(self, done: Callable[[Listener], Any], seconds: float = PATIENCE) -> Listener:
        """Read until done(self) or the stream's end. Raises AssertionError with what came instead."""
        deadline = time.monotonic() + seconds
        while not done(self):
            assert not self.ended, f"the stream ended after {self.body[-500:]!r}"
            left = deadline - time.monotonic()
            assert left > 0, f"only {self.body[-500:]!r} came"
            self.read(left)
        return self

    def until_end(self, seconds: float = PATIENCE) -> Listener:
        """Read to the end of the stream."""
        deadline = time.monotonic() + seconds
        while not self.ended:
            left = deadline - time.monotonic()
            assert left > 0, f"the stream did not end: {self.body[-500:]!r}"
            self.read(left)
        return self

    def everything(self, seconds: float = 2.0) -> Listener:
        """Read until nothing came for so long."""
        while self.read(seconds):
            pass
        return self

    def quiet(self, seconds: float = 0.3) -> Listener:
        """Read what comes within that time, whatever it is."""
        deadline = time.monotonic() + seconds
        while not self.ended and time.monotonic() < deadline:
            self.read(max(0.01, deadline - time.monotonic()))
        return self

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The objects so far, of Comet lines, SSE data or messages."""
        lines = self.body.decode("ascii").splitlines()
        texts = [line.removeprefix("data: ") for line in lines]
        return [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]

    @property
    def elements(self) -> list[dict[str, Any]]:
        """The elements among them."""
        return [one for one in self.objects if "key" in one and "queue" not in one and "deleted" not in one]

    def knows(self, last: int) -> bool:
        """Whether the element whose value begins with this number came as a whole, or a gap that ends with it."""
        tail = self.body[-150_000:]
        return tail.endswith((b"\n", b"}")) and (b'"%d-' % last in tail or b", %d]" % last in tail)

    @property
    def values(self) -> list[str]:
        """The values so far."""
        return [one["value"] for one in self.elements]

    @property
    def told(self) -> list[dict[str, Any]]:
        """What was announced: gaps and resets."""
        return [one for one in self.objects if "gap" in one or "epoch" in one]

    @property
    def ids(self) -> list[str]:
        """The ids so far, that of the opening first."""
        found = []
        for line in self.body.decode("ascii").splitlines():
            if line.startswith("id: "):
                found.append(line[4:])
            elif line.startswith("{") and line.endswith("}") and "id" in json.loads(line):
                found.append(json.loads(line)["id"])
        return found

    def hurry(self) -> Listener:
        """Read in large pieces from now on, however small the buffer was that it was opened with."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        return self

    def close(self) -> None:
        """Leave."""
        self.socket.close()


def have(count: int) -> Callable[[Listener], bool]:
    """Whether so many elements came."""
    return lambda listener: len(listener.elements) >= count


def numbers(listener: Listener) -> list[int]:
    """The numbers of its elements so far."""
    return [int(one["key"].rpartition(":")[2]) for one in listener.elements]
