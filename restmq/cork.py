"""Writing at once, and writing once: what the transports' buffers are for.

Owns the few private fields of Twisted's transports that this needs; knows
nothing of HTTP or Redis. Read clock.py next.
"""

from __future__ import annotations

from typing import Any


class Cork:
    """While open (one read from Redis), what goes to a connection gathers; closing writes each once."""

    def __init__(self) -> None:
        self.depth = 0
        self._gathered: dict[Any, list[bytes]] = {}

    def __enter__(self) -> Cork:
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            gathered, self._gathered = self._gathered, {}
            for transport, parts in gathered.items():
                send(transport, parts[0] if len(parts) == 1 else b"".join(parts))


cork = Cork()


def send(transport: Any, data: bytes) -> None:
    """Write data; the kernel gets it at the end of the turn at the latest."""
    transport.write(data)
