"""Proxies that are trusted to name their client, as Nginx does.

Owns whose word counts; knows no connection. Read http/accesslog.py next.
"""

from __future__ import annotations

from restmq.model.networks import Networks, address

HOPS = 32  # of a chain of trusted proxies: each costs a look at the networks


class Proxies:
    """Which proxies are trusted to name their client, and in which header (`header`, lower case)."""

    def __init__(self, header: str, networks: tuple[str, ...]) -> None:
        self.header = header.lower().encode("ascii")
        self._networks = Networks(networks or ("127.0.0.0/8", "::1/128"))

    def client(self, peer: str, given: bytes) -> str:
        """The client's address: the peer's, or the one that a trusted proxy named in the header's value.

        Of X-Forwarded-For it is the right-most that is no trusted proxy: whatever
        stands before that one the client may have invented. "" is a unix socket's
        peer: whoever may open it is the proxy. A chain of more than 32 ends with the 32nd.
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
