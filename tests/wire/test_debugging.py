"""docs/debugging.md: its commands are run, against an instance with a Redis of its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

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
        # What stands in a list is indented by three more.
        blocks = parse(re.sub(r"^       (?=\S)", "    ", TEXT, flags=re.M))
        assert sum(len(block.steps) for block in blocks) == len(re.findall(r"^ +\$ ", TEXT, re.M)) > 10
        with Play("docs/debugging.md", instance.port) as play:
            for block in blocks:
                play.block(block)
            play.finish()
        instance.stop()
    finally:
        own.stop()


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"`((?:tests|restmq|scripts)/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
