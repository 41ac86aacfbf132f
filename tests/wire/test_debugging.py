"""docs/debugging.md: its commands are run, against an instance with a Redis of its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from restmq.config import load
from tests import ROOT
from tests.support.redis_server import RedisServer
from tests.support.transcripts import Play, parse

TEXT = (ROOT / "docs" / "debugging.md").read_text("utf-8")


def test_every_command_prints_what_stands_below_it(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    own = RedisServer(folder)
    program = shutil.which("redis-cli")
    assert program, "no redis-cli: apt-get install redis-tools"
    asked = folder / "redis-cli"
    asked.write_text(f'#!/bin/sh\nexec {program} -s {own.socket} "$@"\n')
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    try:
        instance = start("", own.address)
        # A block in a list is indented by two or three more.
        blocks = parse(re.sub(r"^ {6,7}(?=\S)", "    ", TEXT, flags=re.M))
        assert sum(len(block.steps) for block in blocks) == len(re.findall(r"^ +\$ ", TEXT, re.M)) > 10
        with Play("docs/debugging.md", instance.port) as play:
            for block in blocks:
                play.block(block)
            play.finish()
        instance.stop()
    finally:
        own.stop()


def test_its_configuration_for_a_debugger_is_accepted(tmp_path: Path) -> None:
    lines = re.findall(r"(?:^    .+\n)+", TEXT.partition("Make both longer in /tmp/debug.conf")[2], re.M)[0]
    file = tmp_path / "debug.conf"
    file.write_text(re.sub(r"^    ", "", lines, flags=re.M))
    found, usual = load(file), load(None)
    assert found.deadline > usual.deadline and found.silence > usual.silence


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"`((?:tests|restmq|scripts)/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
