"""What the first README showed, walked from the first line to the last against one instance.

Each answer that was shown is here, and RestMQ must give it byte for byte; the JSON protocol was shown laid out over
several lines, so there it is the fields, their order and their values that must be the same, and the command is sent
both as it was shown and in one line, in the three ways a client may send it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from tests.support.instance import Instance
from tests.support.patience import LONG, PATIENCE, until

POLICY = "http://localhost:8888/p/queue_name"
QUEUE = "http://localhost:8888/q/queue_name"
PRODUCE = ["-d", "value=my element", QUEUE]

#: One laid-out command, and the fields of its answer as they were shown, in their order.
ADD = """{
      "cmd":    "add",
      "queue":  "test",
      "value":  "oi"
    }"""
GET = """{
      "cmd":    "get",
      "queue":  "test"
    }"""
DEL = """{
      "cmd":    "del",
      "queue":  "test",
      "key":    "test:1"
    }"""
TAKE = """{
      "cmd":    "take",
      "queue":  "test"
    }"""
NOTHING = [("error", "Null resultset")]
SHOWN = [("queue", "test"), ("value", "oi"), ("count", 1), ("key", "test:1")]


@pytest.fixture
def one(start: Any) -> Instance:
    """A RestMQ that never heard of the queues that were shown."""
    made: Instance = start("[redis]\ndbid = 10\n")
    for name in ("queue_name", "test"):
        assert made.http("DELETE", f"/q/{name}?forget=1")[0] == 200
    return made


def words(one: Instance, more: list[str]) -> list[str]:
    """A command line of curl, for this instance's port and otherwise as it was shown."""
    return ["curl", "-sS", *(word.replace("localhost:8888", f"localhost:{one.port}") for word in more)]


def curl(one: Instance, *more: str) -> bytes:
    """What curl prints, to the byte."""
    done = subprocess.run(words(one, list(more)), capture_output=True, timeout=LONG, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@contextmanager
def listening(one: Instance, path: Path) -> Iterator[Path]:
    """curl as a live consumer of queue_name over Comet, connected; what it prints goes into the file."""
    head = path.with_suffix(".head")
    with path.open("wb") as file:
        command = words(one, ["-N", "-D", str(head), "http://localhost:8888/c/queue_name"])
        process = subprocess.Popen(command, stdout=file)
    try:
        until(lambda: head.exists() and head.read_bytes().endswith(b"\r\n\r\n"))
        yield path
    finally:
        process.kill()
        process.wait(PATIENCE)


def consumers(one: Instance) -> int:
    """How many live consumers queue_name has."""
    number: int = json.loads(one.http("GET", "/stats/queue_name")[2])["consumers"]
    return number


def fields(answer: bytes) -> Any:
    """The fields of a JSON answer in their order, and that it has the spacing of the answers that were shown."""
    found = json.loads(answer, object_pairs_hook=list)
    assert answer.decode("ascii") == json.dumps(dict(found))
    return found


def test_every_command_that_was_shown_prints_what_was_shown_in_its_order(one: Instance, tmp_path: Path) -> None:
    assert curl(one, *PRODUCE) == b"queue_name:1\r\n"
    assert curl(one, QUEUE) == b'{"count": 0, "key": "queue_name:1", "value": "my element"}\r\n'

    with listening(one, tmp_path / "first") as first, listening(one, tmp_path / "second") as second:
        until(lambda: consumers(one) == 2)
        assert curl(one, *PRODUCE) == b"queue_name:2\r\n"
        seen = b'{"key": "queue_name:2", "value": "my element"}\r\n'
        until(lambda: first.read_bytes() == second.read_bytes() == seen)
    until(lambda: consumers(one) == 0)

    assert curl(one, *PRODUCE) == b"queue_name:3\r\n"
    assert curl(one, "-X", "DELETE", QUEUE) == b'{"queue": "queue_name", "status": 1}\r\n'
    assert curl(one, "-X", "DELETE", QUEUE) == b'{"queue": "queue_name", "status": 0}\r\n'
    assert curl(one, "-X", "DELETE", f"{QUEUE}2") == b'{"queue": "queue_name2", "status": 0}\r\n'

    assert curl(one, POLICY) == b'{"queue": "queue_name", "value": "broadcast"}\r\n'
    assert curl(one, "-d", "policy=broadcast", POLICY) == b"OK\r\n"
    assert curl(one, POLICY) == b'{"queue": "queue_name", "value": "broadcast"}\r\n'
    assert curl(one, "-d", "policy=roundrobin", POLICY) == b"OK\r\n"
    assert curl(one, POLICY) == b'{"queue": "queue_name", "value": "roundrobin"}\r\n'


def test_with_the_round_robin_policy_only_one_live_consumer_sees_an_element(one: Instance, tmp_path: Path) -> None:
    assert curl(one, "-d", "policy=roundrobin", POLICY) == b"OK\r\n"
    with listening(one, tmp_path / "first") as first, listening(one, tmp_path / "second") as second:
        until(lambda: consumers(one) == 2)
        for number in (1, 2):
            assert curl(one, *PRODUCE) == b"queue_name:%d\r\n" % number
        shown = [b'{"key": "queue_name:%d", "value": "my element"}\r\n' % number for number in (1, 2)]
        until(lambda: sorted([first.read_bytes(), second.read_bytes()]) == shown)


@pytest.mark.parametrize("way", ["the JSON itself", "the field body", "the field msg"])
@pytest.mark.parametrize("laid_out", [True, False])
def test_the_json_protocol_answers_with_the_fields_that_were_shown_in_their_order(
    one: Instance, way: str, laid_out: bool
) -> None:
    def send(command: str) -> Any:
        text = command if laid_out else json.dumps(json.loads(command))
        body = text if way == "the JSON itself" else f"{way.split()[-1]}={quote_plus(text)}"
        return fields(curl(one, "-d", body, "http://localhost:8888/queue"))

    assert send(GET) == NOTHING
    assert send(ADD) == [("queue", "test"), ("value", "oi"), ("key", "test:1")]
    assert send(GET) == SHOWN
    assert send(GET) == [(name, 2 if name == "count" else value) for name, value in SHOWN]  # it was not removed
    assert send(DEL) == [("queue", "test"), ("deleted", True), ("key", "test:1")]
    assert send(DEL) == [("queue", "test"), ("deleted", False), ("key", "test:1")]
    assert send(ADD) == [("queue", "test"), ("value", "oi"), ("key", "test:2")]
    assert send(TAKE) == [("queue", "test"), ("value", "oi"), ("key", "test:2")]
    assert send(TAKE) == send(GET) == [("error", "empty queue")]


def test_the_address_of_the_json_protocol_is_a_page_with_a_form_in_a_browser(one: Instance) -> None:
    page = curl(one, "http://localhost:8888/queue")
    assert b"<form" in page and b"<textarea" in page
