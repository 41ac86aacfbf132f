"""A real Nginx with docs/nginx.conf in front of three instances that scripts/restmq-multi.init started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests import ROOT
from tests.support.listener import Listener
from tests.support.load import many
from tests.support.nginx import Nginx
from tests.support.patience import LONG, PATIENCE, until
from tests.support.requests import FORM, batch_add, http_call
from tests.support.site import Site, deployed

#: Milliseconds between the requests of a client; without them the load has the whole machine.
PAUSE = many(0, 10)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Three instances."""
    with deployed(3) as made:
        made.start()
        yield made
        assert "Traceback" not in made.logs()


@pytest.fixture(scope="module")
def nginx(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Nginx in front of them."""
    made = Nginx(tmp_path_factory.mktemp("nginx"), [f"127.0.0.1:{port}" for port in site.ports])
    yield made
    made.end()


class Client(threading.Thread):
    """Does something again and again until it is told to end; keeps what failed."""

    def __init__(self, port: int, turn: Callable[[http.client.HTTPConnection, Client], None]) -> None:
        super().__init__(daemon=True)
        self.port, self.turn, self.over = port, turn, threading.Event()
        self.kept: list[str] = []
        self.failed: list[str] = []
        self.start()

    def run(self) -> None:
        """Turn after turn on one kept connection; Nginx closes it after a thousand requests, and it is made anew."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        while not self.over.is_set():
            try:
                self.turn(link, self)
                time.sleep(PAUSE / 1000)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                link.close()
        link.close()

    def end(self) -> None:
        """Let it finish its turn."""
        self.over.set()
        self.join(PATIENCE)
        assert not self.is_alive()


def producer(port: int, queue: str, name: str) -> Client:
    """POSTs values of its own; keeps those that were acknowledged."""

    def turn(link: http.client.HTTPConnection, me: Client) -> None:
        value = f"{name}.{len(me.kept) + len(me.failed)}"
        link.request("POST", f"/q/{queue}", f"value={value}", FORM)
        answer = link.getresponse()
        body = answer.read()
        if answer.status == 200:
            me.kept.append(value)
        else:
            me.failed.append(f"{answer.status} {body!r}")

    return Client(port, turn)


def consumer(port: int, queue: str) -> Client:
    """Takes; keeps the values it got."""

    def turn(link: http.client.HTTPConnection, me: Client) -> None:
        link.request("GET", f"/q/{queue}")
        answer = link.getresponse()
        body = answer.read()
        if answer.status == 200:
            me.kept.append(json.loads(body)["value"])
        elif answer.status != 204:
            me.failed.append(f"{answer.status} {body!r}")

    return Client(port, turn)


class Load:
    """wrk, until it is told to end."""

    SCRIPT = """
wrk.method, wrk.body = "POST", "value=x"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
function delay() return {} end
"""

    def __init__(self, folder: Path, url: str, *words: str) -> None:
        script = folder / "post.lua"
        script.write_text(self.SCRIPT.format(PAUSE))
        self.process = subprocess.Popen(
            ["wrk", "-t", "1", "-c", "8", "-d", "1000s", "--timeout", "120s", *words, "-s", str(script), url],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, list[str]]:
        """How many requests were answered, and what wrk says of those that were not, or not well."""
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=PATIENCE)[0]
        count = re.search(r"(\d+) requests in", said)
        assert count, said
        return int(count[1]), re.findall(r"(?:Non-2xx|Socket errors).*", said)


def length(port: int, queue: str) -> int:
    """How many elements wait."""
    found: int = json.loads(http_call(port, "GET", f"/stats/{queue}")[2])["len"]
    return found


def test_the_sample_is_a_whole_configuration_that_nginx_accepts() -> None:
    done = subprocess.run(
        ["nginx", "-t", "-c", str(ROOT / "docs" / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr


def test_the_part_to_include_is_accepted_too(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "README.nginx").read_text()
    command = re.search(r"^    (sed .*nginx\.conf)( > \S+)$", text, re.M)
    assert command
    part = subprocess.run(
        ["sh", "-c", command[1].replace("/opt/restmq", str(ROOT))], capture_output=True, text=True, check=True
    ).stdout
    assert part.count("upstream restmq {") == 1 and "http {" not in part
    (tmp_path / "part.conf").write_text(part)
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ include {tmp_path}/part.conf; }}\n")
    subprocess.run(["nginx", "-t", "-c", str(whole)], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:PORT", True),
        ("localhost:PORT", True),
        ("mq.example.com", True),
        ("MQ.example.com:8080", True),
        ("192.168.7.9", True),
        ("[::1]:PORT", True),
        ("[2001:DB8::7]", True),
        ("evil.example", False),
        ("evil.example:PORT", False),
        ("mq.example.com.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("1.evil.example", False),
        ("a1.", False),
        ("restmq", False),
        ("_", False),
        ("[evil.example]", False),
    ],
)
def test_a_name_that_nginx_was_not_told_is_answered_421_and_takes_nothing(
    nginx: Nginx, queue: str, host: str, known: bool
) -> None:
    assert http_call(nginx.port, "POST", f"/q/{queue}", "value=x", FORM)[0] == 200
    for path in (f"/q/{queue}", f"/sse/{queue}?tap=1", "/"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=60)) as link:
            link.request("GET", path, headers={"Host": host.replace("PORT", str(nginx.port))})
            reply = link.getresponse()
            assert reply.status == (200 if known else 421)
            if not known:
                assert reply.getheader("Content-Type") == "application/problem+json"
                assert json.loads(reply.read())["type"] == "urn:restmq:misdirected"
    assert length(nginx.port, queue) == (0 if known else 1)


def test_requests_are_spread_and_the_three_share_their_queues(nginx: Nginx, queue: str) -> None:
    for number in range(9):
        status, _, body = http_call(nginx.port, "POST", f"/q/{queue}", f"value={number}", FORM)
        assert (status, body) == (200, b"%s:%d\r\n" % (queue.encode(), number + 1))
    took = [json.loads(http_call(nginx.port, "GET", f"/q/{queue}")[2])["value"] for _ in range(9)]
    assert took == [str(number) for number in range(9)]
    assert http_call(nginx.port, "GET", f"/q/{queue}")[0] == 204


def test_paths_and_bodies_pass_nginx_unchanged(nginx: Nginx, queue: str) -> None:
    status, _, body = http_call(nginx.port, "POST", "/q/a%2Fb", "value=x", FORM)
    assert status == 400 and b"'/' in it" in body
    status, _, body = http_call(nginx.port, "POST", f"/q/{queue}%C3%A9+1", "value=x", FORM)
    assert (status, body) == (200, f"{queue}é+1:1\r\n".encode())
    big = b"v" * (1 << 20)
    assert http_call(nginx.port, "POST", f"/q/{queue}", big, {"Content-Type": "text/plain"})[0] == 200
    assert json.loads(http_call(nginx.port, "GET", f"/q/{queue}")[2])["value"] == big.decode()
    # What is too large for RestMQ is answered by RestMQ, not by Nginx.
    status, _, body = http_call(nginx.port, "POST", f"/q/{queue}", big + b"v", {"Content-Type": "text/plain"})
    assert status == 413 and b"urn:restmq:" in body
    assert http_call(nginx.port, "GET", "/healthz", None, {"Last-Event-ID": "1@" + "e" * 8000})[0] == 200


def test_comet_hears_an_element_at_once(nginx: Nginx, queue: str) -> None:
    listener = Listener(nginx.port, f"/c/{queue}")
    _each_at_once(nginx, queue, lambda: listener.read(PATIENCE), lambda: listener.values)
    listener.close()


def test_server_sent_events_are_heard_at_once(nginx: Nginx, queue: str) -> None:
    listener = Listener(nginx.port, f"/sse/{queue}")
    assert listener.headers["content-type"].startswith("text/event-stream")
    _each_at_once(nginx, queue, lambda: listener.read(PATIENCE), lambda: listener.values)
    listener.close()


@pytest.mark.parametrize("target", ["/c/{}", "/ws/{}"])
def test_one_that_reads_slowly_through_nginx_is_not_dropped(
    start: Any, listen: Any, tmp_path: Path, queue: str, target: str
) -> None:
    """What Nginx can write to it moves in pieces, which must not be so large that RestMQ takes it for stuck."""
    one = start("[live]\nstall = 4s\nheartbeat = 1s\n[queues]\nhistory = 10000\nhistory_bytes = 256MiB\n")
    (tmp_path / "nginx").mkdir()
    between = Nginx(tmp_path / "nginx", [f"127.0.0.1:{one.port}"])
    try:
        slow = listen(between, target.format(queue), buffer=4096)
        # In one batch: two hundred requests may take longer than `stall`, in which nothing would be read.
        batch_add(one, queue, *(f"{number}-".ljust(50_000, "x") for number in range(1, 201)))
        slow.socket.settimeout(PATIENCE)
        came, began = b"", time.monotonic()
        while (seconds := time.monotonic() - began) < 12:  # 100 kB/s at the most, however late this is
            while len(came) < 100_000 * seconds:
                data = slow.socket.recv(2048)
                assert data, one.log.read_text()
                came += data
            time.sleep(0.1)
        assert " left " not in one.log.read_text()
        slow.take(came)
        slow.hurry().until(lambda c: c.knows(200))
        assert [value.partition("-")[0] for value in slow.values] == [str(number) for number in range(1, 201)]
    finally:
        between.end()


def test_a_websocket_hears_at_once_and_is_answered(nginx: Nginx, queue: str) -> None:
    with connect(f"ws://127.0.0.1:{nginx.port}/ws/{queue}", open_timeout=PATIENCE, ping_interval=None) as socket_:
        heard: list[str] = []
        _each_at_once(nginx, queue, lambda: heard.append(json.loads(socket_.recv(PATIENCE))["value"]), lambda: heard)
        socket_.send(json.dumps({"cmd": "add", "queue": f"{queue}.other", "value": "x"}))
        assert json.loads(socket_.recv(PATIENCE))["key"] == f"{queue}.other:1"


def _each_at_once(nginx: Nginx, queue: str, read: Callable[[], Any], values: Callable[[], list[str]]) -> None:
    """Each element comes before the next is made: nothing on the way waits for more."""
    until(lambda: json.loads(http_call(nginx.port, "GET", f"/stats/{queue}")[2])["consumers"] == 1)
    for number in range(5):
        http_call(nginx.port, "POST", f"/q/{queue}", f"value={number}", FORM)
        end = time.monotonic() + PATIENCE
        while len(values()) <= number:
            assert time.monotonic() < end, values()
            read()
    assert values() == ["0", "1", "2", "3", "4"]


def test_a_rolling_restart_fails_no_request_and_loses_or_doubles_no_element(
    site: Site, nginx: Nginx, queue: str, tmp_path: Path
) -> None:
    producers = [producer(nginx.port, queue, f"p{number}") for number in range(3)]
    consumers = [consumer(nginx.port, queue) for _ in range(2)]
    load = Load(tmp_path, f"http://127.0.0.1:{nginx.port}/q/{queue}.load")
    before = site.processes()
    for _ in range(many(2, 1)):
        code, said = site.script("rolling")
        assert code == 0, said
    for one in producers:
        one.end()
    acknowledged = [value for one in producers for value in one.kept]
    until(lambda: length(nginx.port, queue) == 0)
    for one in consumers:
        one.end()
    count, bad = load.end()
    after = site.processes()
    assert not set(before.values()) & set(after.values())
    assert (bad, [one.failed for one in [*producers, *consumers]]) == ([], [[]] * 5), nginx.log.read_text()[-1500:]
    took = Counter(value for one in consumers for value in one.kept)
    assert took == Counter(acknowledged) and len(acknowledged) > 100
    # Whose answers wrk did not wait for any more may be stored as well: one a connection.
    assert count <= length(nginx.port, f"{queue}.load") <= count + 8


def test_a_consumer_that_resumes_misses_nothing_in_a_rolling_restart(site: Site, nginx: Nginx, queue: str) -> None:
    listener = Listener(nginx.port, f"/sse/{queue}")
    until(lambda: json.loads(http_call(nginx.port, "GET", f"/stats/{queue}")[2])["consumers"] == 1)
    one = producer(nginx.port, queue, "p")
    rolled: list[tuple[int, str]] = []
    rolling = threading.Thread(target=lambda: rolled.append(site.script("rolling")), daemon=True)
    rolling.start()
    heard: list[str] = []
    last, connections, end = "", 1, time.monotonic() + LONG
    while not one.over.is_set() or listener.ended or len(heard) + len(listener.values) < len(one.kept):
        assert time.monotonic() < end, listener.body[-500:]
        listener.read(0.2)
        if listener.ended:
            heard += listener.values
            last = (listener.ids or [last])[-1]
            listener.close()
            listener = Listener(nginx.port, f"/sse/{queue}", f"Last-Event-ID: {last}\r\n")
            connections += 1
        elif not rolling.is_alive() and not one.over.is_set():
            one.end()
    heard += listener.values
    assert rolled[0][0] == 0 and connections > 1
    assert (one.failed, heard) == ([], one.kept), nginx.log.read_text()[-1500:]
    assert b"event: gap" not in listener.body and b"event: reset" not in listener.body
    listener.close()


def test_new_live_consumers_find_an_instance_that_stays_while_another_ends(
    site: Site, nginx: Nginx, queue: str
) -> None:
    links = [http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=PATIENCE) for _ in range(12)]
    for link in links:  # at the same time: Nginx keeps a connection to an instance for each
        link.request("GET", "/readyz")
    for link in links:
        assert link.getresponse().read()
        link.close()
    subprocess.run(["kill", str(site.processes()[site.first])], check=True)
    until(lambda: not site.answers(site.first))
    listeners = [Listener(nginx.port, f"/c/{queue}") for _ in range(12)]
    assert [one.status for one in listeners] == [200] * 12
    for one in listeners:
        one.close()
    until(lambda: site.script("status")[0] in (1, 3))
    code, said = site.script("start")
    assert code == 0, said
    until(lambda: site.answers(site.first))


def test_nginx_reloads_under_load_and_fails_no_request(nginx: Nginx, queue: str, tmp_path: Path) -> None:
    # With a connection for each request: Nginx closes idle ones when it reloads, and a client must allow for that.
    load = Load(tmp_path, f"http://127.0.0.1:{nginx.port}/q/{queue}", "-H", "Connection: close")
    until(lambda: length(nginx.port, queue) > 0)
    for _ in range(3):
        had = length(nginx.port, queue)
        nginx.reload()
        until(lambda had=had: length(nginx.port, queue) > had)
    count, bad = load.end()
    assert bad == [], nginx.log.read_text()[-1500:]
    assert count <= length(nginx.port, queue) <= count + 8


def connections(port: int) -> int:
    """How many connections there are to a port of this machine, as who opened them sees it (proc(5), /proc/net/tcp)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[2].endswith(f":{port:04X}") and fields[3] == "01" for fields in lines)  # established


def test_a_dead_instance_costs_a_get_nothing_and_at_most_one_post_a_connection_its_answer(
    site: Site, nginx: Nginx, queue: str
) -> None:
    one = producer(nginx.port, queue, "p")
    process = site.processes()[site.first]
    until(lambda: len(one.kept) > 50)
    os.kill(process, signal.SIGSTOP)  # so that Nginx finds out nothing until they are counted
    most = connections(site.first) + 1  # the client may be about to open one
    os.kill(process, signal.SIGKILL)
    had = len(one.kept)
    until(lambda: len(one.kept) > had + 50)
    one.end()
    assert all(failure.startswith("502") for failure in one.failed) and len(one.failed) <= most, one.failed
    code, said = site.script("start")
    assert code == 0, said
    until(lambda: site.answers(site.first))
    values = set()
    while True:
        status, _, body = http_call(nginx.port, "GET", f"/q/{queue}")
        if status != 200:
            break
        values.add(json.loads(body)["value"])
    assert set(one.kept) <= values and len(values) <= len(one.kept) + len(one.failed)


def steady(port: int, queue: str, name: str) -> Client:
    """POSTs with an Idempotency-Key, each again until it is acknowledged, whatever happens meanwhile."""

    def turn(link: http.client.HTTPConnection, me: Client) -> None:
        value = f"{name}.{len(me.kept)}"
        headers = {"Content-Type": "text/plain", "Idempotency-Key": value}
        link.request("POST", f"/q/{queue}", value, headers)
        answer = link.getresponse()
        answer.read()
        if answer.status == 200:
            me.kept.append(value)
        else:
            assert answer.status in (502, 503, 504)
            time.sleep(0.1)

    return Client(port, turn)


def test_a_kill_a_redis_restart_a_reload_and_a_roll_lose_and_double_no_element(
    site: Site, nginx: Nginx, queue: str
) -> None:
    many = [steady(nginx.port, queue, name) for name in "abcd"]

    def goes_on() -> None:
        had = sum(len(one.kept) for one in many)
        until(lambda: sum(len(one.kept) for one in many) > had + 100, site.logs)

    goes_on()
    subprocess.run(["kill", "-KILL", str(site.processes()[site.first + 1])], check=True)
    goes_on()
    code, said = site.script("start")
    assert code == 0, said
    until(lambda: site.answers(site.first + 1))
    site.redis.stop()
    site.redis.start()
    site.redis.socket.chmod(0o777)
    goes_on()
    nginx.reload()
    goes_on()
    code, said = site.script("rolling")
    assert code == 0, said
    goes_on()
    for one in many:
        one.end()
    until(lambda: all(site.answers(port) for port in site.ports))
    values = []
    while True:
        status, _, body = http_call(nginx.port, "GET", f"/q/{queue}?max=1000")
        if status != 200:
            break
        values += [said["value"] for said in json.loads(body)]
    kept = [value for one in many for value in one.kept]
    # Each is there once; of each client's last, whose answer it may not have got, at most one more.
    assert len(values) == len(set(values)) and set(kept) <= set(values) and len(values) <= len(kept) + len(many)


def test_a_get_that_an_instance_does_not_answer_is_asked_of_no_other(site: Site, tmp_path: Path, queue: str) -> None:
    front = Nginx(tmp_path, [f"127.0.0.1:{port}" for port in site.ports])
    text, before = front.conf.read_text(), front.workers()
    front.conf.write_text(text.replace("proxy_read_timeout 90s;", "proxy_read_timeout 3s;"))
    front.reload()
    until(lambda: not before & front.workers(), front.log.read_text)  # none is left that waits longer
    for number in range(30):
        assert http_call(front.port, "POST", f"/q/{queue}", f"value={number}", FORM)[0] == 200
    stopped = [site.processes()[port] for port in site.ports[:2]]
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        heard: list[int] = []
        while not {200, 504} <= set(heard) and len(heard) < 20:
            heard.append(http_call(front.port, "GET", f"/q/{queue}")[0])
        assert set(heard) == {200, 504}, heard
        # What was asked of those that are stopped is taken later or never, and not by the third in their place.
        assert length(site.ports[2], queue) == 30 - heard.count(200)
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        front.end()
    until(lambda: all(site.answers(port) for port in site.ports))


# ---- whose request it is


def test_a_page_s_origin_is_compared_with_the_port_that_the_client_used(nginx: Nginx, queue: str) -> None:
    for port, status in ((nginx.port, 200), (nginx.port + 1, 403)):
        headers = {**FORM, "Origin": f"http://127.0.0.1:{port}"}
        assert http_call(nginx.port, "POST", f"/q/{queue}", "value=x", headers)[0] == status


def forwarded(port: int, given: str = "", source: str = "127.0.0.1") -> int:
    """The status of a look at a queue, from an address of this machine, with X-Forwarded-For if wanted."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family) as link:
        link.bind((source, 0))
        link.settimeout(PATIENCE)
        link.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        extra = f"X-Forwarded-For: {given}\r\nX-Real-IP: {given.partition(',')[0]}\r\n" if given else ""
        link.sendall(f"GET /stats/who HTTP/1.0\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode())
        status: int = int(link.recv(1000).split(b" ")[1])
        return status


RULES = "[rest:consumer]\nhosts_allow = {}\nhosts_deny = all\n"


@pytest.mark.parametrize("header", ["X-Real-IP", "X-Forwarded-For"])
def test_the_client_s_address_comes_from_nginx_and_not_from_the_client(start: Any, tmp_path: Path, header: str) -> None:
    conf = f"[server]\nxheaders = true\nxheader = {header}\ntrusted_proxies = 127.0.0.1\n"
    one = start(conf + RULES.format("127.0.0.7"))
    front = Nginx(tmp_path, [f"127.0.0.1:{one.port}"])
    try:
        assert forwarded(front.port, source="127.0.0.7") == 200
        assert forwarded(front.port, source="127.0.0.8") == 403
        assert forwarded(front.port, "127.0.0.7", source="127.0.0.8") == 403
        # Past Nginx: the trusted address may say who it is, another may not.
        assert forwarded(one.port, "127.0.0.7") == 200
        assert forwarded(one.port, "127.0.0.7", source="127.0.0.8") == 403
    finally:
        front.end()


def test_of_a_list_the_right_most_address_that_is_no_proxy_counts(start: Any, tmp_path: Path) -> None:
    trusted = "[server]\nxheaders = true\nxheader = X-Forwarded-For\ntrusted_proxies = 127.0.0.1 127.0.0.9 ::1\n"
    one = start(trusted + RULES.format("198.51.100.7 2001:db8::/32 127.0.0.5"))
    front = Nginx(tmp_path, [f"127.0.0.1:{one.port}"], listen=())
    front.write([f"127.0.0.1:{one.port}"], "        listen [::1]:%d;\n" % front.port)
    front.reload()
    try:
        assert forwarded(front.port, source="127.0.0.5") == 200
        assert forwarded(front.port, source="127.0.0.6") == 403
        # 127.0.0.6 is no proxy: what it says of others is not believed, nor is what it invents.
        assert forwarded(front.port, "198.51.100.7", source="127.0.0.6") == 403
        assert forwarded(front.port, "127.0.0.5, 198.51.100.8", source="127.0.0.6") == 403
        # 127.0.0.9 is another proxy, in front of Nginx.
        assert forwarded(front.port, "198.51.100.7", source="127.0.0.9") == 200
        assert forwarded(front.port, "198.51.100.8", source="127.0.0.9") == 403
        assert forwarded(front.port, "198.51.100.8, 198.51.100.7", source="127.0.0.9") == 200
        assert forwarded(front.port, "198.51.100.7, 198.51.100.8", source="127.0.0.9") == 403
        assert forwarded(front.port, "198.51.100.7, 127.0.0.9", source="127.0.0.9") == 200
        assert forwarded(front.port, "2001:db8::17", source="127.0.0.9") == 200
        assert forwarded(front.port, "2001:db9::17", source="127.0.0.9") == 403
        assert forwarded(front.port, "2001:DB8:0::0017", source="::1") == 200
        assert forwarded(front.port, "nonsense", source="127.0.0.9") == 403
    finally:
        front.end()


def test_a_proxy_that_is_not_trusted_is_the_client_itself(start: Any, tmp_path: Path) -> None:
    one = start("[server]\nxheaders = true\ntrusted_proxies = 10.0.0.0/8\n" + RULES.format("127.0.0.7"))
    front = Nginx(tmp_path, [f"127.0.0.1:{one.port}"])
    try:
        assert forwarded(front.port, source="127.0.0.7") == 403
        assert forwarded(one.port, "127.0.0.7") == 403
        assert forwarded(one.port, source="127.0.0.7") == 200
    finally:
        front.end()


@pytest.mark.rare
def test_unix_sockets_behind_nginx_know_their_clients_and_roll_as_well(
    site: Site, tmp_path_factory: pytest.TempPathFactory, queue: str, tmp_path: Path
) -> None:
    sockets = site.folder / "sockets"
    sockets.mkdir()
    subprocess.run(["chown", site.user, str(sockets)], check=True)
    before = site.conf.read_text()
    site.configure(before + RULES.format("127.0.0.1 127.0.0.7"))
    code, said = site.script("rolling", SOCKETS=str(sockets))
    assert code == 0, said
    front = Nginx(tmp_path_factory.mktemp("unix"), [f"unix:{sockets}/{port}.sock" for port in site.ports])
    try:
        assert forwarded(front.port, source="127.0.0.7") == 200
        assert forwarded(front.port, source="127.0.0.8") == 403
        assert forwarded(front.port, "127.0.0.7", source="127.0.0.8") == 403
        one = producer(front.port, queue, "p")
        load = Load(tmp_path, f"http://127.0.0.1:{front.port}/q/{queue}.load")
        code, said = site.script("rolling", SOCKETS=str(sockets))
        one.end()
        count, bad = load.end()
        assert code == 0, said
        assert (bad, one.failed) == ([], []), front.troubles()
        assert length(front.port, queue) == len(one.kept)
        assert count <= length(front.port, f"{queue}.load") <= count + 8
    finally:
        front.end()
        site.configure(before)
        assert site.script("rolling")[0] == 0
