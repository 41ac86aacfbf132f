"""What tests of live consumers share: a stream without a socket, and a reader of streams from a real one.

Knows the wire only. `Wire` stands where http.Stream stands, `Listener` is a
client of its own that reads /c, /sse and raw answers byte by byte.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, TextMessage

from restmq.delivery.batch import Batch
from restmq.delivery.consumers import Consumers
from restmq.http.headers import NOTHING
from restmq.model.element import Element
from restmq.runtime.room import Room

#: Seconds until what has to come counts as missing. It is the end of a wait for an event, never a measure of speed:
#: on a busy machine a process may stand still for many seconds, and PyPy runs slowly until it is warm.
PATIENCE = 60.0
#: The same for what starts a Python of its own, or runs a program to its end.
LONG = 4 * PATIENCE
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain"}
BATCH = {"Content-Type": "application/x-ndjson"}
#: The header lines of a WebSocket handshake, with the key of RFC 6455 section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    f"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


def nothing(*_: object) -> None:
    """What a Stream does before its owner says otherwise."""


class Wire:
    """A stream that keeps what it is given. While `stuck`, nothing of it leaves."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.unsent = self.written = self.untaken = 0
        self.stuck = False
        self.closed = self.was_cut = self.reading_stopped = False
        self.on_data: Callable[[bytes], None] = nothing
        self.on_full: Callable[[], None] = nothing
        self.on_drained: Callable[[], None] = nothing
        self.on_lost: Callable[[], None] = nothing

    @property
    def data(self) -> bytes:
        """All that was written."""
        return b"".join(self.parts)

    def write(self, data: bytes) -> None:
        """Take bytes."""
        assert not self.closed
        self.parts.append(data)
        self.written += len(data)
        if self.stuck:
            self.unsent += len(data)
            self.on_full()

    def drain(self, size: int | None = None) -> None:
        """The peer reads `size` bytes, or all."""
        self.unsent -= self.unsent if size is None else size
        if not self.unsent:
            self.stuck = False
            self.on_drained()

    def pause(self) -> None:
        """Read no more."""
        self.reading_stopped = True

    def resume(self) -> None:
        """Read again."""
        self.reading_stopped = False

    def close(self, last: bytes = b"") -> None:
        """End it after what waits."""
        if last:
            self.write(last)
        self.closed = True

    def cut(self) -> None:
        """End it now; on_lost comes in a later turn, as Twisted has it."""
        self.closed = self.was_cut = True


class Desk:
    """Stands where Delivery stands: writes down what a consumer tells it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def join(
        self, consumer: object, queues: list[bytes], past_first: bool = False
    ) -> dict[bytes, tuple[int, bytes]]:
        """A consumer came."""
        self.told.append("joined")
        return dict.fromkeys(queues, (0, b"e"))

    def leave(self, consumer: object) -> None:
        """A consumer went."""
        self.told.append("left")

    def on_full(self, consumer: object) -> None:
        """A consumer takes no more."""
        self.told.append("full")

    def on_drained(self, consumer: object) -> None:
        """A consumer takes again."""
        self.told.append("drained")


class Door:
    """Stands where the ACL stands."""

    def __init__(self) -> None:
        self.generation = 0
        self.refusal: Exception | None = None

    def check(self, section: str, request: object) -> bool:
        """Let in, or raise what the test says."""
        if self.refusal is not None:
            raise self.refusal
        return True


def handler(heartbeat: float = 15.0, stall: float = 60.0, max_waiting: int = 1000, max_value: int = 1000) -> Any:
    """As much of a Handler as a consumer looks at."""
    settings = SimpleNamespace(
        heartbeat=heartbeat,
        stall=stall,
        max_waiting=max_waiting,
        max_value=max_value,
        per_client=0,
        max_form=3 * max_value + (64 << 10),
    )
    server = SimpleNamespace(config=settings, acl=Door(), bodies=Room(1 << 20))
    services = SimpleNamespace(config=settings, delivery=Desk())
    request = SimpleNamespace(remote_ip="127.0.0.1", method="GET", fields=NOTHING)
    return SimpleNamespace(server=server, services=services, request=request, gone=False, on_gone=None)


def batch(*values: str, queue: str = "q", first: int = 1, number: int = 1, epoch: bytes = b"e") -> Batch:
    """Some elements of a queue that arrived together."""
    name = queue.encode("utf-8")
    elements = [Element(name, number + place, value.encode("utf-8")) for place, value in enumerate(values)]
    return Batch(name, elements, first, epoch)


def ring(*consumers: Any) -> Consumers:
    """Consumers of one queue, as Delivery holds them."""
    all_of_them = Consumers()
    for consumer in consumers:
        all_of_them.join(consumer)
    return all_of_them


def add(instance: Any, queue: str, *values: str, options: str = "") -> None:
    """Add values one after the other."""
    for value in values:
        answer = instance.http("POST", f"/q/{queue}{options}", value.encode(), TEXT)
        assert answer[0] == 200, answer


def batch_add(instance: Any, queue: str, *values: str) -> None:
    """Add values with one request."""
    answer = instance.http("POST", f"/q/{queue}", "\n".join(values).encode(), BATCH)
    assert answer[0] == 200, answer


def stats(instance: Any, queue: str) -> dict[str, Any]:
    """What /stats/NAME says."""
    found: dict[str, Any] = json.loads(instance.http("GET", f"/stats/{queue}")[2])
    return found


def lengths(instance: Any, queue: str) -> list[int]:
    """How many wait, are delayed, are leased."""
    headers = instance.http("HEAD", f"/q/{queue}")[1]
    return [int(headers[f"restmq-{word}"]) for word in ("waiting", "delayed", "leased")]


def texts(count: int, first: int = 0) -> list[str]:
    """Values that differ."""
    return [f"v{number}" for number in range(first, first + count)]


def until(
    done: Callable[[], Any],
    what: Callable[[], Any] = lambda: "it did not come",
    seconds: float = PATIENCE,
    step: float = 0.02,
) -> None:
    """Wait until something is so. Raises AssertionError with `what` when it does not come."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, what()
        time.sleep(step)


class Carrier:
    """Stands between clients and an instance; `up` carries what a client sends, `down` what comes back."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.target))
            for carry in (self.up, self.down):
                threading.Thread(target=carry, args=(client, there), daemon=True).start()

    def up(self, client: socket.socket, there: socket.socket) -> None:
        """What the client sends, as it is."""
        try:
            while data := client.recv(1 << 16):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)
        except OSError:
            there.close()

    def down(self, client: socket.socket, there: socket.socket) -> None:
        """What comes back."""
        raise NotImplementedError


class Talker:
    """A WebSocket client without a thread.

    websockets' own joins a thread as it closes, which PyPy 3.9 answers with
    "cannot release un-acquired lock" now and then, on a busy machine.
    """

    def __init__(
        self, port: int, target: str, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
    ) -> None:
        """Raises InvalidStatus when the handshake is refused."""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}{target}"))
        request = self._protocol.connect()
        for name, value in (headers or {}).items():
            request.headers[name] = value
        self._protocol.send_request(request)
        self._texts: list[str] = []
        self.pongs: list[bytes] = []
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._read()
        if self._protocol.handshake_exc is not None:
            self.socket.close()
            raise self._protocol.handshake_exc

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                try:
                    self.socket.sendall(data)
                except OSError:  # the server did not wait for our last word
                    self._protocol.receive_eof()
                    return

    def _read(self) -> None:
        self._flush()
        if self._protocol.state is State.CLOSED:
            return
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if getattr(event, "opcode", None) is Opcode.TEXT:
                self._texts.append(bytes(event.data).decode("utf-8"))
            elif getattr(event, "opcode", None) is Opcode.PONG:
                self.pongs.append(bytes(event.data))

    def send(self, message: str | bytes) -> None:
        """One message: text, or bytes as a binary one."""
        if isinstance(message, str):
            self._protocol.send_text(message.encode("utf-8"))
        else:
            self._protocol.send_binary(message)
        self._flush()

    def send_fragments(self, parts: list[str]) -> None:
        """One text message in several frames."""
        self._protocol.send_text(parts[0].encode("utf-8"), fin=False)
        for place, part in enumerate(parts[1:], 2):
            self._protocol.send_continuation(part.encode("utf-8"), fin=place == len(parts))
        self._flush()

    def ping(self, data: bytes) -> None:
        """Send a ping, and wait for its pong."""
        self._protocol.send_ping(data)
        while data not in self.pongs:
            self._read()

    def close(self, code: int = 1000) -> int | None:
        """Close it in order; the code that the server answered."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)
        while self._protocol.state is not State.CLOSED:
            self._read()
        self.socket.close()
        return self._protocol.close_code

    def recv(self) -> str:
        """The next text message. Raises ConnectionClosed, and TimeoutError after PATIENCE."""
        while not self._texts:
            if self._protocol.state is State.CLOSED:
                raise self._protocol.close_exc
            self._read()
        return self._texts.pop(0)

    def poll(self) -> None:
        """Take what is here already, and answer pings."""
        self.socket.settimeout(0.05)
        try:
            self._read()
            self._flush()
        except socket.timeout:
            return
        finally:
            self.socket.settimeout(PATIENCE)

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it in order."""
        self.close()


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
        self.chunks = 0
        self.trailer = ""
        self.ended = False
        self.cut = False  # it was reset, or ended without TLS's goodbye
        self.socket.sendall(f"{method} {target} HTTP/{version}\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())
        raw = b""
        while b"\r\n\r\n" not in raw:
            data = self.socket.recv(65536)
            assert data, f"no answer but {raw!r}"
            raw += data
        head, _, rest = raw.partition(b"\r\n\r\n")
        self._raw = bytearray(rest)
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        self._length = int(self.headers.get("content-length", -1))
        self._unframe()

    def _unframe(self) -> None:
        while self._chunked:
            end = self._raw.find(b"\r\n")
            size = -1 if end < 0 else int(self._raw[:end], 16)
            if size == 0:  # the trailer, and a blank line behind it
                trailer, gone, _ = self._raw[end:].partition(b"\r\n\r\n")
                if gone:
                    self.trailer, self._raw, self.ended = trailer.strip().decode("ascii"), bytearray(), True
                return
            begin, stop = end + 2, end + 2 + size
            if size < 0 or len(self._raw) < stop + 2:
                return
            assert self._raw[stop : stop + 2] == b"\r\n"
            self.body += self._raw[begin:stop]
            del self._raw[: stop + 2]
            self.chunks += 1
        self.body += self._raw
        self._raw.clear()
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
            self._raw += data
            self._unframe()
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


class Socket(Listener):
    """The same on a WebSocket: each message is a line of the body; pings are answered."""

    def __init__(self, port: int, target: str, headers: str = "", **options: Any) -> None:
        self._frames = Connection(ConnectionType.CLIENT)
        self._message = ""
        self.code: int | None = None  # of the Close frame that came, and its reason
        self.reason = ""
        super().__init__(port, target, HANDSHAKE + headers, **options)

    def _unframe(self) -> None:
        if self.status != 101:
            super()._unframe()
            return
        self._frames.receive_data(bytes(self._raw))
        self._raw.clear()
        for event in self._frames.events():
            if isinstance(event, TextMessage):
                self._message += event.data
                if event.message_finished:
                    self.body += self._message.encode() + b"\n"
                    self._message = ""
            elif isinstance(event, Ping):
                self.socket.sendall(self._frames.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.code, self.reason = event.code, event.reason or ""
                self.socket.sendall(self._frames.send(event.response()))

    def send(self, **command: Any) -> None:
        """Send a command."""
        self.socket.sendall(self._frames.send(TextMessage(data=json.dumps(command))))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        word = f"asked{len(self.body)}"
        self.send(**command, id=word)
        self.until(lambda c: word in c.body.decode())
        return next(one for one in self.objects if one.get("id") == word)
