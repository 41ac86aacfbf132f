"""The 56 requests that the first RestMQ was asked, in their order: the same answer, or a difference with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.wire
ASKED = json.loads((Path(__file__).parent / "original.json").read_text("utf-8"))

PROBLEM = "errors are JSON that tell what to do, not an HTML page"
PAGE = "a page of our own, which shows what can be done, at its address"
NUMBER = "stats tell more, in true JSON, and redis is an address"
#: name -> (status, what the body holds, reason)
DIFFERENT: dict[str, tuple[int, str, str]] = {
    "consume-root-empty": (404, '"type": "urn:restmq:not-found"', PROBLEM),
    "produce-novalue": (400, "--data-urlencode value@file", PROBLEM),
    "produce-root-noqueue": (400, "needs a field `queue`", PROBLEM),
    "policy-default": (200, '{"queue": "queue_name", "value": "broadcast"}\r\n', "the seed: broadcast is the default"),
    "policy-set-bad": (400, "policy is broadcast or roundrobin", "null with 200 hid the mistake"),
    "policy-set-none": (400, "policy is broadcast or roundrobin", PROBLEM),
    "control-get": (200, '{"queue": "queue_name", "status": {"queue": "queue_name", "status": 1}, "redis": ', NUMBER),
    "control-get-stopped": (
        200,
        '{"queue": "queue_name", "status": {"queue": "queue_name", "status": 0}, "redis": ',
        NUMBER,
    ),
    "control-bad": (400, "status is start or stop", "an error is an error"),
    "control-all": (200, '"queue_name": {"queue": "queue_name", "status": 1}', "the original listed a name of its own"),
    "stats-queue": (200, '{"queue": "queue_name", "redis": ', NUMBER),
    "stats-all": (200, '"queue_name": {"name": "queue_name", "len": 0, "status": 1, "policy": "broadcast"', NUMBER),
    "json-get-missing": (200, '{"error": "Null resultset"}', "the seed's words for a queue never used"),
    "json-get": (200, '{"queue": "test", "value": "oi", "count": 1, "key": "test:1"}', "the seed's order of fields"),
    "json-get-again": (
        200,
        '{"queue": "test", "value": "oi", "count": 2, "key": "test:1"}',
        "the seed's order of fields",
    ),
    "json-unknown": (200, '{"error": "unknown command \'frobnicate\'', "says what is wrong"),
    "json-missing-queue": (200, '{"error": "the field \'queue\' is missing"}', "says what is wrong"),
    "json-missing-value": (200, '{"error": "the field \'value\' is missing"}', "says what is wrong"),
    "json-malformed": (400, "this is no JSON", PROBLEM),
    "json-nobody": (400, "send a command", PROBLEM),
    "number-consume": (200, '"value": "007"}', "a value is kept byte for byte"),
    "list-queues": (200, '<a href="/j/queue_name">queue_name</a>', "a link to /q/NAME would take an element"),
    "form-page": (200, "<form", PAGE),
    "index": (200, "<h1>RestMQ</h1>", PAGE),
    "jobs-page": (200, "nothing waits", PAGE),
}


def test_the_original_s_56_requests_get_its_answers_or_better_ones(start: Any, redis_server: Any) -> None:
    one = start("[redis]\ndbid = 7\n")
    for asked in ASKED:
        request, _, body = asked["request"].partition("  ")
        method, path = request.split(" ")
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
        status, _, answer = one.http(method, path, body if method == "POST" else None, kind)
        text = answer.decode("utf-8")
        name = asked["name"]
        if name in DIFFERENT:
            wanted, part, _ = DIFFERENT[name]
            assert (status, part in text) == (wanted, True), (name, status, text)
        else:
            assert (status, text) == (asked["status"], asked["body"]), name


def test_every_difference_names_a_request_and_a_reason() -> None:
    names = {asked["name"] for asked in ASKED}
    assert len(ASKED) == 56
    assert set(DIFFERENT) <= names
    assert all(reason for _, _, reason in DIFFERENT.values())
