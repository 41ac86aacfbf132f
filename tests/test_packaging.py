"""What pip installs works from any directory, pages included, and nothing in the environment contradicts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conftest import ROOT, free_port, http_call


def test_pip_install_gives_a_twistd_restmq_with_its_pages(redis_server: Any, tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "env"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = str(place / "bin" / "python")
    quiet = [python, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*quiet, "install", str(source)], check=True)
    checked = subprocess.run([*quiet, "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    port = free_port()
    words = ["-n", "--pidfile=", "restmq", "--port", str(port), "--redis", redis_server.address]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(
        [str(place / "bin" / "twistd"), *words, "--data", str(tmp_path / "data")], cwd=tmp_path, env=clean
    )
    try:
        for _ in range(200):
            try:
                if http_call(port, "GET", "/readyz")[0] == 200:
                    break
            except OSError:
                time.sleep(0.05)
        assert b"<form" in http_call(port, "GET", "/queue")[2]
        assert http_call(port, "GET", "/static/restmq.css")[1]["content-type"].startswith("text/css")
    finally:
        process.terminate()
        process.wait(20)
