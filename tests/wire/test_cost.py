"""What an add costs, counted instead of timed: calls of functions for each POST, beside a stock cyclone handler."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import pstats
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.support.patience import LONG, PATIENCE, until
from tests.support.ports import free_port

loader = importlib.machinery.SourceFileLoader("bench", str(ROOT / "scripts" / "bench"))
spec = importlib.util.spec_from_loader("bench", loader)
assert spec is not None
bench: Any = importlib.util.module_from_spec(spec)
loader.exec_module(bench)


def listens(port: int) -> bool:
    """Whether somebody does, there."""
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def calls(command: list[str], port: int, stats: Path) -> float:
    """Calls of Python's and built-in functions for one add, under the benchmark's own load."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=stats.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        until(lambda: listens(port), seconds=LONG)
        time.sleep(0.5)
        done = bench.load(port, 2, 16)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    finally:
        process.kill()
    profile: Any = pstats.Stats(str(stats))
    hot = sum(count for _, count, *_ in profile.stats.values() if count >= done // 20)
    return float(hot / done)


def test_an_add_makes_at_most_a_quarter_of_a_stock_handler_s_calls(redis_server: Any, tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    script = tmp_path / "stock.py"
    script.write_text(bench.STOCK)
    profiled = ["-m", "cProfile", "-o", str(tmp_path / "stock"), str(script)]
    stock = calls([*profiled, str(one), str(redis_server.socket)], one, tmp_path / "stock")
    profiled = ["-c", bench.OURS, "--profiler=cprofile", f"--profile={tmp_path / 'ours'}", "--savestats"]
    words = ["restmq", "--port", str(two), "--redis", redis_server.address, "--data", str(tmp_path)]
    mine = calls([*profiled, "-n", "--pidfile=", *words], two, tmp_path / "ours")
    print(f"stock {stock:.0f} calls an add, RestMQ {mine:.0f}")
    assert 20 < mine <= stock / 4
