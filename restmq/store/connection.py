"""The two connections to Redis: one for commands, one for messages.

Owns encoding, the order of replies, deadlines, reconnecting, and which version of Redis is new enough. txredisapi's
protocol and factory do authentication, choice of the database and retries. Knows no verb and no queue. Every command is
answered in time, by a reply or by an error. Read delivery/fence.py next, which gets the messages.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis
import txredisapi
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from restmq.model.errors import Full, Unavailable
from restmq.runtime.cork import cork, send
from restmq.runtime.future import Slot, ignored

#: The oldest versions that RestMQ's functions run on.
NEEDED = {"Redis": (7, 0), "Valkey": (8, 0)}
_CHECK_EVERY, _GRACE = 0.1, 0.4  # seconds: how often and how long a late link is looked at before it is given up
_EARLY = 0.25  # seconds before the deadline at which a link is late, so that its callers have their error in time
_EVERY = 1.0  # seconds between two calls of watch()
# Error replies by which Redis says "not now" or "not you". The words are Redis' own.
_REFUSALS = frozenset("LOADING BUSY READONLY MASTERDOWN MISCONF NOREPLICAS TRYAGAIN CLUSTERDOWN NOAUTH NOPERM".split())

log = Logger()
Reply = Any  # what hiredis gives: int, bytes, None, a list of these, or an exception
Done = Callable[[Reply, "BaseException | None"], None]


def encode(parts: Sequence[bytes]) -> bytes:
    """Encode a command as RESP (Redis protocol specification, arrays of bulk strings)."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        out.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(out)


_PING = encode([b"PING"])


def error_of(text: str) -> BaseException:
    """An error reply of Redis as one of our errors. Its first word is Redis' own name for it."""
    word = text.partition(" ")[0]
    if word == "OOM":
        return Full("Redis has no memory left (maxmemory): nothing was stored; taking and deleting go on")
    if word in _REFUSALS:
        return Unavailable(f"Redis refuses for now ({word}); nothing was stored or taken")
    return RuntimeError(f"Redis answered with an error: {text}")


def info(text: bytes) -> dict[str, str]:
    """The fields of an INFO reply, by their names."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def too_old(said: Mapping[str, str]) -> str:
    """Why a server with these fields (INFO server) is too old; "" when it is not.

    A server whose version cannot be read is let in. A call that it cannot do will fail.
    """
    product = "Valkey" if said.get("server_name") == "valkey" or "valkey_version" in said else "Redis"
    version = said.get("valkey_version" if product == "Valkey" else "redis_version", "")
    numbers = version.split(".")[:2]
    if not all(number.isdecimal() for number in numbers) or tuple(map(int, numbers)) >= NEEDED[product]:
        return ""
    return f"this is {product} {version}: RestMQ needs Redis 7.0 or later, or Valkey 8 or later; nothing was touched"


class Link(txredisapi.HiredisProtocol):  # type: ignore[misc]  # txredisapi has no types
    """One connection. `asked` holds the callbacks of unanswered commands, and their deadlines, in that order."""

    def connectionMade(self) -> Any:
        self.asked: deque[tuple[Done, float]] = deque()
        self.usable = False  # it is authenticated, and its database is chosen
        self.quiet = False  # nothing was read since the last look at it
        self.why = ""  # why it was given up
        self.replies = hiredis.Reader()
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        return super().connectionMade()

    def ask(self, command: bytes, done: Done, until: float) -> None:
        """Send one encoded command. done(reply, error) is called in the order of asking."""
        self.asked.append((done, until))
        send(self.transport, command)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        self.quiet = False
        if not self.usable:  # txredisapi does authentication and SELECT
            super().dataReceived(data)
            return
        self.replies.feed(data)
        with cork:  # what these replies cause is written once to each connection
            while True:
                reply = self.replies.gets()
                if reply is False:
                    return
                self.reply(reply)

    def reply(self, reply: Reply) -> None:
        """Give a reply to the caller that asked first."""
        self.asked.popleft()[0](reply, None)

    def connectionLost(self, reason: Failure) -> None:
        self.usable = False
        super().connectionLost(reason)
        asked, self.asked = self.asked, deque()
        why = self.why or "the connection to Redis was lost before it answered"
        for done, _ in asked:  # an exception for each: a shared one gathers every traceback
            done(None, Unavailable(why, maybe=True))


class MessageLink(Link):
    """The connection that subscribes. Messages go to on_message(channel, data), everything else is a reply."""

    on_message: Callable[[bytes, bytes], None]

    def reply(self, reply: Reply) -> None:
        if reply.__class__ is list and reply and reply[0] == b"message":
            self.on_message(reply[1], reply[2])
        elif self.asked:
            super().reply(reply)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """An endpoint that also reports why it could not connect; Twisted's ClientService does not."""

    def __init__(self, inner: IStreamClientEndpoint, on_failed: Callable[[str], None]) -> None:
        self.inner, self.on_failed = inner, on_failed

    def connect(self, factory: Any) -> Deferred[Any]:
        connecting: Deferred[Any] = self.inner.connect(factory)
        return connecting.addErrback(self._on_error)

    def _on_error(self, failure: Failure) -> Failure:
        self.on_failed(failure.getErrorMessage().rstrip("."))
        return failure


class Redis(txredisapi.RedisFactory):  # type: ignore[misc]  # txredisapi has no types
    """Keeps one link connected, for ever. `link` is None while there is none that can be used.

    A new link goes to on_connected(), which calls admit() once it has found the Redis good. Then on_link_up() is
    called. While there is no link, `why` says why.
    """

    maxDelay = 0.5  # s: a try costs nothing, and every client waits for it
    initialDelay = 0.1
    link: Link | None = None

    def __init__(
        self,
        address: str,
        clock: IReactorTime,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        deadline: float = 5.0,
        on_message: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        super().__init__(
            "restmq",
            db,
            1,
            charset=None,
            convertNumbers=False,
            username=username,
            password=password,
        )
        self.address, self.clock, self.deadline = address, clock, deadline
        self.name = f"{address}/{db}"
        self.why = ""
        self.now: Callable[[], float] = time.monotonic  # not the reactor's clock, which is the wall clock and can jump
        self.on_message = on_message
        self.on_connected: Callable[[Link], None] = self.admit
        self.on_link_up: Callable[[], None] = lambda: None
        self.on_link_down: Callable[[], None] = lambda: None
        self.protocol = MessageLink if on_message else Link
        self._newest: Link | None = None  # the last one made, usable or not
        self._ready_by = 0.0  # the time by which it must be authenticated

    @property
    def connected(self) -> bool:
        """Whether there is a link that can be used."""
        return self.link is not None

    @property
    def unanswered(self) -> int:
        """How many commands Redis has not answered yet."""
        return len(self.link.asked) if self.link is not None else 0

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        endpoint: IStreamClientEndpoint
        if self.address.startswith("unix:"):
            endpoint = UNIXClientEndpoint(self.clock, self.address[5:], timeout=self.deadline)
        else:
            host, _, port = self.address.rpartition(":")
            endpoint = TCP4ClientEndpoint(self.clock, host.strip("[]"), int(port), timeout=self.deadline)
        self.startConnecting(_Endpoint(endpoint, self.unusable))

    def buildProtocol(self, address: Any) -> Link:
        link: Link = super().buildProtocol(address)
        if self.on_message is not None:
            link.on_message = self.on_message
        self._newest, self._ready_by = link, self.until()
        return link

    def addConnection(self, conn: Link) -> None:
        super().addConnection(conn)
        if conn.connected and not self.disconnectCalled:
            conn.usable = True
            self.on_connected(conn)

    def delConnection(self, conn: Link) -> None:
        super().delConnection(conn)
        self.unusable(conn.why or "the connection was lost")
        if self.link is conn:
            self.link = None
            self.on_link_down()

    def admit(self, link: Link) -> None:
        """Use this link from now on."""
        if link.usable and not self.disconnectCalled:
            if self.why and self.on_message is None:
                log.info("Redis at {name} can be used again", name=self.name)
            self.why = ""
            self.link = link
            self.on_link_up()

    def unusable(self, why: str) -> None:
        """Note why there is no link. The link for commands logs one line for each new reason."""
        if self.disconnectCalled or why == self.why:
            return
        self.why = why
        if self.on_message is None:
            log.warn("Redis at {name} cannot be used: {why}; trying again", name=self.name, why=why)

    # txredisapi gives up after a refused AUTH or SELECT. RestMQ goes on trying: Redis may be put right.

    def stopTrying(self) -> Deferred[None]:
        return succeed(None)

    def connectionError(self, why: str) -> None:
        self.unusable((self._newest and self._newest.why) or why.replace("Redis error: ", "").rstrip("."))

    def disconnect(self) -> Deferred[Any]:
        """Stop connecting, and close the link. It is cut off when it has not sent its last bytes within a second."""
        ended: Deferred[Any] = super().disconnect()
        if not ended.called:
            cut = self.clock.callLater(1.0, self.cut, "this instance is ending")

            def uncut(result: Any) -> Any:
                if cut.active():
                    cut.cancel()
                return result

            ended.addBoth(uncut)
        return ended

    # -- asking

    def until(self) -> float:
        """The time by which a command that is asked now must be answered: a little before the deadline."""
        return self.now() + max(self.deadline - _EARLY, self.deadline / 2)

    def ask(self, command: bytes, done: Done) -> None:
        """Ask over the link. Without a link, or past the deadline, done gets Unavailable."""
        link = self.link
        if link is None or not link.usable:
            why = f" ({self.why})" if self.why else ""
            done(None, Unavailable(f"Redis is away{why}; nothing was stored or taken"))
        else:
            link.ask(command, done, self.until())

    def call(self, *parts: bytes) -> Slot[Reply]:
        """Ask one command and wait for its reply. Raises Unavailable, Full, or RuntimeError for other error replies."""
        slot: Slot[Reply] = Slot()

        def done(reply: Reply, error: BaseException | None) -> None:
            if error is None and isinstance(reply, hiredis.ReplyError):
                error = error_of(str(reply))
            if error is not None:
                slot.fail(error)
            else:
                slot.resolve(reply)

        if self.on_message is not None:  # these two commands get one reply for each channel, so each is asked alone
            for channel in parts[1:-1]:
                self.ask(encode([parts[0], channel]), ignored)
            parts = (parts[0], *parts[-1:]) if len(parts) > 1 else parts
        self.ask(encode(parts), done)
        return slot

    def ping(self) -> Slot[Reply]:
        """Wait for the reply to a PING: then everything that Redis sent before it is here."""
        return self.call(b"PING")

    def ask_ping(self, done: Done) -> None:
        """Ask PING; done gets any reply, or Unavailable."""
        self.ask(_PING, done)

    def subscribe(self, channel: bytes) -> Slot[Reply]:
        """Hear a channel (SUBSCRIBE)."""
        return self.call(b"SUBSCRIBE", channel)

    def unsubscribe(self, *channels: bytes) -> Slot[Reply]:
        """Hear these channels no more (UNSUBSCRIBE)."""
        return self.call(b"UNSUBSCRIBE", *channels)

    async def scan(self, command: bytes, key: bytes) -> list[bytes]:
        """Read all of a set or a hash, in steps of a few hundred entries (SSCAN, HSCAN)."""
        cursor, found = b"0", []
        while True:
            cursor, some = await self.call(command, key, cursor, b"COUNT", b"500")
            found += some
            if cursor == b"0":
                return found

    # -- deadlines

    def watch(self) -> None:
        """Give up a link whose oldest command, or whose greeting, is late. Called every second.

        The oldest command is enough: all have the same time, so their deadlines come in the order of asking.
        """
        link = self._newest
        left = None if link is None else self._seconds_left(link)
        if left is not None and left < _EVERY:
            self.clock.callLater(max(0.0, left), self._check, link)

    def _seconds_left(self, link: Link) -> float | None:
        """Seconds until it is late; None while nothing is asked."""
        if link.usable:
            return link.asked[0][1] - self.now() if link.asked else None
        return self._ready_by - self.now() if link.transport.connected else None

    def _late(self, link: Link) -> bool:
        left = self._seconds_left(link)
        return left is not None and left <= 0

    def _check(self, link: Link) -> None:
        if link is self._newest and self._late(link):
            link.quiet = True
            self.clock.callLater(_CHECK_EVERY, self._give_up, link, self.now() + _GRACE)

    def _give_up(self, link: Link, most: float) -> None:
        """Give it up, unless replies still arrive. If this process was stopped meanwhile, they lie in the socket."""
        if link is not self._newest or not self._late(link):
            return
        if not link.quiet and self.now() < most:
            link.quiet = True
            self.clock.callLater(_CHECK_EVERY, self._give_up, link, most)
            return
        self.cut(f"Redis did not answer within {self.deadline:g} s")

    def cut(self, why: str) -> None:
        """Cut the connection. Callers that wait for a reply are told why."""
        link = self._newest
        if link is not None and link.transport is not None:
            link.why = link.why or why
            link.transport.abortConnection()
