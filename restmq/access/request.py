"""A request, as far as the access rules ask about it.

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
    """The attributes of a request that the access rules use.

    - `remote_ip` is the client's address, "" over a unix socket.
    - `peer_ip`, if it exists, is the address of the connection itself. Behind a proxy it is the proxy's. If it does
      not exist,
    remote_ip stands for it.
    - `shared` is set to the header lines that let a page of an allowed origin read the answer.
    - `proven`, if it exists, is set to the last user name and password that were right on the connection.
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
