"""Requests to an instance, each on a connection of its own, and the most usual of them by name."""

from __future__ import annotations

import http.client
import json
import ssl
from functools import partial
from typing import Any

from tests.support.patience import PATIENCE

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain"}
BATCH = {"Content-Type": "application/x-ndjson"}


def add(instance: Any, queue: str, *values: str, options: str = "") -> None:
    """Add values one after the other."""
    for value in values:
        answer = instance.http("POST", f"/q/{queue}{options}", value.encode(), TEXT)
        assert answer[0] == 200, answer


def batch_add(instance: Any, queue: str, *values: str) -> None:
    """Add values with one request."""
    answer = instance.http("POST", f"/q/{queue}", "\n".join(values).encode(), BATCH)
    assert answer[0] == 200, answer


def stats(instance: Any, queue: str) -> dict[str, Any]:
    """What /stats/NAME says."""
    found: dict[str, Any] = json.loads(instance.http("GET", f"/stats/{queue}")[2])
    return found


def lengths(instance: Any, queue: str) -> list[int]:
    """How many wait, are delayed, are leased."""
    headers = instance.http("HEAD", f"/q/{queue}")[1]
    return [int(headers[f"restmq-{word}"]) for word in ("waiting", "delayed", "leased")]


def texts(count: int, first: int = 0) -> list[str]:
    """Values that differ."""
    return [f"v{number}" for number in range(first, first + count)]


def http_call(
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own, with a context over TLS: status, headers by lower-case name, body."""
    plain, secure = http.client.HTTPConnection, partial(http.client.HTTPSConnection, context=context)
    link = (secure if context else plain)("127.0.0.1", port, timeout=PATIENCE)
    try:
        link.request(method, path, body, headers or {})
        reply = link.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        link.close()
