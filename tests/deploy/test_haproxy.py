"""HAProxy before RestMQ: its checks find that it lives, and that it does not."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import until
from tests.support.ports import free_port
from tests.support.requests import FORM, http_call

CONF = """
global
    maxconn 100
defaults
    mode http
    timeout connect 30s
    timeout client 60s
    timeout server 60s
frontend all
    bind 127.0.0.1:{port}
    default_backend restmq
frontend told
    bind 127.0.0.1:{told}
    stats enable
    stats uri /stats
backend restmq
    {check}
    server one 127.0.0.1:{behind} check inter 100ms fall 2 rise 1
"""
#: HAProxy's check as it is without a word, which is OPTIONS / in HTTP/1.0, and those that people write.
CHECKS = {
    "default": "option httpchk",
    "of a page": "option httpchk GET /healthz",
    "of readiness": "option httpchk GET /readyz",
    "HEAD": "option httpchk HEAD /healthz HTTP/1.0",
    "with a host": "option httpchk\n    http-check send meth OPTIONS uri / ver HTTP/1.1 hdr Host localhost",
    "of everything": "option httpchk\n    http-check send meth OPTIONS uri * ver HTTP/1.1 hdr Host localhost",
}


class Haproxy:
    """One that serves what an instance answers, and tells what it thinks of it."""

    def __init__(self, folder: Path, behind: int, check: str) -> None:
        self.port, self.told = free_port(), free_port()
        conf = folder / "haproxy.cfg"
        conf.write_text(CONF.format(port=self.port, told=self.told, behind=behind, check=check))
        self.process = subprocess.Popen(["haproxy", "-db", "-f", str(conf)], stderr=subprocess.DEVNULL)

    def status(self) -> str:
        """What its last check of the instance came to: L7OK/204, L7STS/405 …; "" before the first."""
        try:
            text = http_call(self.told, "GET", "/stats;csv")[2].decode()
        except OSError:
            assert self.process.poll() is None
            return ""
        names, *lines = (line.split(",") for line in text.splitlines())
        one = next(dict(zip(names, line)) for line in lines if line[:2] == ["restmq", "one"])
        return f"{one['status']} {one['check_status']}/{one['check_code']}" if "L" in one["check_status"] else ""

    def end(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Callable[[int, str], Haproxy]]:
    """Starts them: haproxy(port, check)."""
    started: list[Haproxy] = []

    def one(behind: int, check: str) -> Haproxy:
        started.append(Haproxy(tmp_path, behind, check))
        return started[-1]

    yield one
    for each in started:
        each.end()


@pytest.mark.parametrize("check", CHECKS)
def test_its_check_finds_that_an_instance_lives(instance: Any, haproxy: Any, queue: str, check: str) -> None:
    one = haproxy(instance.port, CHECKS[check])
    until(lambda: one.status() != "")
    assert one.status() == f"UP L7OK/{204 if 'OPTIONS' in CHECKS[check] or check == 'default' else 200}"
    assert http_call(one.port, "POST", f"/q/{queue}", "value=through", FORM)[0] == 200
    assert b'"through"' in http_call(one.port, "GET", f"/q/{queue}")[2]


def test_its_default_check_passes_where_hosts_and_passwords_are_asked_for(start: Any, haproxy: Any) -> None:
    conf = "[server]\nhosts = mq.example\n[rest:producer]\nusername = a\npassword = b\n"
    one = haproxy(start(conf + "[rest:consumer]\nusername = a\npassword = b\n").port, "option httpchk")
    until(lambda: one.status() != "")
    assert one.status() == "UP L7OK/204"


def test_its_check_finds_that_an_instance_has_ended(start: Any, haproxy: Any) -> None:
    instance = start()
    one = haproxy(instance.port, "option httpchk")
    until(lambda: one.status().startswith("UP"))
    instance.stop()
    until(lambda: one.status().startswith("DOWN"), one.status)
    instance.start()
    until(lambda: one.status().startswith("UP"), one.status)
