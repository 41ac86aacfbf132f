"""HTTPS: an instance with a certificate of its own, and every kind of client of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from twisted.internet import endpoints

from tests import ROOT
from tests.support.instance import TWISTD, troubles
from tests.support.listener import Listener
from tests.support.patience import PATIENCE, until
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.requests import TEXT, add, http_call, stats, texts
from tests.support.tls import Secure, certify

TRANSPORTS = ("c", "sse", "ws")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key and its certificate."""
    folder = tmp_path_factory.mktemp("pems")
    certify(folder)
    return folder


@pytest.fixture
def begin(start: Any, pems: Path) -> Any:
    """Starts instances that speak TLS: begin(conf)."""
    return lambda conf="": start(conf, kind=lambda folder, redis, conf: Secure(folder, redis, pems, conf))


@pytest.fixture(scope="module")
def shared_one(redis_server: RedisServer, pems: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """What `secure` is."""
    made = Secure(tmp_path_factory.mktemp("secure"), redis_server.address, pems)
    yield made
    text = made.stop()
    assert not troubles(text), text


@pytest.fixture
def secure(shared_one: Secure, request: pytest.FixtureRequest) -> Secure:
    """One for all tests that need nothing special."""
    request.node.started = [shared_one]
    return shared_one


@pytest.fixture
def hear(listen: Any) -> Any:
    """Opens live consumers over TLS: hear(instance, target)."""
    return lambda one, target, **options: listen(one, target, context=one.context, **options)


def ended_in_order(listener: Listener) -> bool:
    """Whether TLS said goodbye before the connection closed, behind the last chunk too."""
    listener.ended = False
    return not listener.until_end().cut


def settled(count: Callable[[], int]) -> int:
    """A number, when it has not changed for half a second."""
    seen = [count()]

    def same() -> bool:
        seen.append(count())
        return len(set(seen[-6:])) == 1 and len(seen) > 6

    until(same, step=0.1)
    return seen[-1]


@pytest.mark.parametrize("uri", ["https://localhost:443", "HTTPS://LOCALHOST", "https://[::1]:443", "http://localhost"])
def test_an_absolute_uri_over_tls_says_the_host(secure: Secure, queue: str, uri: str) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), PATIENCE) as plain:
        with secure.context.wrap_socket(plain, server_hostname="localhost") as link:
            link.sendall(f"HEAD {uri}/q/{queue} HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n".encode())
            assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_what_is_posted_over_tls_is_got_over_tls(secure: Secure, queue: str) -> None:
    assert secure.form(f"/q/{queue}", "value=form")[0] == 200
    add(secure, queue, "text", "x" * 300_000)
    for value in ("form", "text", "x" * 300_000):
        status, _, body = secure.http("GET", f"/q/{queue}")
        assert status == 200
        assert json.loads(body)["value"] == value
    assert secure.http("GET", f"/q/{queue}")[0] == 204


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_consumer_gets_broadcast_elements_over_tls_and_is_not_counted_when_it_left(
    secure: Secure, hear: Any, queue: str, transport: str
) -> None:
    one, two = hear(secure, f"/{transport}/{queue}"), hear(secure, f"/{transport}/{queue}")
    assert one.status == (101 if transport == "ws" else 200)
    assert stats(secure, queue)["consumers"] == 2
    add(secure, queue, *texts(3), "x" * 300_000)
    for consumer in (one, two):
        consumer.until(lambda c: len(c.elements) == 4)
        assert consumer.values == [*texts(3), "x" * 300_000]
    one.close()  # without TLS's goodbye
    until(lambda: stats(secure, queue)["consumers"] == 1)
    add(secure, queue, "after")
    two.until(lambda c: len(c.elements) == 5)
    two.socket.unwrap()
    two.close()
    until(lambda: stats(secure, queue)["consumers"] == 0)
    assert stats(secure, queue)["len"] == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tap_sees_elements_over_tls(secure: Secure, hear: Any, queue: str, transport: str) -> None:
    tap = hear(secure, f"/{transport}/{queue}?tap=1")
    add(secure, queue, *texts(3))
    assert tap.until(lambda c: len(c.elements) == 3).values == texts(3)
    assert stats(secure, queue)["len"] == 3


def test_roundrobin_over_tls_is_a_turn_over_all_transports_and_confirmed(secure: Secure, hear: Any, queue: str) -> None:
    assert secure.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    consumers = [hear(secure, f"/{transport}/{queue}") for transport in TRANSPORTS]
    add(secure, queue, *texts(12))
    for consumer in consumers:
        consumer.until(lambda c: len(c.elements) == 4)
    assert sorted(value for consumer in consumers for value in consumer.values) == sorted(texts(12))
    until(lambda: stats(secure, queue)["leased"] == 0)
    for consumer in consumers:
        consumer.close()
    until(lambda: stats(secure, queue)["consumers"] == 0)
    assert (stats(secure, queue)["len"], stats(secure, queue)["leased"]) == (0, 0)


def test_the_end_of_an_instance_ends_its_streams_over_tls_cleanly(begin: Any, hear: Any, queue: str) -> None:
    one = begin()
    comet, sse, ws = (hear(one, f"/{transport}/{queue}") for transport in TRANSPORTS)
    add(one, queue, "last")
    for consumer in (comet, sse, ws):
        consumer.until(lambda c: c.elements)
    one.process.send_signal(signal.SIGTERM)
    assert comet.until_end().trailer == "RestMQ-Closed: the server is ending"
    assert sse.until_end().body.endswith(b": the server is ending\nretry: 1000\n")
    ws.until_end()
    assert (ws.code, ws.reason) == (1001, "the server is ending")
    for consumer in (comet, sse, ws):
        assert ended_in_order(consumer)
        assert consumer.values == ["last"]
        consumer.close()
    one.process.wait(PATIENCE)
    assert "connections cut" not in one.log.read_text()


def test_who_does_not_say_goodbye_over_tls_does_not_hold_up_the_end_of_an_instance(
    begin: Any, hear: Any, queue: str
) -> None:
    one = begin("drain = 60s\ngrace = 0s\n")
    comet = hear(one, f"/c/{queue}")
    with socket.create_connection(("127.0.0.1", one.port)) as plain:
        idle = one.context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        one.process.send_signal(signal.SIGTERM)
        one.process.wait(PATIENCE)  # neither reads meanwhile
        assert idle.recv(1 << 16) == b""
        idle.close()
    assert comet.until_end().trailer == "RestMQ-Closed: the server is ending"
    assert ended_in_order(comet)


def test_a_large_answer_goes_out_whole_before_tls_ends(begin: Any, queue: str) -> None:
    one = begin()
    add(one, queue, "x" * 1_000_000)
    asked = f"GET /q/{queue} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", one.port))
        slow = one.context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        slow.sendall(asked)
        time.sleep(5)  # longer than TLS is given for its goodbye
        answer = b""
        while data := slow.recv(1 << 16):
            answer += data
        assert answer.count(b"x") >= 1_000_000
        slow.close()


def test_a_consumer_that_takes_nothing_over_tls_is_dropped_and_can_read_what_was_delivered(
    begin: Any, hear: Any, queue: str
) -> None:
    one = begin("[live]\nmax_waiting = 64KiB\nstall = 1s\n")
    slow = hear(one, f"/c/{queue}", buffer=4096)
    for _ in range(60):
        add(one, queue, "x" * 40_000)
    until(lambda: "does not read: dropped" in one.log.read_text())
    until(lambda: stats(one, queue)["consumers"] == 0)
    found = stats(one, queue)
    assert found["len"] + found["delivered"] == 60
    assert slow.hurry().until_end(60).cut  # its end is no clean one
    assert (slow.body + slow.rest).count(b"}\r\n") >= found["delivered"] > 0
    fast = hear(one, f"/c/{queue}")
    fast.until(lambda c: c.body.count(b"}\r\n") == found["len"], 60)
    assert one.log.read_text().count("does not read: dropped") == 1


def test_what_a_socket_did_not_take_over_tls_is_not_confirmed_and_goes_to_the_next(
    secure: Secure, hear: Any, queue: str
) -> None:
    assert secure.form(f"/p/{queue}", "policy=roundrobin")[0] == 200
    lazy, busy = hear(secure, f"/c/{queue}", buffer=4096), hear(secure, f"/c/{queue}")
    count = 300
    for _ in range(count):
        add(secure, queue, "x" * 50_000)
        busy.read(0.001)
    lazy.until(lambda c: c.elements)  # something of what its kernel holds
    busy.everything()
    held = len(busy.elements)
    leased = settled(lambda: stats(secure, queue)["leased"])
    assert 0 < leased < count - held
    lazy.close()
    busy.until(lambda c: len(c.elements) == held + leased)
    until(lambda: stats(secure, queue)["leased"] == 0)
    got, theirs = {one["key"] for one in lazy.elements}, [one["key"] for one in busy.everything().elements]
    assert len(theirs) == len(set(theirs)) == held + leased
    assert not got & set(theirs)
    assert stats(secure, queue)["len"] == 0


def test_plain_http_on_a_tls_port_gets_no_answer_and_harms_nobody(secure: Secure, queue: str) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        http_call(secure.port, "GET", "/readyz")
    assert secure.http("POST", f"/q/{queue}", "v", TEXT)[0] == 200


# The protocol that a handshake agrees on (ALPN, RFC 7301)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.1"], "http/1.1"),
        (["http/1.0", "http/1.1"], "http/1.1"),
        (["http/1.0"], "http/1.0"),
        ([], None),
    ],
)
def test_a_handshake_agrees_on_http_1_1_whatever_else_is_offered(
    secure: Secure, offered: list[str], chosen: str | None
) -> None:
    context = ssl.create_default_context(cafile=str(secure.pems / "certificate.pem"))
    if offered:
        context.set_alpn_protocols(offered)
    with socket.create_connection(("127.0.0.1", secure.port)) as plain:
        link = context.wrap_socket(plain, server_hostname="127.0.0.1")
        assert link.selected_alpn_protocol() == chosen
        link.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert link.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        link.close()


@pytest.mark.parametrize("offered", ["h2", "spdy/3", "http/1.10"])
def test_a_client_that_offers_only_what_is_not_spoken_here_is_told_so_by_tls(secure: Secure, offered: str) -> None:
    context = ssl.create_default_context(cafile=str(secure.pems / "certificate.pem"))
    context.set_alpn_protocols([offered])
    with socket.create_connection(("127.0.0.1", secure.port)) as plain:
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert secure.http("GET", "/healthz")[0] == 200


@pytest.mark.parametrize("words", [[], ["--http2"], ["--http1.1"], ["--http1.0"], ["--no-alpn"]])
def test_curl_is_answered_whatever_it_offers(secure: Secure, words: list[str]) -> None:
    command = ["curl", "-sS", *words, "--cacert", str(secure.pems / "certificate.pem")]
    done = subprocess.run(
        [*command, "-w", "%{http_version}", f"https://127.0.0.1:{secure.port}/healthz"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"OK\r\n1.1", b"")


# A certificate that is renewed


def shown(one: Secure, name: str = "127.0.0.1") -> str:
    """The name on the certificate that a new handshake gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", one.port)) as plain:
        with context.wrap_socket(plain, server_hostname=name) as link:
            found = x509.load_der_x509_certificate(link.getpeercert(True) or b"")
    return str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def replace(folder: Path, name: str) -> None:
    """Renew key and certificate, each by renaming, as certbot does."""
    fresh = folder / "fresh"
    fresh.mkdir()
    certify(fresh, name)
    for file in ("key.pem", "certificate.pem"):
        (fresh / file).rename(folder / file)
    fresh.rmdir()


@pytest.fixture
def renewed(start: Any, tmp_path: Path) -> Secure:
    """An instance whose certificate is its own, so that it may change."""
    folder = tmp_path / "pems"
    folder.mkdir()
    certify(folder, "first")
    one: Secure = start("", kind=lambda place, redis, conf: Secure(place, redis, folder, conf))
    return one


def test_new_connections_get_a_certificate_that_was_renewed_and_those_that_are_there_stay(
    renewed: Secure, hear: Any, queue: str
) -> None:
    comet = hear(renewed, f"/c/{queue}")
    assert shown(renewed) == "first"
    replace(renewed.pems, "second")
    until(lambda: shown(renewed) == "second")
    renewed.context = ssl.create_default_context(cafile=str(renewed.pems / "certificate.pem"))
    add(renewed, queue, "over the new one")
    assert comet.until(lambda c: c.elements).values == ["over the new one"]
    assert renewed.log.read_text().count("the certificate was read again") == 1


@pytest.mark.parametrize("fault", ["empty", "half", "other key", "gone", "no PEM"])
def test_a_certificate_that_cannot_be_used_changes_nothing_and_is_told_once(renewed: Secure, fault: str) -> None:
    certificate, key = renewed.pems / "certificate.pem", renewed.pems / "key.pem"
    text = certificate.read_bytes()
    if fault == "other key":
        before = key.read_bytes()
        replace(renewed.pems, "other")
        key.write_bytes(before)
    elif fault == "gone":
        certificate.unlink()
    else:
        certificate.write_bytes({"empty": b"", "half": text[:100], "no PEM": b"x" * 1000}[fault])
    until(lambda: "the certificate stays as it was" in renewed.log.read_text())
    assert shown(renewed) == "first"
    replace(renewed.pems, "second")
    until(lambda: shown(renewed) == "second")
    assert renewed.log.read_text().count("stays as it was") == 1


class ByName(Secure):
    """One that takes the certificate for the name that a client asks for, from a folder."""

    def endpoint(self) -> str:
        """Where it listens."""
        return f"tls:{self.pems}:{self.port}:interface=127.0.0.1"


def test_a_folder_of_certificates_is_read_again_too(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pems"
    folder.mkdir()
    certify(folder, "first")
    if not hasattr(endpoints, "wrapServerTLS"):  # Twisted 26 brings this endpoint
        assert "cannot listen on 'tls:" in refused(tmp_path, f"tls:{folder}:{free_port()}")
        return
    one = start("", kind=lambda place, redis, conf: ByName(place, redis, folder, conf))
    names = ("localhost", "other.test")
    assert {shown(one, name) for name in names} == {"first"}
    for offered in (["h2", "http/1.1"], ["http/1.1"]):
        context = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        context.set_alpn_protocols(offered)
        with socket.create_connection(("127.0.0.1", one.port)) as plain:
            with context.wrap_socket(plain, server_hostname="other.test") as link:
                assert link.selected_alpn_protocol() == "http/1.1"
    replace(folder, "second")
    until(lambda: {shown(one, name) for name in names} == {"second"})


def refused(folder: Path, listen: str) -> str:
    """What a start says that does not come about."""
    words = ["-n", "--pidfile=", "restmq", "--redis", "127.0.0.1:1", "--data", str(folder / "data")]
    done = subprocess.run(
        [sys.executable, "-c", TWISTD, *words, "--listen", listen],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("fault", ["empty", "other key", "gone", "no PEM"])
def test_a_start_with_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path, fault: str) -> None:
    certify(tmp_path)
    certificate = tmp_path / "certificate.pem"
    if fault == "other key":
        key = (tmp_path / "key.pem").read_bytes()
        certify(tmp_path)
        (tmp_path / "key.pem").write_bytes(key)
    elif fault == "gone":
        certificate.unlink()
    else:
        certificate.write_bytes({"empty": b"", "no PEM": b"x" * 1000}[fault])
    line = refused(tmp_path, f"ssl:{free_port()}:privateKey={tmp_path}/key.pem:certKey={certificate}")
    assert "\n" not in line and line.startswith("restmq: cannot listen on 'ssl:"), line
