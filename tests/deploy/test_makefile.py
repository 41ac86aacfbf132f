"""The commands of the Makefile, and what CONTRIBUTING says of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests import ROOT
from tests.support.instance import START
from tests.support.patience import PATIENCE, until
from tests.support.ports import free_port
from tests.support.requests import http_call

MADE = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.M))


def test_what_contributing_tells_to_make_can_be_made_and_every_file_it_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`make ([a-z-]+)`", text))
    assert named <= MADE and {"run", "fmt", "test", "test-fast"} <= named
    for name in re.findall(r"`((?:tests|restmq|scripts)/[\w/.]+)`|\]\(([^)]+)\)", text):
        assert (ROOT / "".join(name)).exists(), name


def test_make_helps() -> None:
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("\t")[0] for line in said.splitlines()} == MADE


def test_a_picture_shows_all_that_its_text_says() -> None:
    texts = [path for path in (ROOT / "docs" / "pictures").iterdir() if path.suffix in (".dot", ".msc")]
    assert {path.stem for path in texts} == {path.stem for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    for path in texts:
        drawn = set(re.findall(r"\w+", re.sub(r"<[^>]*>", " ", path.with_suffix(".svg").read_text("utf-8"))))
        told = {
            word
            for label in re.findall(r'label="([^"]+)"', path.read_text("utf-8"))
            for word in re.findall(r"\w+", label)
        }
        assert told and told <= drawn, (path.name, told - drawn)
        assert f"pictures/{path.stem}.svg" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_make_run_serves_and_starts_again_when_a_file_changes(tmp_path: Path) -> None:
    place, port = tmp_path / "checkout", free_port()
    place.mkdir()
    for name in ("restmq", "twisted", "frontend", "_build", "Makefile", "requirements-test.lock", "restmq.conf"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, place / name)
    environment = Path(sys.prefix)
    (place / ".test-env").symlink_to(environment.parent)

    def answer() -> str:
        try:
            return http_call(port, "GET", "/")[2].decode("utf-8")
        except OSError:
            return ""

    words = ["make", "run", f"ARGS=--port {port} --data {tmp_path / 'data'}", f"PYTHON={sys.executable}"]
    with (tmp_path / "log").open("wb") as log:
        made = subprocess.Popen(words, cwd=place, stdout=log, stderr=log, start_new_session=True, env={**os.environ})
    try:
        until(lambda: "RestMQ" in answer(), (tmp_path / "log").read_text, START)
        page = next((place / "frontend" / "template").glob("*.html"))
        for path in (place / "restmq" / "web.py", page):
            before = (tmp_path / "log").read_text().count("RestMQ listens on")
            path.write_text(path.read_text("utf-8") + "\n", "utf-8")
            until(
                lambda before=before: (tmp_path / "log").read_text().count("RestMQ listens on") > before,
                (tmp_path / "log").read_text,
                START,
            )
            until(lambda: "RestMQ" in answer(), (tmp_path / "log").read_text, START)
    finally:
        os.killpg(made.pid, signal.SIGINT)
        made.wait(PATIENCE)
