"""Caches between RestMQ and its clients: none of them keeps an answer that hands out, looks or fails."""

from __future__ import annotations

import http.server
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from restmq import web
from tests.support.patience import until
from tests.support.ports import free_port
from tests.support.requests import FORM, add, http_call

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=all:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{behind};
            proxy_cache all;
            proxy_cache_valid any 10m;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
"""


def varnish(folder: Path, port: int, behind: int) -> list[str]:
    """Varnish with the VCL that it has built in, which keeps for two minutes what does not say otherwise."""
    where = ["-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{behind}", "-n", str(folder / "varnish")]
    return ["varnishd", "-F", "-j", "none", *where, "-s", "malloc,16m"]


def nginx(folder: Path, port: int, behind: int) -> list[str]:
    """Nginx that is told to keep every answer."""
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, port=port, behind=behind))
    return ["nginx", "-c", str(conf), "-p", str(folder), "-e", str(folder / "log")]


class Cache:
    """A shared cache in front of an instance."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until(self._serves, seconds=60)
        except BaseException:
            self.end()
            raise

    def _serves(self) -> bool:
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            assert self.process.poll() is None
            return False

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """GET through it."""
        return http_call(self.port, "GET", path)

    def end(self) -> None:
        """End it, and what it started."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture(params=[varnish, nginx])
def cache(request: Any, instance: Any, tmp_path: Path) -> Iterator[Cache]:
    """Varnish, then Nginx."""
    port = free_port()
    made = Cache(request.param(tmp_path, port, instance.port), port)
    yield made
    made.end()


class Counter(http.server.BaseHTTPRequestHandler):
    """Answers how often it was asked, and does not say whether that may be kept."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Count."""
        self.asked.append(self.path)
        body = str(len(self.asked)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("kind", [varnish, nginx])
def test_these_caches_do_keep_what_does_not_say_otherwise(kind: Any, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = free_port()
        cache = Cache(kind(tmp_path, port, server.server_address[1]), port)
        try:
            assert len({cache.get("/kept")[2] for _ in range(3)}) == 1
        finally:
            cache.end()
            server.shutdown()


def test_three_gets_are_given_three_elements(cache: Cache, instance: Any, queue: str) -> None:
    for path in (f"/q/{queue}", f"/?queue={queue}", f"/q/{queue}?max=1"):
        add(instance, queue, "a", "b", "c")
        values = re.findall(rb'"value": "(.)"', b"".join(cache.get(path)[2] for _ in range(3)))
        assert values == [b"a", b"b", b"c"]


def test_what_was_not_there_is_found_when_it_is(cache: Cache, instance: Any, queue: str) -> None:
    for path, nothing in ((f"/q/{queue}", 204), (f"/?queue={queue}", 404)):
        assert cache.get(path)[0] == nothing
        add(instance, queue, "now")
        assert b'"now"' in cache.get(path)[2]
    assert cache.get(f"/q/{queue}/3")[0] == 404
    add(instance, queue, "three")
    assert json.loads(cache.get(f"/q/{queue}/3")[2])["value"] == "three"


def test_looks_are_not_stale(cache: Cache, instance: Any, queue: str) -> None:
    looks = {
        f"/stats/{queue}": '"added": %d',
        f"/ledger/{queue}": '"added": %d',
        f"/peek/{queue}": f'"key": "{queue}:%d"',
        f"/j/{queue}": f"{queue}:%d",
        f"/metrics?match={queue}": 'restmq_queue_added_total{queue="' + queue + '"} %d.0',
    }
    for number in (1, 2, 3):
        add(instance, queue, "x")
        for path, wanted in looks.items():
            assert wanted % number in cache.get(path)[2].decode(), path
    for policy in ("roundrobin", "broadcast"):
        instance.form(f"/p/{queue}", f"policy={policy}")
        assert json.loads(cache.get(f"/p/{queue}")[2])["value"] == policy


def test_a_refusal_is_over_when_its_reason_is(cache: Cache, instance: Any, queue: str) -> None:
    add(instance, queue, "kept")
    instance.form(f"/control/{queue}", "status=stop&what=pull")
    assert cache.get(f"/q/{queue}")[0] == 503
    instance.form(f"/control/{queue}", "status=start")
    assert json.loads(cache.get(f"/q/{queue}")[2])["value"] == "kept"


def heading(port: int, request: str) -> list[str]:
    """The header lines that come for a request's first lines, in lower case."""
    with socket.create_connection(("127.0.0.1", port), 20) as link:
        link.sendall(f"{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = link.recv(65536)
            assert more, answer
            answer += more
    return answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower().split("\r\n")


def test_every_answer_says_once_whether_it_may_be_kept(instance: Any, queue: str) -> None:
    for pattern, handler in web.ROUTES:
        path = pattern.replace("\\", "").replace("/?", "/").replace("(.+)", "restmq.css").replace("([0-9]+)", "1")
        for method in ("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS"):
            if handler.streams and method == "GET":
                continue
            lines = heading(instance.port, f"{method} {path.replace('([^/]+)', queue)} HTTP/1.1")
            said = [line for line in lines if line.startswith("cache-control:")]
            kept = handler.cache == b"no-cache" and method in ("GET", "HEAD")
            assert said == ["cache-control: no-cache" if kept else "cache-control: no-store"], (path, method)


@pytest.mark.parametrize("line", ["GET /none HTTP/1.1", "GET / HTTP/9", "nonsense", "GET /static/none HTTP/1.1"])
def test_so_does_what_is_no_request_and_what_is_not_there(instance: Any, line: str) -> None:
    assert heading(instance.port, line).count("cache-control: no-store") == 1


@pytest.mark.parametrize("transport", ["c", "sse"])
def test_a_stream_is_neither_kept_nor_rewritten(instance: Any, queue: str, listen: Any, transport: str) -> None:
    assert listen(instance, f"/{transport}/{queue}").headers["cache-control"] == "no-store, no-transform"


def test_a_form_that_was_refused_is_not_kept(instance: Any, queue: str) -> None:
    assert instance.http("POST", f"/q/{queue}", "wrong=1", FORM)[1]["cache-control"] == "no-store"
