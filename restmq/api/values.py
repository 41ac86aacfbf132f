"""The values in a body: one value in a form or a body, or a batch of lines.

Owns what a value is. Knows neither queues nor the store. Read api/queue.py next.
"""

from __future__ import annotations

import re

from restmq.api.services import BrokerHandler
from restmq.http.negotiation import LINES, media_type
from restmq.http.request import Request
from restmq.model.element import not_utf8
from restmq.model.errors import BadValue, TooLarge
from restmq.model.urlencoded import unquote

MOST_LINES = 10_000  # most values in one batch
_LINE, _LF = re.compile(rb"[^\n]+"), b"\n"


def checked(value: bytes, most: int, what: str = "the value") -> bytes:
    """A value that is UTF-8 and not too large. Raises BadValue, TooLarge, which call it `what`."""
    if len(value) > most:
        raise TooLarge(f"{what} has {len(value)} bytes; at most {most} are allowed (max_value)")
    wrong = -1 if value.isascii() else not_utf8(value)
    if wrong >= 0:
        raise BadValue(f"{what} is not UTF-8: byte {wrong} cannot stand there")
    return value


def value_of(handler: BrokerHandler) -> bytes:
    """The value in a POST: the form field `value` or `msg`, or the body. Raises BadValue, TooLarge."""
    request = handler.request
    body, most = request.body, handler.services.config.max_value
    kind = request.fields.form
    if kind == 1 and body[:6] == b"value=" and b"&" not in body and not request.raw_query:
        value = body[6:]
        if b"+" in value:
            value = value.replace(b"+", b" ")
        if b"%" in value:
            value = unquote(value)
        return checked(value, most)
    if not kind and request.fields.values.get(b"content-type"):
        return checked(body, most)
    if kind and len(body) > handler.services.config.max_form:
        raise TooLarge(f"the form has {len(body)} bytes; at most {handler.services.config.max_form} are allowed")
    found = handler.field(b"msg", b"value")
    if found is None:
        if not kind and body:
            raise BadValue(
                "the body came without a Content-Type, so it may be a value or a form: send one. "
                "'Content-Type: text/plain' stores the body as it is, "
                "'Content-Type: application/x-www-form-urlencoded' its field `value`"
            )
        raise BadValue(
            "there is no value: the form needs a field `value` (curl --data-urlencode value@file), "
            "or send the body itself with -H 'Content-Type: text/plain'"
        )
    return checked(found, most)


def is_batch(request: Request) -> bool:
    """Whether the body is a batch: one value a line."""
    kind: bytes = request.fields.values.get(b"content-type", b"")
    return media_type(kind) in LINES


def lines(body: bytes, most: int) -> list[bytes]:
    """A batch's values: each line as it stands, without a CR before its LF. Blank lines are skipped.

    Raises BadValue, which names the line, for a batch without values or a line that is not UTF-8. Raises TooLarge for
    a value of more than `most` bytes, or more than 10,000 values.
    """
    if b"\r\n" in body:
        body = body.replace(b"\r\n", b"\n")  # without an LF, a CR at the end of the last line belongs to the value
    values: list[bytes] = []
    for found in _LINE.finditer(body):
        if len(values) == MOST_LINES:
            raise TooLarge(f"the batch has more than {MOST_LINES} values, which is the limit: send several batches")
        value = found[0]
        if len(value) > most or not (value.isascii() or not_utf8(value) < 0):
            checked(value, most, f"line {body.count(_LF, 0, found.start()) + 1}")
        values.append(value)
    if not values:
        raise BadValue("the batch is empty: each line that is not blank is a value")
    return values
