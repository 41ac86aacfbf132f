"""`twistd restmq`, as somebody types it: real processes, from the checkout."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import restmq
from tests import ROOT
from tests.support.patience import LONG, PATIENCE, until
from tests.support.ports import free_port

TWISTD = [str(Path(sys.executable).parent / "twistd")]


def twistd(cwd: Path, *words: str, daemon: bool = False) -> subprocess.Popen[str]:
    how = ["--pidfile=twistd.pid"] if daemon else ["-n", "--pidfile="]
    return subprocess.Popen(
        [*TWISTD, *how, "restmq", *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def said(cwd: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a start that ends by itself."""
    process = twistd(cwd, *words)
    output, _ = process.communicate(timeout=LONG)
    return process.returncode, output


def fetch(port: int, path: str) -> bytes:
    """The body of an answer, as soon as somebody listens."""
    came: list[bytes] = []

    def answered() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            came.append(answer.read())
        return bool(came)

    until(answered, seconds=LONG)
    return came[0]


def test_version_is_restmq_s(tmp_path: Any) -> None:
    assert said(tmp_path, "--version") == (0, f"RestMQ {restmq.__version__}\n")


@pytest.fixture
def served(tmp_path: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """RestMQ with an embedded Redis in the foreground."""
    port = free_port()
    process = twistd(tmp_path, "--port", str(port), "--redis", "embedded", "--data", "data")
    fetch(port, "/healthz")
    yield process, port
    if process.poll() is None:
        process.terminate()
    process.wait(PATIENCE)


def test_help_lists_the_options_and_teaches_the_first_two_commands(tmp_path: Any) -> None:
    code, text = said(tmp_path, "--help")
    assert code == 0
    for word in ("--port", "--listen", "--config", "--redis", "--data", "curl http://localhost:8888/c/test"):
        assert word in text


def test_it_serves_with_an_embedded_redis_and_ends_with_one_line_an_event(served: Any, tmp_path: Any) -> None:
    process, port = served
    assert fetch(port, "/healthz")
    redis = int((tmp_path / "data" / "redis.pid").read_text())
    process.terminate()
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode in (0, -signal.SIGTERM)
    assert not Path(f"/proc/{redis}").exists() and "the embedded Redis has ended" in output
    assert "Traceback" not in output
    for line in output.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (info|warn) ", line), line


def test_a_port_in_use_is_one_line_and_exit_code_1(served: Any, tmp_path: Any) -> None:
    _, port = served
    code, text = said(tmp_path, "--port", str(port), "--redis", "127.0.0.1:1", "--data", "other")
    *_, line = text.splitlines()
    assert code == 1 and line.endswith(f" restmq: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert text.count("cannot") == 1 and "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--port", "x"], "restmq: command line: --port: it takes a number from 0 to 65535"),
        (["--prot", "1"], "restmq: option --prot not recognized; twistd restmq --help lists the options"),
        (["start"], "restmq: 'start' is not an option; twistd restmq --help lists the options"),
        (
            ["--listen", "tcp:x"],
            "restmq: cannot listen on 'tcp:x': invalid literal for int() with base 10: 'x'",
        ),
        (["--config", "gone.conf"], "restmq: {cwd}/gone.conf: cannot be read: No such file or directory"),
        (
            ["--config", "bad.conf"],
            "restmq: {cwd}/bad.conf:2: [server] prot is not known, did you mean 'port'?",
        ),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_1(tmp_path: Any, words: Any, line: Any) -> None:
    (tmp_path / "bad.conf").write_text("[server]\nprot = 1\n")
    assert said(tmp_path, *words) == (1, line.format(cwd=tmp_path) + "\n")


def test_a_daemon_tells_whoever_started_it_why_it_cannot_start(served: Any, tmp_path: Any) -> None:
    _, port = served
    (tmp_path / "daemon").mkdir()
    process = twistd(tmp_path / "daemon", "--port", str(port), "--redis", "127.0.0.1:1", daemon=True)
    text, _ = process.communicate(timeout=LONG)
    assert process.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in text
    until(lambda: not (tmp_path / "daemon" / "twistd.pid").exists())  # it tells first, and removes the file then
    assert "cannot listen" in (tmp_path / "daemon" / "twistd.log").read_text()


def test_a_daemon_owns_its_directory_under_its_own_process_id(tmp_path: Any) -> None:
    port = free_port()
    words = ("--port", str(port), "--redis", "embedded", "--data", "data")
    assert twistd(tmp_path, *words, daemon=True).wait(LONG) == 0
    daemon = int((tmp_path / "twistd.pid").read_text())
    try:
        fetch(port, "/healthz")
        assert int((tmp_path / "data" / "lock").read_text()) == daemon
        code, text = said(tmp_path, "--port", str(free_port()), *words[2:])
        assert code == 1 and f"process id {daemon}:" in text
    finally:
        os.kill(daemon, signal.SIGTERM)
    until(lambda: not (tmp_path / "twistd.pid").exists())
    assert (tmp_path / "twistd.log").stat().st_mode & 0o777 == 0o640


def test_what_does_nothing_any_more_is_said_in_the_log(tmp_path: Any) -> None:
    (tmp_path / "old.conf").write_text("[server]\ndebug = true\n[redis]\npoolsize = 10\n")
    port = free_port()
    process = twistd(tmp_path, "--config", "old.conf", "--port", str(port), "--redis", "127.0.0.1:1")
    fetch(port, "/healthz")
    process.terminate()
    output, _ = process.communicate(timeout=LONG)
    assert "warn" in output
    assert "[server] debug does nothing: " in output and "[redis] poolsize does nothing: " in output
