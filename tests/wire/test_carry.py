"""A real text is carried through the broker by the example program, and comes out as it went in."""

from __future__ import annotations

import contextlib
import pydoc_data.topics
import re
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.support.patience import LONG
from tests.support.ports import free_port
from tests.support.proxy import Carrier

WAYS = ("GET", "/c", "/sse", "/ws")


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
        timeout=LONG,
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


class Forger(Carrier):
    """Carries connections to an instance, and changes words in what comes back."""

    def __init__(self, port: int, words: dict[bytes, bytes]) -> None:
        self.words = words
        super().__init__(port)

    def down(self, client: socket.socket, there: socket.socket) -> None:
        pattern, held = re.compile(b"|".join(self.words)), b""
        try:
            while True:
                if select.select([there], [], [], 0.1 if held else None)[0]:
                    data = there.recv(1 << 16)
                    if not data:
                        break
                    held += data
                    if held[-1:] != b"\n":
                        continue  # the rest of a word may be on its way; the end of a message is waited for in vain
                client.sendall(pattern.sub(lambda found: self.words[found[0]], held))
                held = b""
        except OSError:
            pass  # one side has gone
        for each in (client, there):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"line 02": "line 03", "line 03": "line 02"}, ["DIFFERENT", "equal", "equal", "equal"]),
        ({"line 04": "line 40"}, ["DIFFERENT", "equal", "equal", "equal"]),
        ({"line 11": "line 12", "line 12": "line 11"}, ["equal", "DIFFERENT", "DIFFERENT", "DIFFERENT"]),
        ({"line 19": "line 18"}, ["equal", "DIFFERENT", "DIFFERENT", "DIFFERENT"]),
    ],
    ids=["two taken in the wrong order", "one taken altered", "two heard in the wrong order", "one heard doubled"],
)
def test_a_line_that_comes_out_altered_or_in_another_place_is_told(
    instance: Any, queue: str, tmp_path: Path, words: dict[str, str], told: list[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("\n".join(f"line {number:02}" for number in range(20)))
    forger = Forger(instance.port, {old.encode(): new.encode() for old, new in words.items()})
    command = [sys.executable, str(ROOT / "docs/examples/carry.py"), str(text), "--queue", queue]
    command += ["--url", f"http://localhost:{forger.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    forger.server.close()
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [f"{kind}: 10 lines, {word}" for kind, word in zip(WAYS, told)]


def test_what_went_wrong_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a line")
    for words, reason in (
        ([str(text), "--url", f"http://localhost:{free_port()}"], "./start.sh starts one"),
        ([str(tmp_path / "none"), "--url", "http://localhost"], "No such file"),
        ([str(text), "--url", "localhost:8888"], "--url is http://HOST:PORT"),
    ):
        command = [sys.executable, str(ROOT / "docs/examples/carry.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
        assert done.returncode != 0
        assert reason in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_a_line_that_is_refused_is_named_with_the_reason(instance: Any, queue: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"good\nnot \xff UTF-8\nthis\nand this\nand this")
    command = [sys.executable, str(ROOT / "docs/examples/carry.py"), str(text), "--queue", queue]
    command += ["--url", f"http://localhost:{instance.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{queue}.get: its line 2 was refused: 400 ")
