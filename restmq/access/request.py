"""A request, as far as access asks about it.

Owns nothing but the attributes; http/request.py has them. Read access/acl.py next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Fields(Protocol):
    """The header fields of a request: lower-case name to value."""

    @property
    def values(self) -> Mapping[bytes, bytes]: ...


class Request(Protocol):
    """What is asked about a request. `remote_ip` is the client's address, "" over a unix socket.

    `peer_ip`, where there is one, is the address of the connection itself: behind
    a proxy it is the proxy's, and without the attribute remote_ip stands for it.
    `shared` is set to the header lines that let a page of an allowed origin read the answer.
    `proven`, where there is one, is set to what its connection showed last that was right.
    """

    shared: tuple[tuple[bytes, bytes], ...]
    proven: bytes

    @property
    def remote_ip(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def raw_query(self) -> bytes: ...
    @property
    def fields(self) -> Fields: ...
