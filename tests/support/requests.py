"""Requests to an instance, each on a connection of its own, and the most usual of them by name."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from functools import partial
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.patience import PATIENCE, until

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain"}
BATCH = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
#: What the metrics may be called.
NAME = re.compile(r"(restmq|process)_[a-z0-9_]+\Z")


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


def joined(instance: Any, queue: str, count: int) -> None:
    """Wait until so many consumers are counted."""
    until(lambda: stats(instance, queue)["consumers"] == count, lambda: stats(instance, queue))


def roundrobin(instance: Any, queue: str) -> None:
    """Each element to one from now on."""
    assert instance.form(f"/p/{queue}", "policy=roundrobin")[0] == 200


def waiters(instance: Any, queue: str) -> int:
    """How many wait, over all instances."""
    return int(json.loads(instance.http("GET", f"/stats/{queue}")[2])["waiters"])


def taken(answer: tuple[int, dict[str, str], bytes]) -> Any:
    """What was handed out."""
    assert answer[0] == 200, answer
    return json.loads(answer[2])


def scrape(instance: Any, query: str = "") -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values in order of the labels, checked as promtool checks."""
    status, headers, body = instance.http("GET", f"/metrics{query}")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8"), body
    assert body.endswith(b"\n")
    found: dict[tuple[str, ...], float] = {}
    families = list(text_string_to_metric_families(body.decode("utf-8")))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert NAME.match(family.name) and family.documentation and family.type in ("counter", "gauge"), family
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total"), sample
            key = (sample.name, *sample.labels.values())
            assert key not in found, key
            found[key] = sample.value
    return found


def basic(user: str, password: str) -> dict[str, str]:
    """HTTP Basic as a header."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
