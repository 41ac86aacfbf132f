"""The most used clients of event streams, in Python and JavaScript, through a restart of the instance.

By downloads a month of 2026: httpx-sse, sseclient-py, aiohttp-sse-client2 and sseclient; eventsource,
launchdarkly-eventsource, @microsoft/fetch-event-source and event-source-polyfill.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.support.listener import Listener
from tests.support.patience import LONG, until
from tests.support.requests import add, stats, texts

pytestmark = pytest.mark.rare
CLIENTS = ROOT / "tests" / "clients"
PYTHON = ["httpx-sse", "sseclient-py", "sseclient", "aiohttp-sse-client2"]
NODE = ["eventsource", "launchdarkly-eventsource", "@microsoft/fetch-event-source", "event-source-polyfill"]


LOCKS = ("package-lock.json", "requirements.lock")


@pytest.fixture(scope="session")
def modules() -> Path:
    """A folder beside the environments with what the locks of tests/clients pin, in node_modules and python."""
    kind = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    folder = Path(sys.prefix).parent / f"sse-clients-{kind}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:  # another run may be making it
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = "".join((CLIENTS / name).read_text() for name in LOCKS)
        made = folder / "made-of"
        if not made.exists() or made.read_text() != wanted:
            for name in ("package.json", *LOCKS):
                shutil.copy(CLIENTS / name, folder / name)
            shutil.rmtree(folder / "python", ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--require-hashes"]
            run(folder, *pip, "--no-deps", "--no-build-isolation", "--target", "python", "-r", "requirements.lock")
            run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            made.write_text(wanted)
    return folder


def run(folder: Path, *command: str) -> None:
    """Run what must succeed."""
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Hearing:
    """A client's process, and the events that it handed its user."""

    def __init__(self, command: list[str], cwd: Path, log: Path) -> None:
        self.out, self.log = log.with_suffix(".events"), log
        with self.out.open("wb") as out, log.open("wb") as errors:
            env = {**os.environ, "PYTHONPATH": str(cwd / "python")}
            self.process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=errors, env=env)

    @property
    def events(self) -> list[dict[str, str]]:
        """All so far."""
        return [json.loads(line) for line in self.out.read_text().splitlines(True) if line.endswith("\n")]

    def events_but_for_ends(self, client: str, ends: int) -> list[dict[str, str]]:
        """All, without what sseclient makes of the end of a stream.

        It reads past http.client, so it sees chunked framing (RFC 9112 section 7.1), and takes the blank line
        behind the last chunk for the end of an event. No server can help that.
        """
        if client != "sseclient":
            return self.events
        found = [event for event in self.events if event["data"]]
        assert len(self.events) <= len(found) + ends, self.events
        return found

    def until(self, count: int) -> None:
        """Wait for so many elements."""

        def there() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return sum('"value"' in event["data"] for event in self.events) >= count

        until(there, lambda: f"{self.events}\n{self.log.read_text()}", seconds=LONG)


@pytest.fixture
def hearing(modules: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts clients: hearing(client, url)."""
    made: list[Hearing] = []

    def one(client: str, url: str) -> Hearing:
        node, python = ["node", str(CLIENTS / "hear.js")], [sys.executable, str(CLIENTS / "hear.py")]
        command = node if client in NODE else python
        made.append(Hearing([*command, client, url], modules, tmp_path / f"client{len(made)}.log"))
        return made[-1]

    yield one
    for each in made:
        each.process.kill()
        each.process.wait(LONG)


@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("client", [*PYTHON, *NODE])
def test_a_client_has_each_element_once_and_no_empty_message_through_a_restart(
    start: Any, other: Any, hearing: Any, queue: str, client: str
) -> None:
    one = start("[live]\nheartbeat = 100ms\n")
    values = texts(12)
    witness = Listener(other.port, f"/c/{queue}")  # while the client is away, what is added is broadcast and gone
    heard = hearing(client, f"http://127.0.0.1:{one.port}/sse/{queue}")
    until(lambda: stats(other, queue)["consumers"] == 2, seconds=LONG)
    streams = one.log.read_text().count("joined sse")
    add(one, queue, *values[:3])
    heard.until(3)
    until(lambda: witness.quiet(0.3).values == values[:3])  # heartbeats come meanwhile
    one.stop()
    add(other, queue, *values[3:6])
    witness.until(lambda c: len(c.values) == 6)
    one.start()
    heard.until(6)
    until(lambda: one.log.read_text().count("joined sse") > streams)
    add(other, queue, *values[6:9])
    heard.until(9)
    witness.until(lambda c: len(c.values) == 9).quiet(0.3)
    one.stop()
    one.start()
    add(one, queue, *values[9:])
    heard.until(12)
    witness.until(lambda c: len(c.values) == 12).quiet(0.3)
    events = heard.events_but_for_ends(client, 2)
    assert [event["type"] for event in events] == ["message"] * 12
    assert [json.loads(event["data"])["value"] for event in events] == values
    assert all(event["id"].startswith(f"{place}@") for place, event in enumerate(events, 1))
    witness.close()


@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("client", ["httpx-sse", "sseclient", *NODE])
def test_a_client_that_comes_back_to_another_epoch_hears_of_a_reset(
    start: Any, other: Any, hearing: Any, queue: str, client: str
) -> None:
    one = start("[live]\nheartbeat = 100ms\n")
    heard = hearing(client, f"http://127.0.0.1:{one.port}/sse/{queue}")
    until(lambda: stats(other, queue)["consumers"] == 1, seconds=LONG)
    add(one, queue, "before")
    heard.until(1)
    one.stop()
    assert other.http("DELETE", f"/q/{queue}?forget=1")[0] == 200
    with_witness = Listener(other.port, f"/c/{queue}")
    add(other, queue, "after")
    with_witness.until(lambda c: c.values)
    one.start()
    heard.until(2)
    events = heard.events_but_for_ends(client, 1)
    assert [event["type"] for event in events] == ["message", "reset", "message"]
    assert json.loads(events[1]["data"])["queue"] == queue
    with_witness.close()


def test_the_lock_of_the_clients_names_no_place_to_fetch_them() -> None:
    text = (CLIENTS / "package-lock.json").read_text()
    assert "://" not in text and "resolved" not in text
    packages = json.loads(text)["packages"]
    wanted = json.loads((CLIENTS / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == wanted
    assert sorted(wanted) == sorted(NODE)
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
