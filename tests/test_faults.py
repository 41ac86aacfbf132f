"""Every promise holds while instances, Redis and the links between them are broken: the fault harness, for a while.

RESTMQ_LOAD_SECONDS says for how long each run lasts. The long run is a command:
python tests/faults.py --seconds 600
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from faults import failures, options, run

SECONDS = float(os.environ.get("RESTMQ_LOAD_SECONDS", "60"))


def harness(folder: Path, words: str) -> dict[str, Any]:
    """A run of the harness in which every promise is kept."""
    plan = options(words.split())
    print(f"to repeat this: python tests/faults.py {words} --seed {plan.seed}")
    found = asyncio.run(run(folder, plan))
    print(found)
    assert not failures(found)
    return found


@pytest.mark.timeout(180 + SECONDS)
def test_nothing_is_lost_whatever_is_killed_stopped_or_cut(tmp_path: Path) -> None:
    found = harness(tmp_path, f"--seconds {max(SECONDS, 12)} --every 3")
    assert found["faults"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_three_instances_behind_nginx_are_one(tmp_path: Path, policy: str) -> None:
    words = f"--elements 10000 --rate 4000 --producers 8 --consumers 30 --nginx --lanes {policy}"
    found = harness(tmp_path, f"{words} --faults=")[policy]
    assert found["acknowledged"] >= 10_000
    assert found["lost"] == found["doubled" if policy == "roundrobin" else "pairs doubled"] == 0
    if policy == "roundrobin":
        assert found["shares"][1] - found["shares"][0] <= 1
    else:
        assert found["pairs missing"] == found["holes"] == found["disorder"] == 0


@pytest.mark.timeout(240 + SECONDS)
@pytest.mark.parametrize("fault", ["kill", "stop", "cut"])
def test_behind_nginx_a_fault_loses_nothing_and_explains_every_double(tmp_path: Path, fault: str) -> None:
    words = f"--seconds {max(SECONDS, 14)} --every 2 --consumers 30 --nginx --lanes broadcast,roundrobin"
    assert harness(tmp_path, f"{words} --faults {fault}")["faults"][fault] >= 1
