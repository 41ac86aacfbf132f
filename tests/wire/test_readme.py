"""README.md is the first thing a user tries: its commands are run, and what they print is compared byte for byte."""

from __future__ import annotations

import re
from typing import Any

from tests import ROOT
from tests.support.transcripts import Play, parse

TEXT = (ROOT / "README.md").read_text("utf-8")

#: What RestMQ answers by the first README.
ASKED = r"""
    $ curl -d 'value=my element' http://localhost:8888/q/queue_name
    queue_name:1
    $ curl http://localhost:8888/q/queue_name
    {"count": 0, "key": "queue_name:1", "value": "my element"}
    $ curl http://localhost:8888/c/queue_name
    $ curl http://localhost:8888/p/queue_name
    {"queue": "queue_name", "value": "broadcast"}
    $ curl -d policy=broadcast http://localhost:8888/p/queue_name
    OK
    $ curl -d policy=roundrobin http://localhost:8888/p/queue_name
    OK
    $ curl -X DELETE http://localhost:8888/q/queue_name
    {"queue": "queue_name", "status": 1}
"""


def test_every_command_of_the_readme_prints_what_stands_below_it_byte_for_byte(start: Any) -> None:
    instance = start("[redis]\ndbid = 8\n")
    blocks = parse(TEXT)
    assert len(re.findall(r"^    \$ ", TEXT, re.M)) == sum(len(block.steps) for block in blocks) > 15
    with Play("README.md", instance.port, exact=True) as play:
        for block in blocks:
            play.block(block)
        play.finish()


def test_the_readme_keeps_what_the_user_asked_for() -> None:
    given = [step.lines for block in parse(TEXT) for step in block.steps]
    for block in parse(ASKED):
        for step in block.steps:
            size = len(step.lines)
            assert any(lines[:size] == step.lines for lines in given), step.lines


def test_the_first_screen_starts_tests_produces_consumes_and_listens() -> None:
    first = "\n".join(TEXT.splitlines()[:40])
    for word in ("./start.sh", "scripts/test", "/q/queue_name", "/c/queue_name", "GET removes"):
        assert word in first


def test_every_link_of_the_readme_to_a_file_leads_to_one() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    for folder in re.findall(r"^    (\S+)  +\S", TEXT.partition("## The folders")[2], re.M):
        assert (ROOT / folder).exists(), folder
