"""The client of a request or of a command, as far as handing out elements depends on it.

Owns whether the client is still there, what it can use, and which leases it may end. Read api/pull.py next.
"""

from __future__ import annotations

from restmq.api.services import BrokerHandler
from restmq.delivery.waiters import Wait
from restmq.model.errors import BadRequest


class Client:
    """The client that sent a command, here with a request. A WebSocket has a class of its own."""

    #: Whether the connection's elements are leased, so that `del` must name the lease.
    must_match = False

    def __init__(self, handler: BrokerHandler | None = None) -> None:
        self._handler = handler

    @property
    def gone(self) -> bool:
        """Whether the client has left. A command then gives back what it took for the client."""
        return self._handler is not None and self._handler.gone

    def check_usable(self) -> None:
        """Check that the client can use what it is about to get. Over a WebSocket it can. Raises errors."""
        if self._handler is not None:
            self._handler.check_usable((b"application/json", b"text/html"))

    def check_unkeyed(self, verb: str) -> None:
        """Refuse the header Idempotency-Key, because a command does not use it. Raises BadRequest."""
        if self._handler is None or b"idempotency-key" not in self._handler.request.fields.values:
            return
        if verb == "take":
            self._handler.refuse_idempotency_key()
        if verb == "add":
            raise BadRequest(
                "the header Idempotency-Key does not hold for a command: leave it out, and put the key into the "
                'command as "idempotency_key"'
            )

    def waits(self, wait: Wait) -> None:
        """Let a take wait until the client leaves, or closes its side. Then the take is answered as if nothing waits.

        A client that closes its side may have left, so elements on their way to it go back.
        """
        handler = self._handler
        if handler is None:
            return
        handler.on_client_gone = [*(handler.on_client_gone or ()), wait.leave]
        handler.on_half_closed = [*(handler.on_half_closed or ()), wait.leave]
        if handler.request.connection.half:
            wait.leave()

    def owns(self, queue: str, lease: str) -> bool:
        """Whether this lease came over this very connection.

        Then the client may end it, whatever rest:consumer says.
        """
        return False
