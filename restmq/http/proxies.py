"""The proxies that may name their client, as Nginx does.

Owns which proxies are trusted. Knows no connection. Read http/accesslog.py next.
"""

from __future__ import annotations

from restmq.model.networks import Networks, address

HOPS = 32  # most addresses of a chain of proxies: each is looked up in the networks


class Proxies:
    """The proxies that may name their client, and the header in which they do (`header`, in lower case)."""

    def __init__(self, header: str, networks: tuple[str, ...]) -> None:
        self.header = header.lower().encode("ascii")
        self._networks = Networks(networks or ("127.0.0.0/8", "::1/128"))

    def client(self, peer: str, given: bytes) -> str:
        """The client's address: the peer's, or the one that a trusted proxy named in the header's value.

        In X-Forwarded-For, the right-most address that is not a trusted proxy counts, because the client may have
        invented the addresses before it. "" is the peer of a unix socket: a process that may open the socket is the
        proxy. Of a longer chain, only the last 32 addresses count.
        """
        hops = [hop.strip() for hop in given.decode("latin-1").rsplit(",", HOPS)[-HOPS:]]
        if peer and peer not in self._networks:
            return peer
        client = peer
        for hop in reversed(hops):
            named = address(hop)
            if not named:
                break
            client = named
            if self.header == b"x-real-ip" or named not in self._networks:
                break
        return client
