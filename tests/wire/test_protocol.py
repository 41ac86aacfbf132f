"""docs/protocol.txt is the reference: every transcript in it is played, and nothing that exists is left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from restmq import web
from restmq.model import errors
from tests import ROOT
from tests.support.openapi import undeclared
from tests.support.transcripts import Play, fits, parse

TEXT = (ROOT / "docs/protocol.txt").read_text("utf-8")


def test_every_transcript_of_the_protocol_is_true(start: Any) -> None:
    instance = start("[redis]\ndbid = 9\n[server]\naccess_log = ./access.log\n")
    blocks = parse(TEXT)
    steps = [step for block in blocks for step in block.steps]
    marked = re.findall(r"^    (?:\$ |[CS]\d?:(?: |$))", TEXT, re.M)
    assert len(marked) == sum(1 if step.kind == "$" else len(step.lines) for step in steps) > 200
    with Play("docs/protocol.txt", instance.port) as play:
        for block in blocks:
            play.block(block)
    instance.stop()
    asked = (instance.folder / "access.log").read_text("utf-8").splitlines()
    assert len(asked) > 200
    assert not undeclared(asked)  # nor does /openapi.json tell otherwise


def test_every_error_s_word_stands_in_the_protocol_with_its_status() -> None:
    words = {(one.status, one.type) for one in vars(errors).values() if _is_error(one)}
    told = {(int(status), word) for status, word in re.findall(r"^    ([45]\d\d) ([a-z-]+)(?: |$)", TEXT, re.M)}
    assert words == told


def _is_error(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, errors.Error)


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in web.ROUTES])
def test_every_route_stands_in_the_protocol(pattern: str) -> None:
    path = pattern.replace("\\", "").replace("/([0-9]+)", "/N").replace("(.+)", "FILE").replace("/?", "/")
    several = path.startswith(("/c/", "/sse/", "/ws/"))
    path = path.replace("([^/]+)", "NAMES" if several else "NAME")
    assert re.search(rf"(?:GET|POST|HEAD|DELETE) {re.escape(path)}(?![\w/])", TEXT), path


@pytest.mark.parametrize(
    "wrong",
    [
        "    $ echo one\n    two",
        "    $ echo one",
        "    C: GET /healthz HTTP/1.1\n    C: Host: localhost\n    C:\n    S: HTTP/1.1 204 No Content",
        "    C: GET /healthz HTTP/1.1\n    C: Host: localhost\n    C:\n    S: HTTP/1.1 200 OK\n    S: Allow: GET",
        "    C: GET /healthz HTTP/1.1\n    C: Host: localhost\n    C:\n    S: HTTP/1.1 200 OK\n    S:\n    S: KO",
        "    C: GET /healthz HTTP/1.1\n    C: Host: localhost\n    C: Connection: close\n    C:\n"
        "    S: HTTP/1.1 200 OK\n    S:\n    S: OK\n    S: HTTP/1.1 200 OK",
        "    C: GET /c/QUEUE HTTP/1.1\n    C: Host: localhost\n    C:\n    S: HTTP/1.1 200 OK\n    S:\n"
        "    $ curl -d value=x http://localhost:8888/q/QUEUE\n    QUEUE:1",
    ],
)
def test_a_transcript_that_is_not_true_is_found(instance: Any, queue: str, wrong: str) -> None:
    (block,) = parse(wrong.replace("QUEUE", queue))
    with Play("a document", instance.port) as play:
        with pytest.raises(AssertionError, match="a document:"):
            play.block(block)


def test_an_ellipsis_stands_for_anything_in_its_line_and_alone_for_lines() -> None:
    assert fits("a 12 b", "a … b")
    assert not fits("a 12\n b", "a … b")
    assert fits("a\nb\nc", "a\n…\nc") and fits("a\nc", "a\n…\nc") and fits("a", "a\n…")
    assert not fits("a\nb", "a")
