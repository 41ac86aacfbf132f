"""WebSocket clients: one on the library websockets, and one that reads frames as `Listener` reads chunks."""

from __future__ import annotations

import json
import socket
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.support.frames import CLOSE, PING, PONG, TEXT, Frames, closing, frame
from tests.support.listener import Listener
from tests.support.patience import PATIENCE

#: The header lines of a WebSocket handshake, with the key of RFC 6455 section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    f"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


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
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._texts.append(bytes(event.data).decode("utf-8"))
            elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
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


class Socket(Listener):
    """The same on a WebSocket: each message is a line of the body; pings are answered."""

    def __init__(self, port: int, target: str, headers: str = "", **options: Any) -> None:
        self._frames = Frames()
        self.code: int | None = None  # of the Close frame that came, and its reason
        self.reason = ""
        super().__init__(port, target, HANDSHAKE + headers, **options)

    def take(self, data: bytes) -> None:
        """These bytes came."""
        if self.status != 101:
            super().take(data)
            return
        for kind, content in self._frames.receive(data):
            if kind == TEXT:
                self.body += content + b"\n"
            elif kind == PING:
                self.socket.sendall(frame(PONG, content))
            elif kind == CLOSE:
                self.code, self.reason = closing(content)
                self.socket.sendall(frame(CLOSE, content))

    def send(self, **command: Any) -> None:
        """Send a command."""
        self.socket.sendall(frame(TEXT, json.dumps(command).encode()))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        word = f"asked{len(self.body)}"
        self.send(**command, id=word)
        self.until(lambda c: word in c.body.decode())
        return next(one for one in self.objects if one.get("id") == word)
