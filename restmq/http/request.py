"""One request: what came, and what a handler asks of it, built when it is asked for.

Owns the views of a request; knows no route. cyclone's request is subclassed, so
that its ordinary handlers find what they look for. Read http/connection.py next.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from cyclone import httpserver, httputil
from twisted.internet.interfaces import ISSLTransport

from restmq.http.forms import check, multipart
from restmq.http.headers import Fields
from restmq.model.errors import TooLarge
from restmq.model.urlencoded import MAX_FIELDS, pairs
from restmq.runtime.ticker import Wheel

LITTLE = 64 << 10  # bytes of a body that every address takes


class Most(NamedTuple):
    """The most bytes that a body may have: of what, and which setting says so."""

    bytes: int = LITTLE
    what: str = "a body for this address"
    setting: str = ""

    def passed(self, size: int = 0) -> TooLarge:
        """The error of a body that is larger; `size` is how large, 0 when nobody knows yet."""
        has = f"has {size} bytes; at most {self.bytes} are allowed" if size else f"may have at most {self.bytes} bytes"
        return TooLarge(f"{self.what} {has}{self.setting and f' ({self.setting})'}")


class Receiver(Protocol):
    """What a stream's connection passes on to it: the bytes of the client, and that it has gone."""

    def received(self, data: bytes) -> None: ...
    def lost(self) -> None: ...


class Carrier(Protocol):
    """The connection that a request came over, as far as the request, its handler and its stream know it."""

    peer_ip: str
    proven: bytes  # the user name and password that were right here last
    allowed: dict[str, int]  # section -> generation of the ACL that let this address in
    half: bool  # whether the client has closed its side
    ended: bool  # whether the client is gone
    line: deque[Request]  # the requests that are not answered yet
    wheel: Wheel
    transport: Any  # Twisted's, which has no one interface for TCP, TLS and unix sockets

    def client(self, values: dict[bytes, bytes]) -> str: ...
    def may_grow(self, request: Request, most: int) -> None: ...
    def replaced(self, request: Request, body: bytes) -> None: ...
    def freed(self, request: Request) -> None: ...
    def closes(self, request: Request) -> bool: ...
    def answer(self, request: Request, data: bytes) -> None: ...
    def taken_over(self, stream: Receiver) -> None: ...
    def read_ahead(self) -> bytes: ...
    def lose(self) -> None: ...
    def cut(self, linger: bool = True, patience: float = 0) -> None: ...
    def readConnectionLost(self) -> None: ...


class Request(httpserver.HTTPRequest):  # type: ignore[misc]  # cyclone has no types
    """cyclone's request; what a lean handler does not ask for is built on first use.

    `target`, `raw_path` and `raw_query` are as they came, `query` and `form` decoded
    lists of pairs of bytes. `fields.values` has the header lines.
    """

    files: dict[str, Any] = {}
    size = 0  # bytes of the body, which counts while it is under way
    _finish_time = None
    hold = False  # whether it begins when those before it are answered, and what follows is read when it is
    alone = False  # whether what follows is read when it is answered, though it has begun
    answer: bytes | None = None
    handler: Any = None
    route: Any = None  # application.Route, once it was looked for
    judged = False  # whether its head was judged before its body came
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
        """The client's address; behind a trusted proxy, the one it names. "" over a unix socket."""
        return self.connection.client(self.fields.values)

    @property
    def proven(self) -> bytes:
        """The user name and password that were right on this connection last; b"" when none, or wrong ones since."""
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
        """The body's fields; none when it is no form. Raises BadRequest."""
        if self.fields.form == 1:
            return check(pairs(self.body))
        if self.fields.form == 2:
            return check(multipart(self.fields.values[b"content-type"], self.body))
        return []

    def request_time(self) -> float:
        """Seconds since the request was read."""
        spent: float = self.connection.wheel.clock.seconds() - self._start_time
        return spent

    # What cyclone's ordinary handlers ask for.

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
    def headers(self) -> Any:
        if len(httputil.HTTPHeaders._normalized_headers) > 1000:
            httputil.HTTPHeaders._normalized_headers.clear()  # cyclone keeps every name it ever saw, however long
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
