"""Every error that RestMQ sends to a client: one class for each HTTP status and `type`.

Owns the names of what can go wrong. Knows nothing of writing HTTP, Redis or queues. An error is raised where it
happens, and rendered in one place (http/handler.py). Read model/element.py next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

#: Most characters of an error text. It may quote a client's text, which may be long, in the answer and in the log.
LONGEST = 2000


class Error(Exception):
    """An error that a client sees. The text says what happened, why, and what to do.

    `text` is the sentence for the reader. The class gives the HTTP status and the word for programs (`type`, RFC 9457
    section 3.1.1). `headers` are sent with the answer.
    """

    status = 500
    type = "internal"
    title = "Internal error"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    refusal = ""  # the reason for which access refused, as /metrics and the log count it; "" if access did not refuse
    echo = ""  # more JSON after the last field: the id of the command

    def __init__(self, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
        if headers:
            self.headers = headers

    def problem(self) -> dict[str, object]:
        """The error as RFC 9457 defines it. The first RestMQ's field `error` stands first."""
        return {
            "error": self.text,
            "type": "urn:restmq:" + self.type,
            "title": self.title,
            "status": self.status,
        }

    def render(self) -> bytes:
        """The problem as one line of JSON, with CRLF at its end."""
        return (json.dumps(self.problem())[:-1] + self.echo + "}\r\n").encode("ascii")


class BadRequest(Error):
    """The request does not have a form that RestMQ knows."""

    status, type, title = 400, "bad-request", "Bad request"


class BadName(BadRequest):
    """The queue name breaks the rule for names."""

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
    """The section requires a user name and a password, and the request has none."""

    status, type, title = 401, "unauthorized", "Unauthorized"
    refusal = "no-password"
    headers = ((b"WWW-Authenticate", b'Basic realm="RestMQ", charset="UTF-8"'),)


class WrongPassword(Unauthorized):
    """The request's user name and password are not in the rules."""

    refusal = "wrong-password"


class Forbidden(Error):
    """The rules do not allow the address, or the origin of the page."""

    status, type, title = 403, "forbidden", "Forbidden"
    refusal = "forbidden"


class NotFound(Error):
    """There is no such route, page or element."""

    status, type, title = 404, "not-found", "Not found"


class NotAllowed(Error):
    """The route exists, but does not have this method."""

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
    """The element after which a listing was to continue is no longer there."""

    status, type, title = 410, "gone", "Gone"


class LeaseLost(Error):
    """If-Match names a lease that does not hold, or there is no lease to prolong."""

    status, type, title = 412, "lease-lost", "Lease lost"


class NotMatched(Error):
    """A precondition does not hold, or is not supported for this request (RFC 9110 section 15.5.13)."""

    status, type, title = 412, "precondition-failed", "Precondition failed"


class TooLarge(Error):
    """The value, form or body exceeds its limit."""

    status, type, title = 413, "too-large", "Too large"


class TargetTooLong(Error):
    """The request line exceeds its limit."""

    status, type, title = 414, "uri-too-long", "URI too long"


class UnsupportedMedia(Error):
    """RestMQ does not read the body's type, charset or coding here (RFC 9110 section 15.5.16)."""

    status, type, title = 415, "unsupported-media-type", "Unsupported media type"


class Misdirected(Error):
    """The Host header names a host that is not a name of this server."""

    status, type, title = 421, "misdirected", "Misdirected request"
    refusal = "misdirected"


class Conflict(Error):
    """The Idempotency-Key was used before, with another body."""

    status, type, title = 422, "key-reused", "Idempotency-Key reused"


class UpgradeRequired(Error):
    """The request is not a WebSocket handshake of version 13, or this address has no WebSocket.

    See RFC 6455 section 4.2.2.
    """

    status, type, title = 426, "upgrade-required", "Upgrade required"
    headers = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"))


class TooMany(Error):
    """The client has as many live consumers as it may have."""

    status, type, title = 429, "too-many", "Too many live consumers"
    refusal = "too-many"
    headers = ((b"Retry-After", b"5"),)


class TooManyGuesses(Error):
    """Several wrong passwords came from this address for this name. RestMQ looks at the next one in so many `seconds`.

    `record` belongs to access/guesses.py.
    """

    status, type, title = 429, "too-many-guesses", "Too many wrong passwords"
    refusal = "not-looked-at"

    def __init__(self, seconds: float, record: object) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(
            "too many wrong passwords came from this address for this user name, so RestMQ checks none now, right or "
            f"wrong: try again in {wait} s"
        )
        self.headers = ((b"Retry-After", b"%d" % wait),)
        self.record = record


class QueueFull(Error):
    """The queue has as much as its settings allow."""

    status, type, title = 429, "queue-full", "Queue is full"
    headers = ((b"Retry-After", b"5"),)


class HeadTooLarge(Error):
    """The header lines are too long, or too many."""

    status, type, title = 431, "head-too-large", "Header fields too large"


class NotImplementedHere(Error):
    """RestMQ does not know the method, or a transfer coding other than chunked."""

    status, type, title = 501, "not-implemented", "Not implemented"


class VersionNotSupported(Error):
    """The request is not HTTP/1.x."""

    status, type, title = 505, "version-not-supported", "HTTP version not supported"


class Unavailable(Error):
    """Redis is away or slow. The client may try again after a moment.

    `maybe` tells a producer that the element may have been stored.
    """

    status, type, title = 503, "unavailable", "Service unavailable"
    headers = ((b"Retry-After", b"1"),)

    def __init__(self, text: str, maybe: bool = False) -> None:
        super().__init__(text)
        self.maybe = maybe

    def problem(self) -> dict[str, object]:
        return {**super().problem(), "stored": "maybe" if self.maybe else "no"}


class Prefetched(Error):
    """A browser asks before its user does, so RestMQ hands nothing out."""

    status, type, title = 503, "prefetch", "Not for prefetching"


class NoRoom(Error):
    """What this instance may hold for all clients together is taken: nothing was done."""

    status, type, title = 503, "crowded", "Too much at once"
    headers = ((b"Retry-After", b"2"),)


class Full(Error):
    """Redis has no memory left. Adding fails, but taking and deleting work."""

    status, type, title = 503, "full", "Redis is full"
    headers = ((b"Retry-After", b"5"),)


class Stopped(Error):
    """The queue's flow is stopped for this verb, for `lasts` seconds more. 0 means until somebody starts it."""

    status, type, title = 503, "stopped", "Queue is stopped"

    def __init__(self, lasts: float = 0) -> None:
        when = f"for {lasts:g} s more" if lasts else "until somebody starts it (POST /control/NAME)"
        super().__init__(f"this flow of the queue is stopped {when}; nothing was done")
        self.lasts = lasts
        self.headers = ((b"Retry-After", b"%d" % max(1, round(lasts) if lasts else 5)),)
