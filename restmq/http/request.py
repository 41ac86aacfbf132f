"""One request: its bytes, and the values that a handler asks for, made when it asks.

Owns the views of a request. Knows no route. It is a subclass of cyclone's request, so that cyclone's ordinary handlers
find what they look for. Read http/connection.py next.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol
from urllib.parse import parse_qsl

from cyclone import httpserver, httputil
from twisted.internet.interfaces import ISSLTransport

from restmq.http.forms import check, multipart
from restmq.http.headers import Fields
from restmq.model.errors import TooLarge
from restmq.model.urlencoded import MAX_FIELDS, pairs
from restmq.runtime.ticker import Wheel

LITTLE = 64 << 10  # every address takes a body of so many bytes


class BodyLimit(NamedTuple):
    """How many bytes a body may have, what the body is, and which setting says so."""

    bytes: int = LITTLE
    what: str = "a body for this address"
    setting: str = ""

    def exceeded(self, size: int = 0) -> TooLarge:
        """The error for a larger body. `size` is its size, or 0 if that is not known yet."""
        has = f"has {size} bytes; at most {self.bytes} are allowed" if size else f"may have at most {self.bytes} bytes"
        return TooLarge(f"{self.what} {has}{self.setting and f' ({self.setting})'}")


class Receiver(Protocol):
    """A stream, as far as its connection knows it."""

    def on_received(self, data: bytes) -> None: ...
    def on_connection_lost(self) -> None: ...


class Handling(Protocol):
    """The handler of a request, as far as the connection knows it."""

    @property
    def streams(self) -> bool: ...
    def failed(self, error: BaseException) -> None: ...
    def on_client_left(self) -> None: ...
    def on_client_half_closed(self) -> None: ...


class Carrier(Protocol):
    """The connection of a request, as far as the request, its handler and its stream know it."""

    peer_ip: str
    proven: bytes  # the last user name and password that were right on this connection
    allowed: dict[str, int]  # section -> generation of the access rules that let this address in
    half: bool  # whether the client has closed its side
    ended: bool  # whether the client is gone
    line: deque[Request]  # the requests that are not answered yet
    wheel: Wheel
    transport: Any  # Twisted has no single interface for the transports of TCP, TLS and unix sockets

    def client(self, values: dict[bytes, bytes]) -> str: ...
    def may_grow(self, request: Request, most: int) -> None: ...
    def replace_body(self, request: Request, body: bytes) -> None: ...
    def free_body(self, request: Request) -> None: ...
    def closes(self, request: Request) -> bool: ...
    def answer(self, request: Request, data: bytes) -> None: ...
    def give_to_stream(self, stream: Receiver) -> None: ...
    def read_ahead(self) -> bytes: ...
    def lose(self) -> None: ...
    def cut(self, linger: bool = True, patience: float = 0) -> None: ...
    def readConnectionLost(self) -> None: ...


class Request(httpserver.HTTPRequest):  # type: ignore[misc]  # cyclone has no types
    """cyclone's request. What a lean handler does not ask for is made at its first use.

    `target`, `raw_path` and `raw_query` are as they came. `query` and `form` are decoded lists of pairs of bytes.
    `fields.values` has the header lines.
    """

    files: ClassVar[dict[str, object]] = {}  # cyclone's handlers look for uploaded files here; RestMQ has none
    size = 0  # bytes of the body, which are counted while the request is under way
    _finish_time = None
    hold = False  # begins when the requests before it are answered; the next one is read when this one is answered
    alone = False  # has begun, and the next request is still read only when this one is answered
    answer: bytes | None = None
    handler: Handling | None = None
    route: object = None  # application.Route, once it was looked for
    judged = False  # whether the head was judged before the body came
    shared: tuple[tuple[bytes, bytes], ...] = ()  # header lines that let a page of another origin read the answer

    body = b""

    def __init__(self, connection: Carrier, method: str, target: bytes, newer: bool, given: Fields) -> None:
        self.connection, self.method, self.target = connection, method, target
        self.newer, self.fields = newer, given
        self.raw_path, _, self.raw_query = target.partition(b"?")
        self.peer_ip = connection.peer_ip
        self._start_time = connection.wheel.clock.seconds()

    @property
    def remote_ip(self) -> str:
        """The client's address; behind a trusted proxy, the one that the proxy names. "" over a unix socket."""
        return self.connection.client(self.fields.values)

    @property
    def proven(self) -> bytes:
        """The last right user name and password on this connection. b"" if there are none, or wrong ones came since."""
        return self.connection.proven

    @proven.setter
    def proven(self, shown: bytes) -> None:
        self.connection.proven = shown

    @cached_property
    def query(self) -> list[tuple[bytes, bytes]]:
        """The query's fields, percent-decoded. Raises BadRequest for more than 100."""
        return pairs(self.raw_query)

    @cached_property
    def form(self) -> list[tuple[bytes, bytes]]:
        """The body's fields, or none if the body is not a form. Raises BadRequest."""
        if self.fields.form == 1:
            return check(pairs(self.body))
        if self.fields.form == 2:
            return check(multipart(self.fields.values[b"content-type"], self.body))
        return []

    def request_time(self) -> float:
        """Seconds since the request was read."""
        spent: float = self.connection.wheel.clock.seconds() - self._start_time
        return spent

    # Values that cyclone's ordinary handlers ask for.

    @property
    def version(self) -> str:
        return "HTTP/1.1" if self.newer else "HTTP/1.0"

    @property
    def uri(self) -> str:
        return self.target.decode("utf-8", "surrogateescape")

    @property
    def path(self) -> str:
        return self.raw_path.decode("utf-8", "surrogateescape")

    @property
    def protocol(self) -> str:
        return "https" if ISSLTransport.providedBy(self.connection.transport) else "http"

    @property
    def host(self) -> str:
        return self.fields.values.get(b"host", b"127.0.0.1").decode("latin-1")

    def supports_http_1_1(self) -> bool:
        return self.newer

    @cached_property
    def headers(self) -> Any:  # cyclone has no types
        if len(httputil.HTTPHeaders._normalized_headers) > 1000:
            httputil.HTTPHeaders._normalized_headers.clear()  # cyclone keeps every name for ever, however long
        built = httputil.HTTPHeaders()
        for line in self.fields.block.split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                built.add(name.decode("ascii"), value.strip(b" \t").decode("latin-1"))
        return built

    @cached_property
    def arguments(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        query = self.raw_query.decode("utf-8", "replace")
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS):
            found.setdefault(name, []).append(value)
        for raw, data in self.form:
            found.setdefault(raw.decode("utf-8", "replace"), []).append(data.decode("utf-8", "replace"))
        return found
