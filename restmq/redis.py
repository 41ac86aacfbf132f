"""The two connections to Redis: one for commands, one for messages.

Owns encoding, reply order, deadlines and reconnecting (txredisapi's protocol
and factory do authentication, database and retries); knows no verb and no
queue. Everything asked is answered: by a reply or by an error. Read core.py next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import txredisapi
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from restmq.cork import cork, send
from restmq.errors import Unavailable
from restmq.slot import Slot

Reply = Any  # what hiredis gives: int, bytes, None, a list of these, or an exception


def encode(parts: Sequence[bytes]) -> bytes:
    """A command as RESP has it (Redis protocol specification, arrays of bulk strings)."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        out.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(out)


class Link(txredisapi.HiredisProtocol):  # type: ignore[misc]
    """One connection. `asked` holds, in order, who waits for which reply."""

    def connectionMade(self) -> Any:
        self.asked: deque[tuple[Callable[[Reply, BaseException | None], None], float]] = deque()
        self.usable = False
        self.replies = hiredis.Reader()
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        return super().connectionMade()

    def ask(self, command: bytes, done: Callable[[Reply, BaseException | None], None], until: float) -> None:
        """Send one encoded command; done(reply, error) comes in the order of asking."""
        self.asked.append((done, until))
        send(self.transport, command)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        if not self.usable:  # authentication and SELECT are txredisapi's
            super().dataReceived(data)
            return
        self.replies.feed(data)
        with cork:  # what these replies cause is written once a connection
            while True:
                reply = self.replies.gets()
                if reply is False:
                    return
                self.reply(reply)

    def reply(self, reply: Reply) -> None:
        """The next reply belongs to whoever asked first."""
        self.asked.popleft()[0](reply, None)

    def connectionLost(self, why: Failure) -> None:
        self.usable = False
        super().connectionLost(why)
        asked, self.asked = self.asked, deque()
        for done, _ in asked:
            done(None, Unavailable("the connection to Redis was lost before it answered", maybe=True))


class MessageLink(Link):
    """The connection that hears: messages go to the owner, the rest are replies."""

    heard: Callable[[bytes, bytes], None]

    def reply(self, reply: Reply) -> None:
        if reply.__class__ is list and reply and reply[0] == b"message":
            self.heard(reply[1], reply[2])
        elif self.asked:
            super().reply(reply)


class Redis(txredisapi.RedisFactory):  # type: ignore[misc]
    """Keeps one link connected, for ever. `link` is None while there is none."""

    maxDelay = 2
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
        heard: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        super().__init__(
            "restmq",
            db,
            1,
            isLazy=True,
            charset=None,
            convertNumbers=False,
            username=username,
            password=password,
        )
        self.address, self.clock, self.deadline = address, clock, deadline
        self.name = f"{address}/{db}"
        self.heard = heard
        self.up: Callable[[], None] = lambda: None
        self.down: Callable[[], None] = lambda: None
        self.protocol = MessageLink if heard else Link

    def start(self) -> None:
        """Connect, and again whenever the connection is lost."""
        endpoint: IStreamClientEndpoint
        if self.address.startswith("unix:"):
            endpoint = UNIXClientEndpoint(self.clock, self.address[5:])
        else:
            host, _, port = self.address.rpartition(":")
            endpoint = TCP4ClientEndpoint(self.clock, host.strip("[]"), int(port))
        self.startConnecting(endpoint)

    def buildProtocol(self, address: Any) -> Link:
        link: Link = super().buildProtocol(address)
        if self.heard is not None:
            link.heard = self.heard
        return link

    def addConnection(self, conn: Link) -> None:
        super().addConnection(conn)
        if conn.connected and not self.disconnectCalled:
            conn.usable = True
            self.link = conn
            self.up()

    def delConnection(self, conn: Link) -> None:
        super().delConnection(conn)
        if self.link is conn:
            self.link = None
            self.down()

    def ask(self, command: bytes, done: Callable[[Reply, BaseException | None], None]) -> None:
        """Ask over the link; without one, or past the deadline, done gets Unavailable."""
        link = self.link
        if link is None or not link.usable:
            done(None, Unavailable("Redis is away; nothing was stored or taken"))
        else:
            link.ask(command, done, self.clock.seconds() + self.deadline)

    def call(self, *parts: bytes) -> Slot[Reply]:
        """Ask one command and wait for its reply. Raises Unavailable; an error reply is raised too."""
        slot: Slot[Reply] = Slot()

        def done(reply: Reply, error: BaseException | None) -> None:
            if error is None and isinstance(reply, hiredis.ReplyError):
                error = reply
            if error is not None:
                slot.fail(error)
            else:
                slot.resolve(reply)

        self.ask(encode(parts), done)
        return slot

    def watch(self) -> None:
        """Called every second: a link whose oldest question is past its deadline is given up."""
        link = self.link
        if link is not None and link.asked and link.asked[0][1] < self.clock.seconds():
            link.transport.abortConnection()
