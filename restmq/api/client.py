"""The client of a request or a command, as far as what hands out elements cares for it.

Owns whether it is still there, what it can use, and what it may end. Read api/pull.py next.
"""

from __future__ import annotations

from restmq.api.services import BrokerHandler
from restmq.delivery.waiters import Wait
from restmq.model.errors import BadRequest


class Client:
    """Who sent the command, as far as a command cares. A WebSocket has its own; this is one that sent a request."""

    #: Whether its elements are leased to it, so that `del` must say which lease it means.
    must_match = False

    def __init__(self, handler: BrokerHandler | None = None) -> None:
        self._handler = handler

    @property
    def gone(self) -> bool:
        """Whether it has left: what a command has in hand for it then goes back."""
        return self._handler is not None and self._handler.gone

    def usable(self) -> None:
        """It is about to be handed something: can it use that? Raises errors; over a WebSocket it can."""
        if self._handler is not None:
            self._handler.hands_out((b"application/json", b"text/html"))

    def unkeyed(self, word: str) -> None:
        """The command comes without the header Idempotency-Key, which it does not look at. Raises BadRequest."""
        if self._handler is None or b"idempotency-key" not in self._handler.request.fields.values:
            return
        if word == "take":
            self._handler.hands_out_anew()
        if word == "add":
            raise BadRequest(
                "the header Idempotency-Key does not hold for a command: leave it out, and put the key into the "
                'command as "idempotency_key"'
            )

    def waits(self, wait: Wait) -> None:
        """A take waits until the client leaves, or closes its side: then it is answered that nothing waits.

        A client that closes its side may have left, so what is on its way to it goes back.
        """
        handler = self._handler
        if handler is None:
            return
        handler.on_gone = [*(handler.on_gone or ()), wait.leave]
        handler.on_half = [*(handler.on_half or ()), wait.leave]
        if handler.request.connection.half:
            wait.leave()

    def owns(self, queue: str, lease: str) -> bool:
        """Whether this lease came over this very connection: who has it may end it, whatever rest:consumer says."""
        return False
