"""What the log tells of who may come in: where RestMQ listens, and what is open that perhaps should not be."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.forkserver import Forked
from tests.support.instance import START, TWISTD
from tests.support.patience import until
from tests.support.ports import free_port
from tests.support.requests import http_call
from tests.support.tls import certify

#: A warning of this kind, by a word that only it has.
KINDS = {"rules": "there are no access rules", "some": "some access sections", "hosts": "hosts is not set",
         "read": "every user of this machine may read", "change": "every user of this machine may change"}  # fmt: skip
LOCKED = "".join(f"[{section}]\nhosts_allow = 127.0.0.1\n" for section in ("rest:producer", "rest:consumer"))
SECRET = LOCKED + "username = jo\npassword = pw\n"


class Started:
    """A RestMQ in the foreground, whose Redis is not there; its log tells all the same."""

    def __init__(self, folder: Path, conf: str, *words: str, mode: int = 0o600) -> None:
        self.conf, self.log = folder / "restmq.conf", folder / "log"
        self.conf.write_text(conf)
        self.conf.chmod(mode)
        command = ["-n", "--pidfile=", "restmq", "--redis", "127.0.0.1:1"]
        command += ["--data", str(folder / "data"), "--config", str(self.conf), *words]
        self.log.touch()
        self.process = Forked(TWISTD, command, folder, {**os.environ, "PYTHONPATH": str(ROOT)}, self.log)
        until(lambda: "RestMQ listens on" in self.text() or self.process.poll() is not None, self.text, START)
        until(lambda: "RestMQ with Redis" in self.text(), self.text)  # which comes after all of these lines

    def text(self) -> str:
        """The log."""
        return self.log.read_text()

    @property
    def where(self) -> str:
        """Where it says that it listens."""
        found = re.search(r"RestMQ listens on (.*)", self.text())
        assert found, self.text()
        return found[1]

    def warned(self) -> list[str]:
        """The kinds of its warnings, in order; each is one line."""
        lines = [line for line in self.text().splitlines() if " warn " in line and " warn Redis at " not in line]
        return [next((kind for kind, word in KINDS.items() if word in line), line) for line in lines]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts one: begin(conf, words of the command line, mode of the conf)."""
    begun: list[Started] = []

    def one(conf: str = "", *words: str, mode: int = 0o600) -> Started:
        folder = tmp_path / str(len(begun))
        folder.mkdir()
        begun.append(Started(folder, conf, *words, mode=mode))
        return begun[-1]

    yield one
    for each in begun:
        each.process.terminate()
        each.process.wait(60)


@pytest.mark.parametrize(
    ("listen", "shown", "asked"),
    [
        ("127.0.0.1", "http://127.0.0.1:PORT/", "127.0.0.1"),
        ("0.0.0.0", "http://0.0.0.0:PORT/ (every address of this machine)", "127.0.0.1"),
        ("::", "http://[::]:PORT/ (every address of this machine)", "::1"),
        ("::1", "http://[::1]:PORT/", "::1"),
        ("tcp:PORT", "http://0.0.0.0:PORT/ (every address of this machine)", "127.0.0.1"),
    ],
)
def test_the_log_names_what_is_listened_on(begin: Callable[..., Started], listen: str, shown: str, asked: str) -> None:
    port = str(free_port())
    one = begin("", "--port", port, "--listen", listen.replace("PORT", port))
    assert one.where == shown.replace("PORT", port)
    socket.create_connection((asked, int(port))).close()


def test_a_port_that_the_kernel_chose_is_named(begin: Callable[..., Started]) -> None:
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", begin("", "--port", "0").where)
    assert found and http_call(int(found[1]), "GET", "/healthz")[0] == 200


def test_a_unix_socket_and_tls_are_named(begin: Callable[..., Started], tmp_path: Path) -> None:
    assert begin("", "--listen", f"unix:{tmp_path}/x.sock").where == f"unix:{tmp_path}/x.sock"
    certify(tmp_path)
    port, files = free_port(), f"privateKey={tmp_path}/key.pem:certKey={tmp_path}/certificate.pem"
    one = begin("", "--listen", f"ssl:{port}:interface=127.0.0.1:{files}")
    assert one.where == f"https://127.0.0.1:{port}/"
    assert one.warned() == ["read"] and f"the key of TLS in {tmp_path}/key.pem" in one.text()
    (tmp_path / "key.pem").chmod(0o640)
    assert begin("", "--listen", f"ssl:{free_port()}:interface=127.0.0.1:{files}").warned() == []


#: What systemd does for a service: the listening socket is file 3, and LISTEN_PID is the process (sd_listen_fds(3)).
ACTIVATED = "import os, sys; os.dup2(int(sys.argv.pop()), 3, True); os.environ['LISTEN_PID'] = str(os.getpid())\n"


def test_a_socket_of_systemd_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        words = ["-n", "--pidfile=", "restmq", "--redis", "127.0.0.1:1", "--data", str(tmp_path / "data")]
        words += ["--listen", "systemd:domain=INET:index=0", str(listening.fileno())]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", ACTIVATED + TWISTD, *words],
                cwd=tmp_path, env=environment, stdout=out, stderr=out, pass_fds=(listening.fileno(),),
            )  # fmt: skip
        wanted = f"RestMQ listens on http://127.0.0.1:{listening.getsockname()[1]}/\n"
        try:
            until(lambda: wanted in log.read_text(), log.read_text, START)
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize(
    ("conf", "mode", "warned"),
    [
        ("", 0o644, []),
        ("[server]\nlisten = 0.0.0.0\n", 0o644, ["rules", "hosts"]),
        ("[server]\nlisten = 127.0.0.1\nhosts = mq.example\n", 0o644, []),
        ("[server]\nlisten = 0.0.0.0\nhosts = mq.example\n", 0o644, ["rules"]),
        ("[server]\nlisten = 0.0.0.0\nhosts = mq.example\n" + LOCKED, 0o644, []),
        ("[server]\nlisten = 0.0.0.0\n" + LOCKED, 0o644, ["hosts"]),
        ("[server]\nlisten = 0.0.0.0\nhosts = x\n[rest:consumer]\nhosts_deny = all\n", 0o644, ["some"]),
        ("[server]\nlisten = 0.0.0.0\nhosts = x\n[rest:consumer]\n[rest:producer]\n", 0o644, ["rules"]),
        ("[server]\nxheaders = true\n", 0o644, ["rules", "hosts"]),
        ("[server]\nxheaders = true\nhosts = mq.example\n" + LOCKED, 0o644, []),
        ("[admin]\nhosts_deny = all\n", 0o644, ["some"]),
        (SECRET, 0o644, ["read"]),
        (SECRET, 0o640, []),
        (SECRET, 0o646, ["change"]),
        ("[redis]\npassword = pw\n", 0o604, ["read"]),
        ("", 0o666, ["change"]),
    ],
)
def test_each_thing_that_is_open_is_told_in_one_line_at_the_start(
    begin: Callable[..., Started], conf: str, mode: int, warned: list[str]
) -> None:
    one = begin(conf, "--port", str(free_port()), mode=mode)
    assert one.warned() == warned
    assert "hosts is not set" not in one.text() or "Set hosts in [server] of restmq.conf" in one.text()


def test_behind_a_proxy_on_a_unix_socket_names_and_rules_are_told_too(
    begin: Callable[..., Started], tmp_path: Path
) -> None:
    one = begin("", "--listen", f"unix:{tmp_path}/x.sock")
    assert one.warned() == ["rules", "hosts"] and "or let the proxy refuse other names" in one.text()
    assert f"write listen = unix:{tmp_path}/x.sock:mode=660" in one.text()
    one = begin("", "--listen", f"unix:{tmp_path}/y.sock:mode=660")
    assert one.warned() == ["rules", "hosts"] and "mode=" not in one.text().partition("listens on")[2]
    assert (tmp_path / "y.sock").stat().st_mode & 0o777 == 0o660


def test_an_acl_file_is_looked_at_instead_of_restmq_conf(begin: Callable[..., Started], tmp_path: Path) -> None:
    (tmp_path / "acl.conf").write_text(SECRET)
    (tmp_path / "acl.conf").chmod(0o644)
    one = begin(f"[server]\nacl_file = {tmp_path}/acl.conf\n", "--port", str(free_port()), mode=0o644)
    assert one.warned() == ["read"] and f"chmod o-r {tmp_path}/acl.conf" in one.text()


def test_what_is_open_is_told_again_when_the_rules_were_read_again(begin: Callable[..., Started]) -> None:
    one = begin(LOCKED, "--port", str(free_port()))
    assert one.warned() == []
    one.conf.write_text(SECRET.replace("[rest:producer]\nhosts_allow = 127.0.0.1", "[rest:producer]"))
    one.conf.chmod(0o644)
    until(lambda: one.warned() == ["some", "read"], one.text)
    assert ": [rest:producer] are open, [rest:consumer], [comet:consumer], " in one.text()
    one.conf.write_text(LOCKED)
    until(lambda: one.text().count("the access rules were read again") == 2, one.text)
    assert one.warned() == ["some", "read"] and "pw" not in one.text()
