"""A Redis that comes back with less than was there, and what shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.instance import Instance
from tests.support.patience import until
from tests.support.redis_server import RedisServer


def lose(server: RedisServer, before: Path | None, *instances: Instance) -> None:
    """It stops, and comes back empty, or with what it had when `before` was copied."""
    server.stop()
    shutil.rmtree(server.folder / "appendonlydir")
    if before is not None:
        shutil.copytree(before, server.folder / "appendonlydir")
    for instance in instances:
        until(lambda instance=instance: instance.http("GET", "/readyz")[0] == 503)
    server.start()
    for instance in instances:
        until(lambda instance=instance: instance.http("GET", "/readyz")[0] == 200)


def add(instance: Instance, queue: str, value: str = "x") -> str:
    """Its key."""
    status, body = instance.form(f"/q/{queue}", f"value={value}")
    assert status == 200, body
    return body.decode().strip()


def books(instance: Instance) -> dict[str, int]:
    """Those of the queue `jobs`."""
    told: dict[str, int] = json.loads(instance.http("GET", "/ledger/jobs")[2])
    assert told["imbalance"] == 0
    return told
