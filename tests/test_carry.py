"""A real text is carried through the broker by the example program, and comes out as it went in."""

from __future__ import annotations

import pydoc_data.topics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port

pytestmark = pytest.mark.wire
ROOT = Path(__file__).resolve().parent.parent


def a_text_nobody_here_wrote() -> Path:
    """The first text of 10,000 lines or more that is on this machine."""
    for path in (Path("/var/log/dpkg.log"), Path(pydoc_data.topics.__file__)):
        if path.is_file() and path.read_bytes().count(b"\n") >= 10_000:
            return path
    raise AssertionError("no text of 10,000 lines here")


def test_every_line_of_a_real_text_comes_out_over_get_and_all_three_transports(instance: Any, queue: str) -> None:
    text = a_text_nobody_here_wrote()
    lines = text.read_bytes().count(b"\n") + 1
    command = [sys.executable, str(ROOT / "docs/examples/carry.py"), str(text), "--queue", queue]
    done = subprocess.run(
        [*command, "--url", f"http://localhost:{instance.port}"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    half = lines - lines // 2
    assert done.stdout.splitlines() == [
        f"GET: {lines // 2} lines, equal",
        f"/c: {half} lines, equal",
        f"/sse: {half} lines, equal",
        f"/ws: {half} lines, equal",
    ]
    assert f"] {lines // 2}/{lines // 2}" in done.stderr


def test_what_went_wrong_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a line")
    for words, reason in (
        ([str(text), "--url", f"http://localhost:{free_port()}"], "./start.sh starts one"),
        ([str(tmp_path / "none"), "--url", "http://localhost"], "No such file"),
        ([str(text), "--url", "localhost:8888"], "--url is http://HOST:PORT"),
    ):
        command = [sys.executable, str(ROOT / "docs/examples/carry.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert reason in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_a_line_that_is_refused_is_named_with_the_reason(instance: Any, queue: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"good\nnot \xff UTF-8\nthis\nand this\nand this")
    command = [sys.executable, str(ROOT / "docs/examples/carry.py"), str(text), "--queue", queue]
    command += ["--url", f"http://localhost:{instance.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{queue}.get: its line 2 was refused: 400 ")
