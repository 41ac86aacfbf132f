"""Every error RestMQ tells a client: an HTTP status and a word, one class each.

Owns the names of what can go wrong; knows nothing of HTTP writing, Redis or
queues. Raised low, rendered once (http/handler.py). Read model/element.py next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

#: Characters of an error text: it may quote what a client sent, which may be long, in the answer and in the log.
LONGEST = 2000


class Error(Exception):
    """Something a client is told: what happened, why, and what to do.

    `text` is the sentence for the reader; the class gives the HTTP status and
    the machine word (`type`, RFC 9457 section 3.1.1). `headers` go out with it.
    """

    status = 500
    type = "internal"
    title = "Internal error"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    refusal = ""  # why access refused it, as /metrics and the log count it; "" is no refusal
    echo = ""  # more JSON behind the last field: the id of the command that it answers

    def __init__(self, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
        if headers:
            self.headers = headers

    def problem(self) -> dict[str, object]:
        """The error as RFC 9457 has it, with the first RestMQ's word `error` first."""
        return {
            "error": self.text,
            "type": "urn:restmq:" + self.type,
            "title": self.title,
            "status": self.status,
        }

    def render(self) -> bytes:
        """The problem as one line of JSON, CRLF at its end."""
        return (json.dumps(self.problem())[:-1] + self.echo + "}\r\n").encode("ascii")


class BadRequest(Error):
    """The request is not of a form RestMQ knows."""

    status, type, title = 400, "bad-request", "Bad request"


class BadName(BadRequest):
    """The queue name breaks the one name rule."""

    type, title = "bad-name", "Bad queue name"


class BadKey(BadRequest):
    """The key is not NAME:N, or names another queue."""

    type, title = "bad-key", "Bad key"


class BadValue(BadRequest):
    """The value is missing, given twice, or not UTF-8."""

    type, title = "bad-value", "Bad value"


class BadOption(BadRequest):
    """An option is unknown or out of range."""

    type, title = "bad-option", "Bad option"


class Unauthorized(Error):
    """The section asks for a user name and password that did not come."""

    status, type, title = 401, "unauthorized", "Unauthorized"
    refusal = "no-password"
    headers = ((b"WWW-Authenticate", b'Basic realm="RestMQ", charset="UTF-8"'),)


class WrongPassword(Unauthorized):
    """What came is no user name and password of the rules."""

    refusal = "wrong-password"


class Forbidden(Error):
    """The address, or the page's origin, is not let in."""

    status, type, title = 403, "forbidden", "Forbidden"
    refusal = "forbidden"


class NotFound(Error):
    """No such route, page or element."""

    status, type, title = 404, "not-found", "Not found"


class NotAllowed(Error):
    """The route exists, the method does not."""

    status, type, title = 405, "method-not-allowed", "Method not allowed"

    def __init__(self, text: str, allow: Iterable[str]) -> None:
        super().__init__(text, ((b"Allow", ", ".join(allow).encode("ascii")),))


class NotAcceptable(Error):
    """Accept excludes every type that the answer could have (RFC 9110 section 15.5.7)."""

    status, type, title = 406, "not-acceptable", "Not acceptable"


class TooSlow(Error):
    """The request did not arrive in time."""

    status, type, title = 408, "request-timeout", "Request timeout"


class Gone(Error):
    """The place from which a listing was to go on is not there any more."""

    status, type, title = 410, "gone", "Gone"


class LeaseLost(Error):
    """If-Match names a lease that does not hold, or there is none to prolong."""

    status, type, title = 412, "lease-lost", "Lease lost"


class NotMatched(Error):
    """A precondition does not hold, or is one that nobody looks at (RFC 9110 section 15.5.13)."""

    status, type, title = 412, "precondition-failed", "Precondition failed"


class TooLarge(Error):
    """The value, form or body is over its limit."""

    status, type, title = 413, "too-large", "Too large"


class TargetTooLong(Error):
    """The request line is over its limit."""

    status, type, title = 414, "uri-too-long", "URI too long"


class UnsupportedMedia(Error):
    """The body's type, charset or coding is not read here (RFC 9110 section 15.5.16)."""

    status, type, title = 415, "unsupported-media-type", "Unsupported media type"


class Misdirected(Error):
    """The Host header names a host that this server is not known as."""

    status, type, title = 421, "misdirected", "Misdirected request"
    refusal = "misdirected"


class Conflict(Error):
    """The Idempotency-Key was used with another body."""

    status, type, title = 422, "key-reused", "Idempotency-Key reused"


class UpgradeRequired(Error):
    """No WebSocket handshake of version 13 (RFC 6455 section 4.2.2), or one where no WebSocket is spoken."""

    status, type, title = 426, "upgrade-required", "Upgrade required"
    headers = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"))


class TooMany(Error):
    """One client has as many live consumers as it may have."""

    status, type, title = 429, "too-many", "Too many live consumers"
    refusal = "too-many"
    headers = ((b"Retry-After", b"5"),)


class TooManyGuesses(Error):
    """Wrong passwords came from this address for this name: the next is looked at in so many `seconds`.

    `record` is access/guesses.py's own.
    """

    status, type, title = 429, "too-many-guesses", "Too many wrong passwords"
    refusal = "not-looked-at"

    def __init__(self, seconds: float, record: Any) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(
            "too many wrong passwords came from this address for this user name, so none is looked at now, right or "
            f"wrong: come again in {wait} s"
        )
        self.headers = ((b"Retry-After", b"%d" % wait),)
        self.record = record


class QueueFull(Error):
    """The queue is at the bound that its settings give it."""

    status, type, title = 429, "queue-full", "Queue is full"
    headers = ((b"Retry-After", b"5"),)


class HeadTooLarge(Error):
    """The header lines are too long or too many."""

    status, type, title = 431, "head-too-large", "Header fields too large"


class NotImplementedHere(Error):
    """A method that nobody knows here, or a transfer coding beside chunked."""

    status, type, title = 501, "not-implemented", "Not implemented"


class VersionNotSupported(Error):
    """The request is of another HTTP than 1.x."""

    status, type, title = 505, "version-not-supported", "HTTP version not supported"


class Unavailable(Error):
    """Redis is away or slow. Try again after a moment.

    `maybe` tells a producer whether the element may have been stored all the same.
    """

    status, type, title = 503, "unavailable", "Service unavailable"
    headers = ((b"Retry-After", b"1"),)

    def __init__(self, text: str, maybe: bool = False) -> None:
        super().__init__(text)
        self.maybe = maybe

    def problem(self) -> dict[str, object]:
        return {**super().problem(), "stored": "maybe" if self.maybe else "no"}


class Prefetched(Error):
    """A browser asks ahead of its user: nothing is consumed."""

    status, type, title = 503, "prefetch", "Not for prefetching"


class NoRoom(Error):
    """What this instance may hold for all clients together is taken: nothing was done."""

    status, type, title = 503, "crowded", "Too much at once"
    headers = ((b"Retry-After", b"2"),)


class Full(Error):
    """Redis has no memory left: adding fails, taking and deleting go on."""

    status, type, title = 503, "full", "Redis is full"
    headers = ((b"Retry-After", b"5"),)


class Stopped(Error):
    """The queue's flow is stopped for this verb; `lasts` seconds more, 0 until it is started."""

    status, type, title = 503, "stopped", "Queue is stopped"

    def __init__(self, lasts: float = 0) -> None:
        when = f"for {lasts:g} s more" if lasts else "until somebody starts it (POST /control/NAME)"
        super().__init__(f"this flow of the queue is stopped {when}; nothing was done")
        self.lasts = lasts
        self.headers = ((b"Retry-After", b"%d" % max(1, round(lasts) if lasts else 5)),)
