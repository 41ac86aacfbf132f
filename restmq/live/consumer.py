"""Live consumers: one consumer of delivery, over one connection.

Owns framing, heartbeats, and the end of consumers that do not read. Knows nothing of policies, positions or Redis. A
consumer joins, gets elements, and reports when it is full, drained or gone. live/comet.py, live/sse.py and
live/websocket.py are the transports. delivery/service.py calls deliver(): read it next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import ClassVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

from restmq.api.services import BrokerHandler
from restmq.delivery import replay
from restmq.delivery.batch import Batch
from restmq.delivery.pace import Pace
from restmq.http.accesslog import NO_ADDRESS
from restmq.http.stream import Stream
from restmq.live.options import StreamOptions
from restmq.model.errors import Error, TooMany, Unavailable
from restmq.model.networks import is_loopback
from restmq.runtime.future import drive, fault, nothing

MOST_SHOWN = 10  # most queues of one consumer in a line of the log
EARLY = 65536  # if more bytes come before the answer's head is out, the consumer counts as full
# No proxy may keep, rewrite or hold back a stream. Nginx holds it back without X-Accel-Buffering.
CACHE = b"no-store, no-transform"
HEADERS = ((b"X-Accel-Buffering", b"no"),)

log = Logger()


def documents(batch: Batch, leased: bool = False, ids: Sequence[str] = ()) -> list[str]:
    """The JSON object of each element of a batch, with the first RestMQ's fields, order and spacing, in ASCII.

    With `leased`, an object has the lease. If there are `ids`, the id stands after it.
    """
    head = '{"key": ' + quote(batch.queue.decode("utf-8"))[:-1] + ":"
    found = [f'{head}{one.number}", "value": {quote(one.value.decode("utf-8"))}' for one in batch.elements]
    if leased:
        found = [f'{text}, "lease": "{bytes(one.lease).decode()}"' for text, one in zip(found, batch.elements)]
    if ids:
        found = [f'{text}, "id": "{one}"' if one else text for text, one in zip(found, ids)]
    return [text + "}" for text in found]


class Live:
    """One live consumer: delivery on one side, a Stream on the other.

    Elements may come before the stream is open, while join() still waits for Redis. They are kept and leave first.
    `written` counts the bytes given to the consumer, with framing and without the head. `unsent` counts all bytes that
    the kernel has not taken. So written - unsent never claims too many bytes.
    """

    section: ClassVar[str]
    always_ids: ClassVar[bool] = False  # whether elements have ids even without `since`

    def __init__(
        self,
        handler: BrokerHandler,
        queues: Sequence[bytes],
        clock: IReactorTime | None = None,
        options: StreamOptions = StreamOptions(),  # noqa: B008
    ) -> None:
        self.services, self.server = handler.services, handler.server
        self.request = handler.request
        self.queues = list(queues)
        self.options = options
        self.lease, self.prefetch = options.lease, options.prefetch
        self.ids = (self.always_ids and not options.lease and not options.tap) or options.since is not None
        self.framing: Hashable = (self.section, bool(options.lease), self.ids)
        if self.ids and len(queues) > 1:
            self.framing = object()  # an id has the positions of all queues, so that it resumes all of them
        self._places: dict[bytes, tuple[int, bytes]] = {}
        self._before: dict[bytes, tuple[int, bytes]] = {}  # each queue's position before the elements that came early
        self.full = False
        self.pace = Pace()  # of reading from history
        self.ended = False
        self.written = 0
        self.elements = 0  # number of elements given to the consumer
        self._clock: IReactorTime = clock or self.server.wheel.clock
        self._early: list[bytes] = []
        self._stream: Stream | None = None
        self._timer: IDelayedCall | None = None
        self._access = self.server.acl.generation
        self.most = self.services.config.max_waiting
        # A stall is counted in heartbeats. Otherwise the first heartbeat after this process slept would find that a
        # minute passed without progress.
        self._period = min(self.services.config.heartbeat, self.services.config.stall)
        self._stalls = max(1, -int(-self.services.config.stall // self._period))
        self._still = 0
        self._sent: int | None = None
        self.moving = False  # bytes are left, and the client took some since the last heartbeat
        self._left = 0
        self._why = ""
        self._slow = False  # fell behind once, and the log says so
        self._unseen: dict[bytes, int] = {}  # for a tap: the number of elements of each queue that it did not get
        self._counted = ""  # the client's address, while it counts this live consumer

    async def begin(self, handler: BrokerHandler, head: Callable[[], Stream]) -> None:
        """Join, and take the connection over. head() writes the answer's head. Raises Unavailable."""
        positions = await self.join(handler)
        if positions is None:
            return
        try:
            self.open(head(), positions)
        except Exception:
            self.leave("it could not begin")
            raise

    async def join(self, handler: BrokerHandler) -> dict[bytes, tuple[int, bytes]] | None:
        """Join the queues.

        Elements may come from here on. Returns each queue's (position, epoch), or None if the client left.

        Raises Unavailable if Redis cannot be asked, and TooMany. Then the consumer has left again.
        """
        self._count()
        handler.on_client_gone = [self.leave]
        positions: dict[bytes, tuple[int, bytes]] = {}
        delivery, since = self.services.delivery, self.options.since
        try:
            if self.options.tap:
                await delivery.taps.join(self, self.queues)
            else:
                positions = await delivery.join(self, self.queues, past_first=since is not None)
                for queue, start in since.items() if since else ():
                    if not handler.gone and not self.ended:
                        positions[queue] = await replay.begin(delivery, queue, start, positions[queue][0])
        except Exception:
            self.leave()
            raise
        if handler.gone:
            self.leave()
            return None
        if self.ended:
            raise Unavailable(f"the stream was closed while it joined: {self._why}")
        handler.on_client_gone = None
        return positions

    def _count(self) -> None:
        client, most = self.request.remote_ip, self.services.config.per_client
        if not most or not client or is_loopback(client):
            return
        if self.server.live[client] >= most:
            raise TooMany(
                f"{client} has {most} live consumers on this instance; it may have no more (per_client in restmq.conf)"
            )
        self.server.live[client] += 1
        self._counted = client

    def open(self, stream: Stream, positions: dict[bytes, tuple[int, bytes]]) -> None:
        """The answer's head is out: send the elements that wait, and listen to the stream."""
        self._stream = stream
        stream.on_full, stream.on_drained = self._on_full, self._on_drained
        stream.on_lost, stream.on_data = self.on_lost, self.on_data
        early, self._early = b"".join(self._early), []
        waited, self.full = self.full, False
        first = self.opening(positions, early)  # not counted in `written`, because it stands before the elements
        if first:
            stream.write(first)
        self._timer = self._clock.callLater(self._period, self._beat)
        log.info("{who} joined {where}", who=self._who, where=self._where)
        stream.resume()
        if waited and not self.full:
            self._on_drained()
        if self.options.since is not None:
            drive(self._replay(positions), nothing, self._on_replay_failed)

    async def _replay(self, positions: dict[bytes, tuple[int, bytes]]) -> None:
        for queue in self.queues:
            await replay.replay(self.services.delivery, self, queue, *positions[queue])

    def _on_replay_failed(self, error: BaseException) -> None:
        fault("sending the past", error)
        self._close_without_past()

    def _close_without_past(self) -> None:
        if self.unsent and not self.ended:  # elements leave before the reason
            self._clock.callLater(0.05, self._close_without_past)
        else:
            self.close("past elements could not be read; connect again with the last id")

    # Called by delivery

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet. After the end, the number stays as it was then."""
        if self.ended:
            return self._left
        return self.written if self._stream is None else self._stream.unsent

    @property
    def overfull(self) -> bool:
        """Whether more than max_waiting waits for the consumer.

        It must also be full, because one large value alone proves nothing.
        """
        return self.full and self.unsent > self.most

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write the frames of a batch. Other consumers share the bytes."""
        if self.ended:
            return
        if self.options.tap and self.overfull:
            self._unseen[queue] = self._unseen.get(queue, 0) + len(batch.elements)
            return
        self.elements += len(batch.elements)
        if self._stream is not None:
            self.write(data)
            return
        self._early.append(data)
        self.written += len(data)
        if self.written > EARLY and not self.full:
            self._on_full()

    def on_fell_behind(self, queue: bytes, position: int, epoch: bytes) -> None:
        """Read from history at the consumer's own pace from this position on.

        More waits for the consumer than its buffer may hold.
        """
        if not self._slow:
            self._slow = True
            log.info("{who} reads {where} slowly: it goes on from history", who=self._who, where=self._where)
        reading = replay.replay(self.services.delivery, self, queue, position, epoch, behind=True)
        drive(reading, nothing, self._on_replay_failed)

    def frame(self, batch: Batch) -> bytes:
        """A batch as this transport writes it."""
        return b"".join([self.frame_object(text) for text in documents(batch, bool(self.lease), self._ids(batch))])

    def on_missed(self, queue: bytes, first: int, last: int) -> None:
        """Announce that the broadcasts at these positions are no longer kept."""
        if queue in self._places:
            self._places[queue] = (last, self._places[queue][1])
        gap = {"queue": queue.decode("utf-8"), "gap": [first, last], "missed": last - first + 1}
        self._announce("gap", gap)

    def on_new_epoch(self, queue: bytes, epoch: bytes, position: int, behind: bool = False) -> None:
        """Announce that the queue has begun another epoch.

        A consumer without ids misses something only if it was behind.
        """
        known = self._places.get(queue, (0, b""))[1] == epoch  # it got past elements of this epoch
        if not known if self.ids else behind:
            self._places[queue] = (position, epoch)
            self._announce("reset", {"queue": queue.decode("utf-8"), "epoch": epoch.decode("ascii")})

    def _announce(self, event: str, said: dict[str, object]) -> None:
        data = self.frame_object(json.dumps(said), event)
        if self._stream is None:
            self._early.append(data)
            self.written += len(data)
        elif not self.ended:
            self.write(data)

    def _ids(self, batch: Batch) -> list[str]:
        """The id after each element of a batch, or [] if there are no ids."""
        if not self.ids or not batch.numbered:
            return []
        epoch = batch.epoch.decode("ascii")
        if len(self.queues) == 1:
            return [f"{batch.first + place}@{epoch}" for place in range(len(batch.elements))]
        ids = []
        for place in range(batch.first, batch.last + 1):
            if self._stream is None:
                self._before.setdefault(batch.queue, (place - 1, batch.epoch))
            self._places[batch.queue] = (place, batch.epoch)
            ids.append(self._id(self._places))
        return ids

    def _id(self, places: dict[bytes, tuple[int, bytes]]) -> str:
        """The id of all queues, or "" while one of them has no position."""
        found = [places.get(queue) for queue in self.queues]
        return ",".join(f"{one[0]}@{one[1].decode('ascii')}" for one in found if one) if all(found) else ""

    def close(self, why: str) -> None:
        """End the stream as its transport does. `why` is for a person."""
        stream, waiting = self._stream, self.unsent
        if self.ended:
            return
        self.leave(why)
        if stream is None:
            return
        if waiting:  # other consumers get these elements now, so they must not leave here as well
            stream.cut()
        else:
            self.farewell(stream, why)

    # Overridden by a transport

    def frame_object(self, document: str, event: str = "") -> bytes:
        """One JSON object as this transport writes it. `event` names an announcement; it is "" for an element."""
        raise NotImplementedError

    def opening(self, positions: dict[bytes, tuple[int, bytes]], early: bytes) -> bytes:
        """The first bytes after the head, with the elements that came early."""
        first = self._id({**positions, **self._before})
        self._places = {**positions, **self._places}
        return (self.frame_object(json.dumps({"id": first})) if self.ids else b"") + early

    def beat(self) -> None:
        """Write a heartbeat. Nothing else waits to be sent."""
        raise NotImplementedError

    def farewell(self, stream: Stream, why: str) -> None:
        """End the stream cleanly, with the reason. Nothing waits to be sent."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """End the stream, because the access rules no longer allow it."""
        self.close(why)

    def on_data(self, data: bytes) -> None:
        """Take bytes from the client. Comet and SSE ignore them."""

    # The stream

    def write(self, data: bytes) -> None:
        """Write to the stream, which is open."""
        assert self._stream is not None
        before = self._stream.written
        self._stream.write(data)
        # With the stream's framing: otherwise its chunk sizes would count as elements that the socket has not taken.
        self.written += self._stream.written - before

    def leave(self, why: str = "the client left") -> None:
        """Take no more elements. Those that were not sent go to other consumers. May be called again."""
        self._end(why)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.services.delivery.leave(self)
        self.pace.end()

    def on_lost(self) -> None:
        """The connection is gone, or the client has closed its side."""
        self.leave()
        if self._left and self._stream is not None:
            self._stream.cut()  # other consumers get these elements now, so they must not leave here as well

    def _on_full(self) -> None:
        self.full = True
        self.pace.full(True)
        if not self.ended:
            self.services.delivery.on_full(self)

    def _on_drained(self) -> None:
        self.full = False
        if self.ended:
            return
        unseen, self._unseen = self._unseen, {}
        for queue, many in unseen.items():
            self._announce("gap", {"queue": queue.decode("utf-8"), "gap": None, "missed": many})
        self.pace.full(self.full)  # the announcement may have filled the stream again
        self.services.delivery.on_drained(self)

    def _drop(self, why: str) -> None:
        """End a consumer that takes nothing.

        The bytes that wait here are thrown away, and their elements go to other consumers.
        """
        assert self._stream is not None
        self._end(f"it does not read: dropped, {why}", LogLevel.warn)
        self.leave()
        self._stream.cut()

    def _end(self, why: str, level: LogLevel = LogLevel.info) -> None:
        if self.ended:
            return
        self._left = self.unsent
        self.ended, self._why = True, why
        if self._counted:
            live = self.server.live
            live[self._counted] -= 1
            if not live[self._counted]:
                del live[self._counted]
        if self._stream is not None:
            log.emit(
                level,
                "{who} left {where} after {elements} elements: {why}",
                who=self._who,
                where=self._where,
                elements=self.elements,
                why=why,
            )

    @property
    def _who(self) -> str:
        return self.request.remote_ip or NO_ADDRESS

    @property
    def _where(self) -> str:
        """Transport and queues, for the log."""
        names = [queue.decode("utf-8") for queue in self.queues[:MOST_SHOWN]]
        more = len(self.queues) - len(names)
        return f"{self.section.partition(':')[0]} of {','.join(names)}" + (f" and {more} more" if more else "")

    def _beat(self) -> None:
        assert self._stream is not None
        self._timer = self._clock.callLater(self._period, self._beat)
        if self.server.acl.generation != self._access:
            try:
                self.server.acl.check(self.section, self.request)
                if self.options.tap:  # a tap also looks at elements
                    self.server.acl.check("rest:consumer", self.request)
            except Error as refused:
                self.refuse(refused.text)
                return
            self._access = self.server.acl.generation
        waiting = self._stream.unsent
        left = waiting + self._stream.untaken
        taken = self.written - left
        # Bytes that the client's kernel acknowledged count. Ours takes some 100 kB at a time, which may last for
        # minutes.
        self.moving = left > 0 and (self._sent is None or taken > self._sent)
        if self.moving or not left:
            self._sent, self._still = taken if left else None, 0
        else:
            self._still += 1
            # While no bytes wait here, no other consumer could get an element. So a pause may be twice as long.
            if self._still >= (self._stalls if waiting else 2 * self._stalls):
                self._drop(f"none of {left} waiting bytes moved for {self._still * self._period:g} s")
                return
        if not waiting:
            self.beat()
