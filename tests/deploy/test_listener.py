"""The port at the beginning and at the end: nobody is let in too early, nobody who came is turned away."""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs, formatEvent

from restmq.listener import Listener
from tests import ROOT
from tests.support import reactor
from tests.support.instance import Instance
from tests.support.load import many
from tests.support.patience import LONG, PATIENCE
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.requests import FORM, http_call


def answer(link: socket.socket) -> bytes:
    """All that comes until the server closes."""
    came = b""
    while True:
        data = link.recv(65536)
        if not data:
            return came
        came += data


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_who_has_connected_when_the_end_comes_is_answered(
    start: Any, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "restmq.sock"
    one = start()
    if kind == "unix":
        # An instance of its own start, as the fixture waits for a port.
        one.stop()
        one.conf.write_text(f"[server]\nlisten = unix:{path}\n")
        monkeypatch.setattr(one, "http", lambda method, target: _over(path, method, target))
        one.start()
    links = []
    one.process.send_signal(signal.SIGSTOP)
    for number in range(300):  # many more than Twisted lets wait when it is not told
        link = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        link.settimeout(PATIENCE)
        link.connect(str(path) if kind == "unix" else ("127.0.0.1", one.port))
        body = f"value={number}"
        link.sendall(
            f"POST /q/{queue} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        links.append(link)
    one.process.send_signal(signal.SIGTERM)
    one.process.send_signal(signal.SIGCONT)
    for link in links:
        said = answer(link)
        assert said.startswith(b"HTTP/1.1 200") and b"\r\nConnection: close\r\n" in said
        link.close()
    one.process.wait(PATIENCE)
    assert not path.exists()


def _over(path: Path, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        link.sendall(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
        return int(answer(link).split(b" ")[1]), {}, b""


def test_an_idle_connection_is_kept_for_a_grace_and_told_its_end(start: Any, queue: str) -> None:
    one = start("[server]\ngrace = 8s\ndrain = 10m\n")
    used = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
    idle = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
    for link in (used, idle):
        link.request("GET", "/healthz")
        link.getresponse().read()
    one.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    while True:
        try:
            socket.create_connection(("127.0.0.1", one.port)).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() - began < PATIENCE
    used.request("POST", f"/q/{queue}", "value=late", FORM)
    said = used.getresponse()
    assert (said.status, said.headers["Connection"], said.read()) == (200, "close", f"{queue}:1\r\n".encode())
    assert idle.sock.recv(1) == b""  # not reset
    took = time.monotonic() - began
    one.process.wait(PATIENCE)
    assert took > 6, took


def test_without_idle_connections_the_end_does_not_wait(start: Any) -> None:
    start("[server]\ngrace = 30m\ndrain = 1h\n").stop()  # which waits for a minute


def test_nobody_is_let_in_before_redis_is_there_or_was_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "instance").mkdir()
    redis = RedisServer(tmp_path / "redis")
    one = Instance(tmp_path / "instance", redis.address)
    one.stop()
    try:
        os.kill(redis.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(one, "http", lambda *_: (200, {}, b""))  # not asked while Redis is stopped
        one.start()
        began = time.monotonic()
        while True:  # as early as anybody can
            try:
                asked = time.monotonic()
                link = socket.create_connection(("127.0.0.1", one.port))
                break
            except ConnectionRefusedError:
                assert time.monotonic() - began < LONG
        link.settimeout(PATIENCE)
        link.sendall(b"GET /q/early HTTP/1.0\r\n\r\n")
        time.sleep(0.1)
        late = time.monotonic() - asked > 1  # it may have been let in, as after two seconds
        os.kill(redis.process.pid, signal.SIGCONT)
        assert answer(link).startswith((b"HTTP/1.1 204", b"HTTP/1.1 503") if late else b"HTTP/1.1 204")
        link.close()
        one.stop()
        redis.stop()
        one.start()
        began = time.monotonic()
        while True:
            try:
                assert http_call(one.port, "GET", "/q/early")[0] == 503
                break
            except ConnectionRefusedError:
                assert time.monotonic() - began < LONG
        assert http_call(one.port, "GET", "/healthz")[0] == 200
    finally:
        redis.process.kill()
        redis.process.wait(PATIENCE)
        one.stop()


#: Doors on one port, one after the other, each open for a few milliseconds; who says something is answered.
DOORS = """
import sys
from twisted.internet import reactor, task
from twisted.internet.protocol import Factory, Protocol
from restmq.listener import Listener

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

async def main(reactor):
    for _ in range(int(sys.argv[2])):
        door = Listener(sys.argv[1], Factory.forProtocol(Echo), reactor, lambda: True)
        door.startService()
        await task.deferLater(reactor, 0.003)
        await door.stopService()
    await task.deferLater(reactor, 1)  # who came through the last one is answered too

task.react(lambda reactor: main(reactor))
"""


#: Connects, asks and hears the answer, until it is told to end; says how often it was answered, and how often it was
#: in and was not. It is a program, for threads would wait for each other.
KNOCKER = """
import signal, socket, struct, sys

over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
answered = reset = 0
print("ready", flush=True)
while not over:
    with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as link:
        # Without a FIN: as many ports as this needs would not be free again in time.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            link.settimeout(0.01)  # who is not heard would knock again after a second: too late for this
            link.connect((sys.argv[1], int(sys.argv[2])))
        except OSError:
            continue
        try:
            link.settimeout(60)
            link.sendall(b"x")
            heard = link.recv(1)
        except OSError:
            heard = b""
        answered, reset = answered + bool(heard), reset + (not heard)
print(answered, reset)
"""


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.rare)])
def test_of_some_hundred_stops_under_load_none_resets_who_has_connected(address: str) -> None:
    port, stops = free_port(), many(500, 150)
    where = "tcp:%d:interface=%s" % (port, address.replace(":", "\\:"))
    command = [sys.executable, "-c", KNOCKER, address, str(port)]
    knockers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for one in knockers:
            assert one.stdout and one.stdout.readline() == "ready\n"
        doors = [sys.executable, "-c", DOORS, where, str(stops)]
        subprocess.run(doors, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=LONG)
    finally:
        for one in knockers:
            one.terminate()
    said = [[int(word) for word in one.communicate(timeout=PATIENCE)[0].split()] for one in knockers]
    answered, reset = (sum(each) for each in zip(*said))
    print(f"{stops} stops, {answered} answered, {reset} reset")
    assert answered > stops and reset == 0


def test_where_the_kernel_refuses_the_filter_a_door_closes_all_the_same() -> None:
    reactor.run()

    def refused() -> Any:
        door = Listener("tcp:0:interface=127.0.0.1", Factory.forProtocol(Protocol), reactor.reactor, lambda: True)
        door.startService()
        listening = door._port.socket
        listening.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER: no other filter from here on
        where = listening.getsockname()
        return door.stopService().addCallback(lambda _: where)

    with capturedLogs() as said:
        where = reactor.call(refused)
    with socket.socket() as link:
        assert link.connect_ex(where) == errno.ECONNREFUSED
    told = [formatEvent(event) for event in said if event["log_level"].name == "debug"]
    assert [line for line in told if "no packet filter" in line and "not permitted" in line], told
