"""Tests on several workers (pytest-xdist): which are run where, in which order, and how all of them end.

A worker has a Redis and instances of its own. Tests that share something for a file, by a fixture of scope "module",
stay on one worker; all others go to the next that is free, and those that take longest go first.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests import ROOT
from tests.support.patience import PATIENCE
from tests.support.site import shared

#: Files that take longest, and what is left of a file is no longer than a minute: who begins with them ends in time.
LONGEST = [
    "faults/test_faults.py",
    "deploy/test_deploy.py",
    "deploy/test_nginx.py",
    "wire/test_other_sites.py",
    "deploy/test_packaging.py",
    "wire/test_cycles.py",
    "wire/test_sse_clients.py",
    "wire/test_browser.py",
    "deploy/test_path.py",
    "wire/test_pace.py",
    "wire/test_resume.py",
    "store/test_core.py",
    "deploy/test_embedded.py",
]


@functools.cache
def whole(file: str) -> bool:
    """Whether its tests share something."""
    return 'scope="module"' in (ROOT / file).read_text("utf-8")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker a file whose tests share something, or one test with all its parameters."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if whole(file) else nodeid.partition("[")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """All modes of distribution are this one."""
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first, on workers; they must agree on the order."""
    if hasattr(config, "workerinput"):
        place = {ROOT / "tests" / name: at for at, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path, len(place)))


_workers: list[Any] = []


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker is there."""
    _workers.append(node)


def pytest_keyboard_interrupt(excinfo: object) -> None:
    """Workers end as one process would: what their tests started is ended by the fixtures that began it."""
    for worker in _workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.gateway._io.popen.pid, signal.SIGINT)
    for worker in _workers:
        with contextlib.suppress(Exception):  # it may have ended before, or be stuck
            worker.channel.waitclose(PATIENCE)


def pytest_unconfigure() -> None:
    """Nobody needs the environment any more that they had together."""
    for worker in _workers:
        shutil.rmtree(shared(worker.workerinput["testrunuid"]), ignore_errors=True)
