"""The log says who did what, one line each: changes, refusals, live consumers, and each request if asked for."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.instance import Instance
from tests.support.listener import Listener
from tests.support.patience import PATIENCE, until
from tests.support.requests import FORM
from tests.support.websocket import HANDSHAKE, Talker

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def lines(path: Path, word: str, count: int) -> list[str]:
    """The lines with a word in them, without their time, once there are `count`: the log is written at ticks."""

    def found() -> list[str]:
        return [line for line in path.read_text("utf-8").splitlines() if word in line]

    until(lambda: len(found()) >= count, lambda: f"{len(found())} lines with {word!r}, not {count}")
    assert all(re.match(STAMP, line) for line in found())
    return [re.sub(f"^{STAMP} ", "", line) for line in found()]


def raw(one: Any, request: bytes) -> bytes:
    """Send bytes, and read the answer to its end."""
    with socket.create_connection(("127.0.0.1", one.port), timeout=PATIENCE) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        got = b""
        while part := link.recv(65536):
            got += part
        return got


# Changes


def test_every_change_of_a_queue_is_one_line_with_the_client_s_address(instance: Any, queue: str) -> None:
    instance.form(f"/p/{queue}", "policy=roundrobin")
    instance.form(f"/p/{queue}", "policy=random")
    instance.form(f"/control/{queue}", "status=stop")
    instance.form(f"/control/{queue}", "status=start")
    instance.form(f"/q/{queue}", "value=x")
    instance.http("DELETE", f"/q/{queue}")
    instance.http("GET", f"/stats/{queue}")
    instance.http("DELETE", f"/q/{queue}?forget=1")
    assert lines(instance.log, queue, 5) == [
        f"info 127.0.0.1 set the policy of {queue} to roundrobin",
        f"info 127.0.0.1 stopped the flow of {queue}",
        f"info 127.0.0.1 started the flow of {queue}",
        f"info 127.0.0.1 purged the queue {queue}",
        f"info 127.0.0.1 forgot the queue {queue}",
    ]


def test_behind_a_proxy_the_client_is_named(start: Any, queue: str) -> None:
    one = start("[server]\nxheaders = true\n")
    one.http("DELETE", f"/q/{queue}", None, {"X-Real-IP": "10.0.0.7"})
    assert lines(one.log, queue, 1) == [f"info 10.0.0.7 purged the queue {queue}"]


# Refusals


def test_a_refusal_is_one_line_a_second_for_each_address(start: Any, queue: str) -> None:
    rules = "[rest:producer]\nhosts_deny = all\n[rest:consumer]\nusername = jo\npassword = hunter2\n"
    one = start(rules + "[websocket:consumer]\n")
    began = time.monotonic()
    for source, count in (("127.0.0.2", 40), ("127.0.0.3", 1)):
        link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE, source_address=(source, 0))
        for _ in range(count):
            link.request("POST", f"/q/{queue}?value=hunter2&password=hunter2", "", FORM)
            link.getresponse().read()
        link.close()
    one.http("GET", f"/q/{queue}")
    with Talker(one.port, f"/ws/{queue}ws") as ws:
        ws.send(f'{{"cmd": "add", "queue": "{queue}", "value": "hunter2"}}')
        assert '"status": 403' in ws.recv()
    one.http("GET", "/stats/", None, {"Host": "evil.example"})
    most = time.monotonic() - began + 2

    def told(address: str) -> tuple[int, int]:
        found = lines(one.log, f"{address} was refused", 1)
        return len(found), sum(1 + int((re.findall(r"\(and (\d+) more\)$", line) or ["0"])[0]) for line in found)

    until(lambda: told("127.0.0.2")[1] == 40)
    assert told("127.0.0.2")[0] <= most
    assert lines(one.log, "127.0.0.3 was refused", 1) == [
        f"warn 127.0.0.3 was refused with 403: POST /q/{queue}: "
        "127.0.0.3 is not let into [rest:producer] by its access rules"
    ]
    until(lambda: told("127.0.0.1")[1] == 3)
    assert told("127.0.0.1")[0] <= most
    first = lines(one.log, "127.0.0.1 was refused", 1)[0]
    assert first.startswith(f"warn 127.0.0.1 was refused with 401: GET /q/{queue}: [rest:consumer] requires")
    assert "hunter2" not in one.log.read_text()


def test_refusals_of_very_many_addresses_do_not_fill_the_log(start: Any) -> None:
    one = start("[server]\nxheaders = true\n[rest:producer]\nhosts_deny = all\n")
    head = b"Host: localhost\r\nContent-Length: 0\r\n"
    asked = [b"POST /q/x HTTP/1.1\r\nX-Real-IP: 10.0.%d.%d\r\n%b\r\n" % (n >> 8, n & 255, head) for n in range(1000)]
    began = time.monotonic()
    assert raw(one, b"".join(asked)).count(b"HTTP/1.1 403 ") == 1000
    most = 51 * (time.monotonic() - began + 2)

    def told() -> list[int]:
        found = re.findall(r"(?m)(10\.0\.\S+ was refused|\d+ requests of further addresses)", one.log.read_text())
        return [int(line.split()[0]) if "further" in line else 1 for line in found]

    until(lambda: sum(told()) == 1000)
    assert len(told()) <= most


# Live consumers


@pytest.mark.parametrize("transport", ["comet", "sse"])
def test_a_live_consumer_that_joins_and_leaves_is_a_line_each(instance: Any, queue: str, transport: str) -> None:
    path = {"comet": "c", "sse": "sse"}[transport]
    listener = Listener(instance.port, f"/{path}/{queue},{queue}.b")
    joined = f"info 127.0.0.1 joined {transport} of {queue},{queue}.b"
    assert lines(instance.log, queue, 1) == [joined]
    for value in ("a", "b", "c"):
        instance.form(f"/q/{queue}", f"value={value}")
    listener.until(lambda reader: b'"c"' in reader.body)
    listener.socket.close()
    assert lines(instance.log, queue, 2) == [
        joined,
        f"info 127.0.0.1 left {transport} of {queue},{queue}.b after 3 elements: the client left",
    ]


def test_a_websocket_that_leaves_tells_why(instance: Any, queue: str) -> None:
    with Talker(instance.port, f"/ws/{queue}") as ws:
        instance.form(f"/q/{queue}", "value=x")
        ws.recv()
    with Talker(instance.port, f"/ws/{queue}") as ws:
        ws.send(b"binary")
        with pytest.raises(ConnectionClosed):
            ws.recv()
    wrong = Listener(instance.port, f"/ws/{queue}", HANDSHAKE)
    wrong.socket.sendall(b"\x81\x00")  # not masked
    found = lines(instance.log, f"left websocket of {queue}", 3)
    assert found[:2] == [
        f"info 127.0.0.1 left websocket of {queue} after 1 elements: the client closed it",
        f"info 127.0.0.1 left websocket of {queue} after 0 elements: commands are JSON in text messages",
    ]
    assert "after 0 elements: it sent bytes that are not WebSocket: " in found[2]
    wrong.socket.close()
    assert len(lines(instance.log, f"joined websocket of {queue}", 3)) == 3


def test_the_end_of_the_instance_and_of_a_permission_are_told(start: Any, queue: str) -> None:
    one = start("[live]\nheartbeat = 0.3\n[sse:consumer]\n")
    comet, sse = Listener(one.port, f"/c/{queue}"), Listener(one.port, f"/sse/{queue}")
    one.conf.write_text("[live]\nheartbeat = 0.3\n[sse:consumer]\nhosts_deny = all\n")
    sse.until_end()
    assert lines(one.log, "left sse", 1) == [
        f"info 127.0.0.1 left sse of {queue} after 0 elements: "
        "127.0.0.1 is not let into [sse:consumer] by its access rules"
    ]
    one.stop()
    comet.until_end()
    left = lines(one.log, "left comet", 1)[0]
    assert re.fullmatch(f"info 127.0.0.1 left comet of {queue} after 0 elements: .+", left)


def test_a_line_names_ten_queues_of_a_hundred(instance: Any, queue: str) -> None:
    names = [f"{queue}.{number}" for number in range(100)]
    Listener(instance.port, "/c/" + ",".join(names)).socket.close()
    assert lines(instance.log, f"joined comet of {queue}.0", 1) == [
        f"info 127.0.0.1 joined comet of {','.join(names[:10])} and 90 more"
    ]


# The access log


def some_requests(one: Any, queue: str) -> list[str]:
    """Ask for this and that; answers what the access log must have of it, without the milliseconds."""
    wanted = []
    for method, target, body, status, size in [
        ("POST", f"/q/{queue}", "value=x", 200, len(queue) + 4),
        ("POST", f"/q/{queue}?ttl=5m", "value=x", 200, len(queue) + 4),
        ("GET", f"/q/{queue}.none", None, 204, 0),
        ("GET", "/caf%C3%A9%0a%0d%20", None, 404, None),
        ("PUT", "/", "x", 405, None),
        ("GET", "/q/x?password=hunter2&p%41ssword=hunter2&a=b&token=&auth", None, 400, None),
    ]:
        got, _, answer = one.http(method, target, body, FORM)
        assert got == status
        shown = target.replace("=hunter2", "=***").replace("token=", "token=***")
        wanted.append(f"127.0.0.1 {method} {shown} {status} {len(answer) if size is None else size}")
    return wanted


def test_access_log_yes_writes_a_line_a_request_into_the_log(start: Any, queue: str) -> None:
    one = start("[server]\naccess_log = yes\n")
    wanted = some_requests(one, queue)
    raw(one, b"GET /r\xe9\xffd?x=\x80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    raw(one, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\nb\r\n\r\n")
    Listener(one.port, f"/c/{queue}").socket.close()
    log = one.stop()
    written = re.findall(rf"(?m)^{STAMP} info (\S+ \S+ \S+ \d+ \d+) \d+\.\d\d$", log)
    written = [line for line in written if "/readyz" not in line]
    assert written[:6] == wanted
    assert written[6].startswith("127.0.0.1 GET /r\\xe9\\xffd?x=\\x80 404 ")
    assert written[7].startswith("127.0.0.1 - - 400 ")
    assert written[8].startswith(f"127.0.0.1 GET /c/{queue} 200 ")
    assert len(written) == 9
    assert "hunter2" not in log


def test_access_log_with_a_path_writes_into_that_file(start: Any, queue: str) -> None:
    one = start("[server]\naccess_log = ./access.log\n")
    wanted = some_requests(one, queue)
    path = one.folder / "access.log"
    written = [line.rpartition(" ")[0] for line in lines(path, " ", 6) if "/readyz" not in line]
    until(lambda: len([line for line in path.read_text().splitlines() if "/readyz" not in line]) == 6)
    written = [line.rpartition(" ")[0] for line in lines(path, " ", 7) if "/readyz" not in line]
    assert written == wanted
    assert path.stat().st_mode & 0o777 == 0o640
    assert f"/q/{queue}" not in one.stop()


class Several(Instance):
    """One of several."""

    options = ("--shared",)


def test_several_instances_write_an_access_log_each(start: Any, queue: str, tmp_path: Path) -> None:
    both = [start(f"[server]\naccess_log = {tmp_path}/access.log\n", kind=Several) for _ in range(2)]
    for one in both:
        assert one.form(f"/q/{queue}", "value=a")[0] == 200
        lines(tmp_path / f"access-{one.port}.log", f"POST /q/{queue} 200", 1)
    assert not (tmp_path / "access.log").exists()


def test_without_access_log_no_request_is_written(instance: Any, queue: str) -> None:
    instance.http("GET", f"/q/{queue}")
    instance.http("DELETE", f"/q/{queue}.then")
    lines(instance.log, f"{queue}.then", 1)
    assert f"/q/{queue}" not in instance.log.read_text()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("./nowhere/access.log", "access_log: .*/nowhere/access.log cannot be opened"),
        ("yse", "access_log: it takes yes, no, or the path of a file"),
    ],
)
def test_an_access_log_that_cannot_be_opened_is_told_at_the_start(start: Any, setting: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        start(f"[server]\naccess_log = {setting}\n")


# Passwords


def test_no_password_is_ever_written(start: Any, queue: str) -> None:
    secret = "hunter2"
    sections = ("rest:producer", "rest:consumer", "websocket:consumer", "comet:consumer", "admin")
    rules = "".join(f"[{name}]\nusername = jo\npassword = {secret}\n" for name in sections)
    one = start("[server]\naccess_log = yes\n[live]\nheartbeat = 0.3\n" + rules)
    ours = f"http://127.0.0.1:{one.port}"
    shown = []
    for word in (f"jo:{secret}", f"jo:not-{secret}"):
        shown.append("Basic " + base64.b64encode(word.encode()).decode())
        for headers in (
            {"Authorization": shown[-1]},
            {"Authorization": "Bearer " + secret},
            {"Cookie": f"auth={word}", "Origin": ours},
            {"Origin": f"http://jo:{secret}@evil.example"},
            {"Referer": f"http://jo:{secret}@evil.example/?password={secret}"},
            {"X-Password": secret},
        ):
            for method, path in [
                ("POST", f"/q/{queue}?password={secret}"),
                ("GET", f"/q/{queue}?pass%77ord={secret}"),
                ("GET", f"/stats/?auth={secret}&callback=f&token={secret}"),
                ("GET", f"/nothing?password={secret}"),
                ("DELETE", f"/q/{queue}"),
                ("POST", f"/p/{queue}?passwd={secret}"),
                ("GET", f"/queue?body={secret}"),
            ]:
                one.http(method, path, f"value=x&password={secret}" if method == "POST" else None, {**FORM, **headers})
            for kind in ("c", "sse", "ws"):
                lead = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                Listener(one.port, f"/{kind}/{queue}", lead + (HANDSHAKE if kind == "ws" else "")).socket.close()
    raw(one, f"GET http://jo:{secret}@127.0.0.1/q/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    raw(one, f"GET /q/x HTTP/1.1\r\nHost: jo:{secret}@127.0.0.1\r\n\r\n".encode())
    raw(one, f"GET /q/x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization {secret}\r\n\r\n".encode())
    one.conf.write_text(one.conf.read_text().replace(secret, secret + "-next"))
    lines(one.log, "read again", 1)
    one.conf.write_text(one.conf.read_text().replace("password = ", "passwort = "))
    lines(one.log, "stay as they were", 1)
    log = one.stop()
    assert f"127.0.0.1 purged the queue {queue}" in log  # the right password was among them
    assert secret not in log
    for word in shown:
        assert word.split()[1] not in log
