"""Addresses and sets of them, as the rules name them and as sockets and proxies tell them.

Knows no rule and no connection. Read access/acl.py next.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class Networks:
    """A set of addresses: `all`, addresses, CIDR, IPv6, and `192.168.0.` for a /24."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        """Raises ValueError with the word that is none of these."""
        self.words = tuple(words)
        self.all = "all" in self.words
        self._networks = tuple(_network(word) for word in self.words if word != "all")

    @property
    def cidr(self) -> tuple[str, ...]:
        """The networks as CIDR, without `all`."""
        return tuple(str(network) for network in self._networks)

    def __contains__(self, address: str) -> bool:
        if self.all:
            return True
        parsed = ip_of(address)
        return parsed is not None and any(
            parsed.version == network.version and parsed in network for network in self._networks
        )

    def __bool__(self) -> bool:
        return bool(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and other.words == self.words

    def __hash__(self) -> int:
        return hash(self.words)


def _network(word: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    parts = word[:-1].split(".")
    try:
        if word.endswith(".") and len(parts) <= 3:
            return ipaddress.ip_network(f"{'.'.join(parts + ['0'] * (4 - len(parts)))}/{8 * len(parts)}")
        return ipaddress.ip_network(word, strict=False)
    except ValueError:
        raise ValueError(
            f"{word!r} is no address: it takes all, 10.0.0.7, 10.0.0.0/8, ::1, 2001:db8::/32 "
            "or 192.168.0. (with the dot) for a /24; host names are not looked up"
        ) from None


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, an IPv4 one that came over an IPv6 socket as what it is; None for a unix socket."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def is_loopback(address: str) -> bool:
    """Whether the address is of this machine's loopback: 127.0.0.0/8 or ::1."""
    parsed = ip_of(address)
    return parsed is not None and parsed.is_loopback


def address(text: str) -> str:
    """An IP address as Python writes it, without the brackets of IPv6 and a port; "" when it is none.

    An IPv4 client of a socket that listens on both is ::ffff:10.0.0.7 there (RFC 4291
    section 2.5.5.2): it is 10.0.0.7 everywhere else, and so it is here.
    """
    bare = _PORT.fullmatch(text)
    try:
        found = ipaddress.ip_address(bare[1] or bare[2] if bare else text)
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)
