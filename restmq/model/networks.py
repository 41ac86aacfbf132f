"""Addresses and sets of addresses, as the access rules, the sockets and the proxies write them.

Knows no rule and no connection. Read access/acl.py next.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class Networks:
    """A set of addresses. A word is `all`, an address, a network in CIDR, or `192.168.0.` for a /24. IPv6 works too."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        """Raises ValueError, which names the word that is none of these."""
        self.words = tuple(words)
        self.all = "all" in self.words
        self._networks = tuple(_network(word) for word in self.words if word != "all")

    @property
    def cidr(self) -> tuple[str, ...]:
        """The networks in CIDR, without `all`."""
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
            f"{word!r} is not an address: it takes all, 10.0.0.7, 10.0.0.0/8, ::1, 2001:db8::/32 "
            "or 192.168.0. (with the dot) for a /24; host names are not looked up"
        ) from None


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text names, or None for a unix socket.

    An IPv4 address from an IPv6 socket is returned as IPv4.
    """
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
    """An IP address as Python writes it, without a port and the brackets of IPv6, or "" if the text is not an address.

    A socket that listens for IPv4 and IPv6 calls an IPv4 client ::ffff:10.0.0.7 (RFC 4291 section 2.5.5.2). This
    function returns 10.0.0.7, as that client is called everywhere else.
    """
    bare = _PORT.fullmatch(text)
    try:
        found = ipaddress.ip_address(bare[1] or bare[2] if bare else text)
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)
