"""Starting, ending, and Redis going away: a real instance, a real Redis."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.support.instance import Instance
from tests.support.patience import PATIENCE, until
from tests.support.redis_server import RedisServer


def test_sigterm_ends_streams_cleanly_and_logs_no_trouble(start: Any, queue: str) -> None:
    one = start()
    link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
    link.request("GET", f"/c/{queue}")
    stream = link.getresponse()
    one.form(f"/q/{queue}", "value=last")
    assert stream.readline() == b'{"key": "%s:1", "value": "last"}\r\n' % queue.encode()
    one.process.send_signal(signal.SIGTERM)
    assert stream.read() == b""  # the chunks end as they should
    one.process.wait(PATIENCE)
    log = one.stop()
    assert one.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in log


def test_a_consumer_s_disconnect_gives_the_elements_after_it_to_the_queue(instance: Any, queue: str) -> None:
    with socket.create_connection(("127.0.0.1", instance.port)) as link:
        link.sendall(f"GET /c/{queue} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert link.recv(1000).startswith(b"HTTP/1.1 200")
    until(lambda: b'"consumers": 0' in instance.http("GET", f"/stats/{queue}")[2])
    instance.form(f"/q/{queue}", "value=kept")
    assert b'"kept"' in instance.http("GET", f"/q/{queue}")[2]


def test_redis_away_is_503_and_live_consumers_stay(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "instance").mkdir()
    redis = RedisServer(tmp_path / "redis")
    one = Instance(tmp_path / "instance", redis.address)
    try:
        link = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
        link.request("GET", "/c/away")
        stream = link.getresponse()
        assert one.form("/q/kept", "value=before")[0] == 200
        time.sleep(1.2)  # everysec
        redis.stop()
        until(lambda: one.form("/q/away", "value=x")[0] == 503)
        status, headers, body = one.http("GET", "/q/kept")
        assert (status, headers["retry-after"]) == (503, "1")
        assert b'"stored": "no"' in body
        assert one.http("GET", "/healthz")[0] == 200
        assert one.http("GET", "/readyz")[0] == 503
        sse = one.http("GET", "/sse/another")
        assert sse[0] == 200 and b"retry:" in sse[2]
        redis.start()
        until(lambda: one.http("GET", "/readyz")[0] == 200)
        assert b'"before"' in one.http("GET", "/q/kept")[2]
        until(lambda: b'"consumers": 1' in one.http("GET", "/stats/away")[2])
        assert one.form("/q/away", "value=after")[0] == 200
        assert b'"after"' in stream.readline()
    finally:
        log = one.stop()
        redis.stop()
    assert "Traceback" not in log


def test_two_instances_share_a_queue(instance: Any, other: Any, queue: str) -> None:
    one, two = instance, other
    heard: dict[int, list[bytes]] = {}

    def listen(instance: Any, lines: list[bytes]) -> None:
        link = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=PATIENCE)
        link.request("GET", f"/c/{queue}")
        answer = link.getresponse()
        while len(lines) < 150:
            lines.append(answer.readline())

    threads = []
    for number, instance in enumerate((one, two, two)):
        heard[number] = []
        threads.append(threading.Thread(target=listen, args=(instance, heard[number]), daemon=True))
        threads[-1].start()
    until(lambda: b'"consumers": 3' in one.http("GET", f"/stats/{queue}")[2])
    for n in range(150):
        (one, two)[n % 2].form(f"/q/{queue}", f"value={n}")
    for thread in threads:
        thread.join(PATIENCE)
    assert len(heard[0]) == 150
    assert heard[0] == heard[1] == heard[2]


def test_folders_of_restmq_conf_are_served_in_place_of_our_own_pages(start: Any, tmp_path: Path) -> None:
    static, templates = tmp_path / "own static", tmp_path / "own templates"
    static.mkdir()
    shutil.copytree(ROOT / "frontend" / "template", templates)
    (static / "mine.css").write_text("body { color: teal }")
    (templates / "index.html").write_text("<p>{{ 6 * 7 }} is ours</p>")
    one = start(f"[frontend]\nstatic_path = {static}\ntemplate_path = {templates}\n")
    status, headers, body = one.http("GET", "/static/mine.css")
    assert (status, headers["content-type"], body) == (200, "text/css; charset=utf-8", b"body { color: teal }")
    assert one.http("GET", "/static/restmq.css")[0] == 404
    assert one.http("GET", "/")[2] == b"<p>42 is ours</p>"
    assert b'"cmd": "add"' in one.http("GET", "/queue")[2].replace(b"&#34;", b'"')
