"""The 56 requests that the first RestMQ was asked, in their order: the same answer, or a difference with its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests import ROOT

ASKED = json.loads((Path(__file__).parent / "original.json").read_text("utf-8"))

TEXT = (ROOT / "docs/protocol.txt").read_text("utf-8")
#: What docs/protocol.txt tells of the differences, with its lines joined.
TOLD = " ".join(TEXT.partition("Differences from the first RestMQ\n")[2].split())

# Reasons: words of that section.
PROBLEM = "Errors were pages of HTML. They are JSON that says what to do"
PAGE = "GET / and GET /queue redirected to files. They are the pages."
LISTS = "The content of pages has a new layout, and is escaped."
LINKS = "/q/ linked to /q/NAME, which takes an element. It links to /j/NAME, which takes none."
REDIS = "redis was the text of an object. It is the address, without a password."
STATS = "/stats was not quite JSON, and said status, policy and length. It is JSON, and says more."
WORD = (
    "with another word answered null, and POST /control/NAME with another word answered a text, both 200. They are 400"
)
NEVER = 'get answered "empty queue" for a queue that was never used. It says "Null resultset"'
ORDER = "and its fields have the README's order."
NAMED = 'An unknown command answered "null resultset", and a missing field only its name in quotes. Both answers name'
CONTROL = '{"queue": "queue_name", "status": {"queue": "queue_name", "status": %d}, "redis": "…"}\r\n'


def problem(word: str, error: str) -> str:
    """An error's body."""
    return f'{{"error": "{error}", "type": "urn:restmq:{word}", …}}\r\n'


#: name -> (status, what the body is, `…` standing for anything, reasons)
DIFFERENT: dict[str, tuple[int, str, list[str]]] = {
    "consume-root-empty": (404, problem("not-found", "…"), [PROBLEM]),
    "produce-novalue": (400, problem("bad-value", "…--data-urlencode value@file…"), [PROBLEM]),
    "produce-root-noqueue": (400, problem("bad-request", "…needs a field `queue`…"), [PROBLEM]),
    "policy-default": (
        200,
        '{"queue": "queue_name", "value": "broadcast"}\r\n',
        ['It says "broadcast", which is what holds.'],
    ),
    "policy-set-bad": (400, problem("bad-option", "policy must be broadcast or roundrobin…"), [WORD]),
    "policy-set-none": (400, problem("bad-option", "policy must be broadcast or roundrobin…"), [PROBLEM]),
    "control-get": (200, CONTROL % 1, [REDIS]),
    "control-get-stopped": (200, CONTROL % 0, [REDIS]),
    "control-bad": (400, problem("bad-option", "status must be start or stop…"), [WORD]),
    "control-all": (
        200,
        '{"count": 4, "queues": {…"queue_name": {"queue": "queue_name", "status": 1}…}, "redis": "…"}\r\n',
        ["GET /control/ listed a set of Redis as its only queue. It lists the queues.", REDIS],
    ),
    "stats-queue": (200, '{"queue": "queue_name", "redis": "…", "len": 0, …}', [STATS, REDIS]),
    "stats-all": (
        200,
        '{"count": 4, "queues": {…"queue_name": {"name": "queue_name", "len": 0, "status": 1, "policy": "broadcast"…',
        [STATS, REDIS],
    ),
    "json-get-missing": (200, '{"error": "Null resultset"}', [NEVER]),
    "json-get": (200, '{"queue": "test", "value": "oi", "count": 1, "key": "test:1"}', [ORDER]),
    "json-get-again": (200, '{"queue": "test", "value": "oi", "count": 2, "key": "test:1"}', [ORDER]),
    "json-unknown": (200, '{"error": "unknown command \'frobnicate\'…"}', [NAMED]),
    "json-missing-queue": (200, '{"error": "the field \'queue\' is missing"}', [NAMED]),
    "json-missing-value": (200, '{"error": "the field \'value\' is missing"}', [NAMED]),
    "json-malformed": (400, problem("bad-request", "this is not JSON…"), [PROBLEM]),
    "json-nobody": (400, problem("bad-request", "…send a command…"), [PROBLEM]),
    "number-consume": (
        200,
        '{"count": 0, "key": "num:1", "value": "007"}\r\n',
        ["It stays the text it was, byte for byte."],
    ),
    "list-queues": (200, '<!doctype html>…<a href="../j/queue_name">queue_name</a>…', [LINKS, LISTS]),
    "form-page": (200, "<!doctype html>…<form…", [PAGE]),
    "index": (200, "<!doctype html>…<h1>RestMQ</h1>…", [PAGE]),
    "jobs-page": (200, "<!doctype html>…nothing waits…", [LISTS]),
}


def fits(said: str, wanted: str) -> bool:
    """Whether text is what is wanted."""
    return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), said, re.S) is not None


def test_the_original_s_56_requests_get_its_answers_or_better_ones(start: Any, redis_server: Any) -> None:
    one = start("[redis]\ndbid = 7\n")
    for asked in ASKED:
        request, _, body = asked["request"].partition("  ")
        method, path = request.split(" ")
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
        status, headers, answer = one.http(method, path, body if method == "POST" else None, kind)
        came, text, name = (status, answer.decode("utf-8")), answer.decode("utf-8"), asked["name"]
        if name in DIFFERENT:
            wanted, pattern, _ = DIFFERENT[name]
            assert (status, fits(text, pattern)) == (wanted, True), (name, came)
            assert came != (asked["status"], asked["body"]), f"{name} is no difference any more"
        else:
            assert came == (asked["status"], asked["body"]), name
        assert text.startswith("<") == headers.get("content-type", "").startswith("text/html"), (name, headers)


def test_every_difference_names_a_request_and_stands_in_the_protocol_with_its_reason() -> None:
    names = {asked["name"] for asked in ASKED}
    assert len(ASKED) == len(names) == 56
    assert set(DIFFERENT) <= names
    for name, (_, _, reasons) in DIFFERENT.items():
        assert reasons, name
        for reason in reasons:
            assert reason in TOLD, (name, reason)
