"""The port at the beginning and at the end: nobody is let in too early, nobody who came is turned away."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Instance, RedisServer, http_call
from wire import FORM

pytestmark = pytest.mark.wire


def answer(link: socket.socket) -> bytes:
    """All that comes until the server closes."""
    came = b""
    while True:
        data = link.recv(65536)
        if not data:
            return came
        came += data


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_who_has_connected_when_the_end_comes_is_answered(start: Any, queue: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "restmq.sock"
    one = start()
    if kind == "unix":
        # An instance of its own start, as the fixture waits for a port.
        one.stop()
        one.conf.write_text(f"[server]\nlisten = unix:{path}\n")
        _start_on(one, path)
    links = []
    one.process.send_signal(signal.SIGSTOP)
    for number in range(30):
        link = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        link.settimeout(20)
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
    one.process.wait(20)
    assert not path.exists()


def _start_on(one: Instance, path: Path) -> None:
    one.http = lambda method, target, body=None, headers=None: _over(path, method, target)  # type: ignore[method-assign]
    one.start()


def _over(path: Path, method: str, target: str) -> tuple[int, dict[str, str], bytes]:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        link.sendall(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
        return int(answer(link).split(b" ")[1]), {}, b""


def test_an_idle_connection_is_kept_for_a_grace_and_told_its_end(start: Any, queue: str) -> None:
    one = start("[server]\ngrace = 8s\n")
    used = http.client.HTTPConnection("127.0.0.1", one.port, timeout=20)
    idle = http.client.HTTPConnection("127.0.0.1", one.port, timeout=20)
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
        assert time.monotonic() - began < 5
    used.request("POST", f"/q/{queue}", "value=late", FORM)
    said = used.getresponse()
    assert (said.status, said.headers["Connection"], said.read()) == (200, "close", f"{queue}:1\r\n".encode())
    assert idle.sock.recv(1) == b""  # not reset
    took = time.monotonic() - began
    one.process.wait(20)
    assert 6 < took < 15, took


def test_without_idle_connections_the_end_does_not_wait(start: Any) -> None:
    one = start("[server]\ngrace = 9s\n")
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 6


def test_nobody_is_let_in_before_redis_is_there_or_was_waited_for(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "instance").mkdir()
    redis = RedisServer(tmp_path / "redis")
    one = Instance(tmp_path / "instance", redis.address)
    one.stop()
    try:
        os.kill(redis.process.pid, signal.SIGSTOP)
        one.http = lambda *_: (200, {}, b"")  # type: ignore[method-assign]  # not asked while Redis is stopped
        one.start()
        began = time.monotonic()
        while True:  # as early as anybody can
            try:
                link = socket.create_connection(("127.0.0.1", one.port))
                break
            except ConnectionRefusedError:
                assert time.monotonic() - began < 20
        link.settimeout(20)
        link.sendall(b"GET /q/early HTTP/1.0\r\n\r\n")
        time.sleep(0.1)
        os.kill(redis.process.pid, signal.SIGCONT)
        assert answer(link).startswith(b"HTTP/1.1 204")
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
                assert time.monotonic() - began < 20
        assert http_call(one.port, "GET", "/healthz")[0] == 200
    finally:
        redis.process.kill()
        redis.process.wait(10)
        one.stop()
