"""Live consumers: what Delivery sees as one consumer, over one connection. Comet and SSE.

Owns framing, heartbeats, and the end of consumers that do not read; knows
nothing of policies, positions or Redis: it joins, is given elements, and
tells when it is full, drained or gone. The WebSocket is in live/websocket.py;
who calls deliver() is delivery/service.py. Read that next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar, NamedTuple

from twisted.logger import Logger, LogLevel

from restmq.api.services import BrokerHandler
from restmq.delivery import replay as resume
from restmq.delivery.batch import Batch
from restmq.delivery.pace import Pace
from restmq.http.accesslog import NO_ADDRESS
from restmq.http.handler import name
from restmq.http.stream import Stream
from restmq.model import options
from restmq.model.errors import (
    BadName,
    BadOption,
    Error,
    TooMany,
    Unavailable,
)
from restmq.model.networks import is_loopback
from restmq.model.suggest import near
from restmq.runtime.future import drive, fault, nothing

MOST_QUEUES = 100
MOST_SHOWN = 10  # queues of one consumer in a line of the log
EARLY = 65536  # bytes that come before the answer's head is out; then the consumer counts as full
# Nothing on the way may keep, rewrite or hold back a stream; Nginx holds it back without the second.
CACHE = b"no-store, no-transform"
HEADERS = ((b"X-Accel-Buffering", b"no"),)

log = Logger()


def documents(batch: Batch, leased: bool = False, ids: Sequence[str] = ()) -> list[str]:
    """The JSON object of each element of a batch, with the first RestMQ's fields, order and spacing, ASCII only.

    With `leased` it has the lease, and where there are `ids`, the id after it.
    """
    head = '{"key": ' + quote(batch.queue.decode("utf-8"))[:-1] + ":"
    found = [f'{head}{one.number}", "value": {quote(one.value.decode("utf-8"))}' for one in batch.elements]
    if leased:
        found = [f'{text}, "lease": "{bytes(one.lease).decode()}"' for text, one in zip(found, batch.elements)]
    if ids:
        found = [f'{text}, "id": "{word}"' if word else text for text, word in zip(found, ids)]
    return [text + "}" for text in found]


def queue_names(raw: bytes) -> list[bytes]:
    """The queues that NAMES in the undecoded path asks for, in its order.

    One name, or up to 100 with commas; each is percent-decoded and checked by
    itself, so a name cannot smuggle in a comma. Raises BadName.
    """
    parts = raw.split(b",")
    if len(parts) > MOST_QUEUES:
        raise BadName(f"there are {len(parts)} queue names; at most {MOST_QUEUES} are allowed on one connection")
    names = [name(part) for part in parts]
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise BadName(f"the queue {twice.decode('utf-8')} is named twice")
    return names


def _tap(text: str) -> bool:
    return options.yes("tap", text)


#: The options of a stream, with their parsers.
KNOWN: dict[str, Callable[[str], Any]] = {
    "since": str,
    "lease": options.lease,
    "prefetch": options.prefetch,
    "tap": _tap,
}


def _check_last_id(handler: BrokerHandler) -> None:
    """Raises BadOption for a parameter that is meant to be the last id, and is not: misspelt, or not on /sse."""
    words = [raw.decode("utf-8", "replace") for raw, _ in handler.request.query if handler.request.raw_query]
    unknown = next((word for word in words if word not in KNOWN and not handler.passes(word)), "")
    if unknown and near(unknown, (*KNOWN, "lastEventId")) == "lastEventId":
        meant = "did you mean 'lastEventId'?" if handler.passes("lastEventId") else "here since=ID says the last ID"
        raise BadOption(f"the query parameter {unknown!a} is not known to this request; {meant}")


class Wish(NamedTuple):
    """What a stream was asked for: where it goes on, or a lease in ms and how many at a time, or to see all adds."""

    since: dict[bytes, resume.Since] | None = None
    lease: int = 0
    prefetch: int = 1
    tap: bool = False


def wish(handler: BrokerHandler, queues: list[bytes], again: bytes = b"") -> Wish:
    """The options of a stream; `again` is the last id with which it comes back, which weighs more than `since`.

    Raises BadOption, and Unauthorized or Forbidden for a tap, which is also looking.
    """
    if any(word == b"callback" for word, _ in handler.request.query):
        raise BadOption("callback is for plain JSON answers, not for a stream: read it line by line, or use /sse")
    _check_last_id(handler)
    asked = handler.options(KNOWN)
    plain = "lease" not in asked and not asked.get("tap")
    since = asked.get("since", "").encode("utf-8")
    if "prefetch" in asked and "lease" not in asked:
        raise BadOption("prefetch bounds what is leased: it goes with lease")
    if again and plain:  # an EventSource comes back with the id that it has, whatever its address says
        return Wish(resume.returning(again, queues))
    if "lease" in asked and since:
        raise BadOption("since and lease do not go together: what was broadcast is nobody's")
    if asked.get("tap") and (since or "lease" in asked):
        raise BadOption("a tap sees what is added from now on, and takes nothing: it goes neither with since nor lease")
    if asked.get("tap"):
        handler.allow("rest:consumer")
    return Wish(
        resume.parse(since, queues) if since else None,
        asked.get("lease", 0),
        asked.get("prefetch", 1),
        asked.get("tap", False),
    )


class Live:
    """One live consumer: Delivery on one side, a Stream on the other.

    Elements may come before the stream is open, while join() still waits for
    Redis: they are kept and go out first. `written` counts the bytes given to the
    consumer, framing too but for the head; `unsent` all that the kernel has not
    taken: so written - unsent never says too much.
    """

    section: ClassVar[str]
    always_ids: ClassVar[bool] = False  # whether ids are there also when nobody asked for `since`

    def __init__(
        self,
        handler: BrokerHandler,
        queues: Sequence[bytes],
        clock: Any = None,
        wish: Wish = Wish(),  # noqa: B008
    ) -> None:
        self.services, self.server = handler.services, handler.server
        self.request = handler.request
        self.queues = list(queues)
        self.wish = wish
        self.lease, self.prefetch = wish.lease, wish.prefetch
        self.ids = (self.always_ids and not wish.lease and not wish.tap) or wish.since is not None
        self.framing: Hashable = (self.section, bool(wish.lease), self.ids)
        if self.ids and len(queues) > 1:
            self.framing = object()  # its ids have the positions of all its queues, so that one id resumes them all
        self._places: dict[bytes, tuple[int, bytes]] = {}
        self._before: dict[bytes, tuple[int, bytes]] = {}  # where each queue stood before what came early
        self.full = False
        self.pace = Pace()  # of what it reads from history
        self.ended = False
        self.written = 0
        self.elements = 0  # it was given so many
        self._clock: Any = clock or self.server.wheel.clock
        self._early: list[bytes] = []
        self._stream: Stream | None = None
        self._timer: Any = None
        self._access = self.server.acl.generation
        self.most = self.services.config.max_waiting
        # Stalls are looked for at heartbeats and counted in them: after this process
        # slept, the first beat must not find that a minute passed without progress.
        self._period = min(self.services.config.heartbeat, self.services.config.stall)
        self._stalls = max(1, -int(-self.services.config.stall // self._period))
        self._still = 0
        self._sent: int | None = None
        self.moving = False  # it has not got all yet, and took something since the last heartbeat
        self._left = 0
        self._why = ""
        self._slow = False  # it fell behind once, which the log has told
        self._unseen: dict[bytes, int] = {}  # of a tap: how many elements of each queue it was not shown
        self._counted = ""  # the client's address, while this is counted as one of its live consumers

    async def begin(self, handler: BrokerHandler, head: Callable[[], Stream]) -> None:
        """Join, and take the connection over: head() writes the answer's head. Raises Unavailable."""
        positions = await self.join(handler)
        if positions is None:
            return
        try:
            self.open(head(), positions)
        except Exception:
            self.leave("it could not be begun")
            raise

    async def join(self, handler: BrokerHandler) -> dict[bytes, tuple[int, bytes]] | None:
        """Elements may come from here on. Answers each queue's (position, epoch), None when the client left.

        Raises Unavailable when Redis cannot be asked, and TooMany; then nothing is left behind.
        """
        self._count()
        handler.on_gone = [self.leave]
        positions: dict[bytes, tuple[int, bytes]] = {}
        delivery, since = self.services.delivery, self.wish.since
        try:
            if self.wish.tap:
                await delivery.taps.join(self, self.queues)
            else:
                positions = await delivery.join(self, self.queues, past_first=since is not None)
                for queue, word in since.items() if since else ():
                    if not handler.gone and not self.ended:
                        positions[queue] = await resume.begin(delivery, queue, word, positions[queue][0])
        except Exception:
            self.leave()
            raise
        if handler.gone:
            self.leave()
            return None
        if self.ended:
            raise Unavailable(f"it was closed while it joined: {self._why}")
        handler.on_gone = None
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
        """The answer's head is out: send what waits, and listen to the stream."""
        self._stream = stream
        stream.on_full, stream.on_drained = self._filled, self._drained
        stream.on_lost, stream.on_data = self.lost, self.heard
        early, self._early = b"".join(self._early), []
        waited, self.full = self.full, False
        first = self.opening(positions, early)  # what it adds is not counted: it stands before the elements
        if first:
            stream.write(first)
        self._timer = self._clock.callLater(self._period, self._beat)
        log.info("{who} joined {where}", who=self._who, where=self._where)
        stream.resume()
        if waited and not self.full:
            self._drained()
        if self.wish.since is not None:
            drive(self._replay(positions), nothing, self._unreplayed)

    async def _replay(self, positions: dict[bytes, tuple[int, bytes]]) -> None:
        for queue in self.queues:
            await resume.replay(self.services.delivery, self, queue, *positions[queue])

    def _unreplayed(self, error: BaseException) -> None:
        fault("sending the past", error)
        self._pastless()

    def _pastless(self) -> None:
        if self.unsent and not self.ended:  # what it was given goes out before the reason
            self._clock.callLater(0.05, self._pastless)
        else:
            self.close("the past could not be read; connect again with the last id")

    # What Delivery calls

    @property
    def unsent(self) -> int:
        """Bytes that are not yet with the kernel; after the end it stays as it was then."""
        if self.ended:
            return self._left
        return self.written if self._stream is None else self._stream.unsent

    @property
    def overfull(self) -> bool:
        """Whether more waits for it than max_waiting. It must be full, too: one large value alone is no sign."""
        return self.full and self.unsent > self.most

    def deliver(self, data: bytes, queue: bytes, batch: Batch) -> None:
        """Write the frames of a batch. The bytes are shared with other consumers."""
        if self.ended:
            return
        if self.wish.tap and self.overfull:
            self._unseen[queue] = self._unseen.get(queue, 0) + len(batch.elements)
            return
        self.elements += len(batch.elements)
        if self._stream is not None:
            self.write(data)
            return
        self._early.append(data)
        self.written += len(data)
        if self.written > EARLY and not self.full:
            self._filled()

    def on_fell_behind(self, queue: bytes, position: int, epoch: bytes) -> None:
        """More waits for it than its buffer may hold: from this position on it reads from history, at its own pace."""
        if not self._slow:
            self._slow = True
            log.info("{who} reads {where} slowly: it goes on from history", who=self._who, where=self._where)
        replay = resume.replay(self.services.delivery, self, queue, position, epoch, behind=True)
        drive(replay, nothing, self._unreplayed)

    def frame(self, batch: Batch) -> bytes:
        """A batch as this transport writes it."""
        return b"".join([self.framed(text) for text in documents(batch, bool(self.lease), self._words(batch))])

    def on_missed(self, queue: bytes, first: int, last: int) -> None:
        """What was broadcast at these positions is no longer kept: tell."""
        if queue in self._places:
            self._places[queue] = (last, self._places[queue][1])
        said = {"queue": queue.decode("utf-8"), "gap": [first, last], "missed": last - first + 1}
        self._announce("gap", said)

    def on_new_epoch(self, queue: bytes, epoch: bytes, position: int, behind: bool = False) -> None:
        """The queue has begun another life. Without ids a consumer misses something by it only if it was behind."""
        told = self._places.get(queue, (0, b""))[1] == epoch  # where it got the past
        if not told if self.ids else behind:
            self._places[queue] = (position, epoch)
            self._announce("reset", {"queue": queue.decode("utf-8"), "epoch": epoch.decode("ascii")})

    def _announce(self, event: str, said: dict[str, Any]) -> None:
        data = self.framed(json.dumps(said), event)
        if self._stream is None:
            self._early.append(data)
            self.written += len(data)
        elif not self.ended:
            self.write(data)

    def _words(self, batch: Batch) -> list[str]:
        """The id after each element of a batch; [] where there is none."""
        if not self.ids or not batch.numbered:
            return []
        epoch = batch.epoch.decode("ascii")
        if len(self.queues) == 1:
            return [f"{batch.first + place}@{epoch}" for place in range(len(batch.elements))]
        words = []
        for place in range(batch.first, batch.last + 1):
            if self._stream is None:
                self._before.setdefault(batch.queue, (place - 1, batch.epoch))
            self._places[batch.queue] = (place, batch.epoch)
            words.append(self._id(self._places))
        return words

    def _id(self, places: dict[bytes, tuple[int, bytes]]) -> str:
        """The id of all queues, "" as long as one of them has no position."""
        words = [places.get(queue) for queue in self.queues]
        return ",".join(f"{word[0]}@{word[1].decode('ascii')}" for word in words if word) if all(words) else ""

    def close(self, why: str) -> None:
        """End the stream as its transport ends one; `why` is for a person."""
        stream, waiting = self._stream, self.unsent
        if self.ended:
            return
        self.leave(why)
        if stream is None:
            return
        if waiting:  # leaving gave it to others: it must not go out here as well
            stream.cut()
        else:
            self.farewell(stream, why)

    # What a transport adds

    def framed(self, document: str, event: str = "") -> bytes:
        """One JSON object as this transport writes it; `event` is what it tells when it is no element."""
        raise NotImplementedError

    def opening(self, positions: dict[bytes, tuple[int, bytes]], early: bytes) -> bytes:
        """The first bytes after the head, with what was delivered early in them."""
        first = self._id({**positions, **self._before})
        self._places = {**positions, **self._places}
        return (self.framed(json.dumps({"id": first})) if self.ids else b"") + early

    def beat(self) -> None:
        """Write a heartbeat; nothing else waits to be sent."""
        raise NotImplementedError

    def farewell(self, stream: Stream, why: str) -> None:
        """End the stream cleanly, with the reason; nothing waits to be sent."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """The access rules forbid it now."""
        self.close(why)

    def heard(self, data: bytes) -> None:
        """Bytes from the client. Comet and SSE have no use for them."""

    # The stream

    def write(self, data: bytes) -> None:
        """Write to the stream, which is open."""
        assert self._stream is not None
        before = self._stream.written
        self._stream.write(data)
        # With what the stream adds: else its chunk sizes would count as elements that the socket has not taken.
        self.written += self._stream.written - before

    def leave(self, why: str = "the client left") -> None:
        """Take no more; what was not sent goes to others. May be called again."""
        self._end(why)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.services.delivery.leave(self)
        self.pace.end()

    def lost(self) -> None:
        """The connection is gone, or the client has closed its half of it."""
        self.leave()
        if self._left and self._stream is not None:
            self._stream.cut()  # what others get now must not go out here as well

    def _filled(self) -> None:
        self.full = True
        self.pace.full(True)
        if not self.ended:
            self.services.delivery.on_full(self)

    def _drained(self) -> None:
        self.full = False
        if self.ended:
            return
        unseen, self._unseen = self._unseen, {}
        for queue, many in unseen.items():
            self._announce("gap", {"queue": queue.decode("utf-8"), "gap": None, "missed": many})
        self.pace.full(self.full)  # what was just written may have filled it again
        self.services.delivery.on_drained(self)

    def _drop(self, why: str) -> None:
        """End a consumer that takes nothing: what waits for it is thrown away here and goes on elsewhere."""
        assert self._stream is not None
        self._end(f"it does not read: dropped, {why}", LogLevel.warn)
        self.leave()
        self._stream.cut()

    def _end(self, why: str, level: Any = LogLevel.info) -> None:
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
                if self.wish.tap:  # which is looking, too
                    self.server.acl.check("rest:consumer", self.request)
            except Error as refused:
                self.refuse(refused.text)
                return
            self._access = self.server.acl.generation
        waiting = self._stream.unsent
        left = waiting + self._stream.untaken
        taken = self.written - left
        # What its kernel acknowledged, not what ours took: that is some 100 kB at a time, which may last for minutes.
        self.moving = left > 0 and (self._sent is None or taken > self._sent)
        if self.moving or not left:
            self._sent, self._still = taken if left else None, 0
        else:
            self._still += 1
            # While nothing waits here, nobody else could have it: so a pause may be twice as long.
            if self._still >= (self._stalls if waiting else 2 * self._stalls):
                self._drop(f"none of {left} waiting bytes moved for {self._still * self._period:g} s")
                return
        if not waiting:
            self.beat()
