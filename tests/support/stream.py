"""A stream without a socket, and stand-ins for what a live consumer talks to.

`Wire` stands where http.Stream stands.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from restmq.delivery.batch import Batch
from restmq.delivery.consumers import Consumers
from restmq.http.headers import NOTHING
from restmq.model.element import Element
from restmq.runtime.room import Room

if TYPE_CHECKING:  # they import the reactor, which programs that use this may do without
    from restmq.http.request import Request
    from restmq.http.stream import Stream
    from restmq.live.consumer import Live


def nothing(*_: object) -> None:
    """What a Stream does before its owner says otherwise."""


class Wire:
    """A stream that keeps what it is given. While `stuck`, nothing of it leaves."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.unsent = self.written = self.untaken = 0
        self.stuck = False
        self.closed = self.was_cut = self.reading_stopped = False
        self.on_data: Callable[[bytes], None] = nothing
        self.on_full: Callable[[], None] = nothing
        self.on_drained: Callable[[], None] = nothing
        self.on_lost: Callable[[], None] = nothing

    @property
    def data(self) -> bytes:
        """All that was written."""
        return b"".join(self.parts)

    def write(self, data: bytes) -> None:
        """Take bytes."""
        assert not self.closed
        self.parts.append(data)
        self.written += len(data)
        if self.stuck:
            self.unsent += len(data)
            self.on_full()

    def drain(self, size: int | None = None) -> None:
        """The peer reads `size` bytes, or all."""
        self.unsent -= self.unsent if size is None else size
        if not self.unsent:
            self.stuck = False
            self.on_drained()

    def pause(self) -> None:
        """Read no more."""
        self.reading_stopped = True

    def resume(self) -> None:
        """Read again."""
        self.reading_stopped = False

    def close(self, last: bytes = b"") -> None:
        """End it after what waits."""
        if last:
            self.write(last)
        self.closed = True

    def cut(self) -> None:
        """End it now; on_lost comes in a later turn, as Twisted has it."""
        self.closed = self.was_cut = True


def as_stream(wire: Wire) -> Stream:
    """A Wire where a Stream is wanted. The cast is needed because a real Stream takes over a socket as it is made."""
    return cast("Stream", wire)


def as_request(method: str, raw_path: bytes) -> Request:
    """What is counted of a request. The cast is needed because a real Request belongs to a connection."""
    return cast("Request", SimpleNamespace(method=method, raw_path=raw_path))


class Desk:
    """Stands where Delivery stands: writes down what a consumer tells it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def join(
        self, consumer: object, queues: list[bytes], past_first: bool = False
    ) -> dict[bytes, tuple[int, bytes]]:
        """A consumer came."""
        self.told.append("joined")
        return dict.fromkeys(queues, (0, b"e"))

    def leave(self, consumer: object) -> None:
        """A consumer went."""
        self.told.append("left")

    def on_full(self, consumer: object) -> None:
        """A consumer takes no more."""
        self.told.append("full")

    def on_drained(self, consumer: object) -> None:
        """A consumer takes again."""
        self.told.append("drained")


class Door:
    """Stands where the ACL stands."""

    def __init__(self) -> None:
        self.generation = 0
        self.refusal: Exception | None = None

    def check(self, section: str, request: object) -> bool:
        """Let in, or raise what the test says."""
        if self.refusal is not None:
            raise self.refusal
        return True


def handler(heartbeat: float = 15.0, stall: float = 60.0, max_waiting: int = 1000, max_value: int = 1000) -> Any:
    """As much of a Handler as a consumer looks at."""
    settings = SimpleNamespace(
        heartbeat=heartbeat,
        stall=stall,
        max_waiting=max_waiting,
        max_value=max_value,
        per_client=0,
        max_form=3 * max_value + (64 << 10),
    )
    server = SimpleNamespace(config=settings, acl=Door(), bodies=Room(1 << 20))
    services = SimpleNamespace(config=settings, delivery=Desk())
    request = SimpleNamespace(remote_ip="127.0.0.1", method="GET", fields=NOTHING)
    return SimpleNamespace(server=server, services=services, request=request, gone=False, on_client_gone=None)


def desk(consumer: Live) -> Desk:
    """What stands where a consumer's Delivery stands."""
    found: object = consumer.services.delivery
    assert isinstance(found, Desk)
    return found


def door(consumer: Live) -> Door:
    """What stands where a consumer's ACL stands."""
    found: object = consumer.server.acl
    assert isinstance(found, Door)
    return found


def batch(*values: str, queue: str = "q", first: int = 1, number: int = 1, epoch: bytes = b"e") -> Batch:
    """Some elements of a queue that arrived together."""
    name = queue.encode("utf-8")
    elements = [Element(name, number + place, value.encode("utf-8")) for place, value in enumerate(values)]
    return Batch(name, elements, first, epoch)


def ring(*consumers: Any) -> Consumers:
    """Consumers of one queue, as Delivery holds them."""
    all_of_them = Consumers()
    for consumer in consumers:
        all_of_them.join(consumer)
    return all_of_them
