"""A page of another site in a real browser, over plain http by a name: whatever it tries, it takes and reads nothing.

Over plain http by another name than localhost Chromium sends no Sec-Fetch-Site, and with Referrer-Policy: no-referrer
no Referer either. Each way to make a request is a *shape*; the server's log tells when its request was answered.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import chromium
from tests.support.instance import Instance, troubles
from tests.support.patience import until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.browser
EVIL, OURS = "evil.test", "mq.test"
FLAGS = ["--host-resolver-rules=MAP *.test 127.0.0.1", "--disable-popup-blocking"]

#: The element is taken by this, if it is let: each GET takes, and each POST goes to /take. AT is the server, Q a queue.
GETS = {
    "img": "<img src='AT/q/Q'>",
    "picture": "<picture><source srcset='AT/q/Q'><img></picture>",
    "css image": "<style>body { background: url(AT/q/Q) }</style>",
    "svg image": "<svg><image href='AT/q/Q'/></svg>",
    "input image": "<input type=image src='AT/q/Q'>",
    "video poster": "<video poster='AT/q/Q'></video>",
    "script": "<script src='AT/q/Q?callback=read'></script>",
    "script of the root": "<script src='AT/?queue=Q&callback=read'></script>",
    "module": "<script type=module src='AT/q/Q?callback=read'></script>",
    "stylesheet": "<link rel=stylesheet href='AT/q/Q'>",
    "prefetch": "<link rel=prefetch href='AT/q/Q'>",
    "preload": "<link rel=preload as=image href='AT/q/Q'>",
    "modulepreload": "<link rel=modulepreload href='AT/q/Q'>",
    "iframe": "<iframe src='AT/q/Q'></iframe>",
    "iframe without an origin": "<iframe sandbox src='AT/q/Q'></iframe>",
    "iframe of Comet": "<iframe src='AT/c/Q'></iframe>",
    "iframe of events": "<iframe src='AT/sse/Q'></iframe>",
    "audio": "<audio preload=auto src='AT/q/Q'></audio>",
    "video": "<video preload=auto src='AT/q/Q'></video>",
    "track": "<video crossorigin><track default src='AT/q/Q'></video>"
    "<script>document.querySelector('track').track.mode = 'showing'</script>",
    "object": "<object data='AT/q/Q'></object>",
    "embed": "<embed src='AT/q/Q'>",
    "form": "<form action='AT/' target=elsewhere><input name=queue value=Q></form><iframe name=elsewhere></iframe>"
    "<script>document.forms[0].submit()</script>",
    "fetch": "<script>fetch('AT/q/Q', {mode: 'no-cors'})</script>",
    "fetch with CORS": "<script>fetch('AT/q/Q').then(answer => answer.text()).then(read)</script>",
    "fetch of Comet": "<script>fetch('AT/c/Q', {mode: 'no-cors'})</script>",
    "fetch of no language": "<script>fetch('AT/q/Q', {mode: 'no-cors', headers: {'Accept-Language': ''}})</script>",
    "fetch of any": "<script>fetch('AT/q/Q', {mode: 'no-cors', headers: {'Accept-Language': 'en,*'}})</script>",
    "XMLHttpRequest": "<script>x = new XMLHttpRequest; x.open('GET', 'AT/q/Q'); x.onload = () => read(x.response);"
    "x.send()</script>",
    "EventSource": "<script>new EventSource('AT/sse/Q').onmessage = event => read(event.data)</script>",
    "window.open": "<script>open('AT/q/Q', '_blank', 'noreferrer')</script>",
    "navigation": "<script>location = 'AT/q/Q'</script>",
    "meta refresh": "<meta http-equiv=refresh content='0; url=AT/q/Q'>",
    "redirect": "<img src='/to?AT/q/Q'>",
    "redirect of a frame": "<iframe src='/to?AT/q/Q'></iframe>",
    "link": "<a href='AT/q/Q' rel=noreferrer>x</a><script>document.links[0].click()</script>",
    "worker": "<script>new Worker(URL.createObjectURL(new Blob([\"importScripts('AT/q/Q?callback=read')\"])))</script>",
}
POSTS = {
    "form POST": "<form method=post action='AT/q/Q/take' target=elsewhere></form><iframe name=elsewhere></iframe>"
    "<script>document.forms[0].submit()</script>",
    "fetch POST": "<script>fetch('AT/q/Q/take', {mode: 'no-cors', method: 'POST'})</script>",
    "a ping": "<a ping='AT/q/Q/take' href='#x'>x</a><script>document.links[0].click()</script>",
    "sendBeacon": "<script>navigator.sendBeacon('AT/q/Q/take')</script>",
    "form that purges": "<form method=post enctype=text/plain action='AT/queue' target=elsewhere>"
    '<input name=\'{"cmd": "take", "queue": "Q", "a": "\' value=\'"}\'></form><iframe name=elsewhere></iframe>'
    "<script>document.forms[0].submit()</script>",
}
SOCKET = "<script>new WebSocket('AT/ws/Q'.replace('http', 'ws')).onmessage = event => read(event.data)</script>"
SHAPES = {**GETS, **POSTS, "WebSocket": SOCKET}
#: What a shape calls when it could read an answer.
READ = "<script>heard = []; read = what => heard.push(what)</script>"


class Pages(http.server.ThreadingHTTPServer):
    """The other site: /page/NAME is a shape, with ?POLICY as its Referrer-Policy; /to?URL is sent on."""

    at, queue = "", ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Page(http.server.BaseHTTPRequestHandler):
    """Answers for Pages."""

    server: Pages

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", query)
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            return
        name = path.rpartition("/")[2].replace("%20", " ")
        text = SHAPES.get(name, "").replace("AT", self.server.at).replace("Q", self.server.queue)
        body = f"<!doctype html><title>{name}</title>{READ}{text}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        if query:
            self.send_header("Referrer-Policy", query)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    """The other site."""
    with Pages() as made:
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that knows the two names."""
    driver = chromium(tmp_path_factory.mktemp("profile"), more=FLAGS)
    yield driver
    driver.quit()


def served(folder: Any, redis: RedisServer, more: str = "") -> Iterator[Instance]:
    """An instance that goes by a name, and tells in its log what it answered."""
    conf = f"[server]\naccess_log = yes\nhosts = {OURS} 127.0.0.1\n[live]\nheartbeat = 0.5\n{more}"
    made = Instance(folder, redis.address, conf)
    yield made
    text = made.stop()
    assert not troubles(text), text


@pytest.fixture(scope="module")
def closed(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One that knows no other origin."""
    yield from served(tmp_path_factory.mktemp("closed"), redis_server)


@pytest.fixture(scope="module")
def friendly(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[Instance]:
    """One that lets the other site in."""
    more = f"[server]\nallowed_origins = http://{EVIL}:{pages.server_port}\n"
    folder = tmp_path_factory.mktemp("friendly")
    conf = f"access_log = yes\nhosts = {OURS} 127.0.0.1\n"
    made = Instance(folder, redis_server.address, more + conf)
    yield made
    text = made.stop()
    assert not troubles(text), text


def visit(browser: Any, pages: Pages, one: Instance, queue: str, shape: str, policy: str) -> list[tuple[str, int]]:
    """Let the browser see a page; what the server answered to it: (method and path, status)."""
    pages.at, pages.queue = f"http://{OURS}:{one.port}", queue
    assert one.form(f"/q/{queue}", "value=secret")[0] == 200
    browser.get(f"http://{EVIL}:{pages.server_port}/page/{shape}{'?' + policy if policy else ''}")
    asked = re.compile(r"127\.0\.0\.1 (\S+ \S*%s\S*|POST /queue) (\d\d\d) " % queue)

    def answered() -> list[tuple[str, int]]:
        found = [(what, int(status)) for what, status in asked.findall(one.log.read_text())]
        return [each for each in found if each[0] != f"POST /q/{queue}" and "/stats/" not in each[0]]

    until(answered, lambda: f"{shape} asked for nothing", 60)
    return answered()


def count(one: Instance, queue: str) -> int:
    """How many elements wait."""
    found: int = json.loads(one.http("GET", f"/stats/{queue}")[2])["len"]
    return found


def heard(browser: Any) -> list[str]:
    """What the page read, of whatever it could."""
    found: list[str] = browser.execute_script("return window.heard || []")
    return found


@pytest.mark.parametrize("policy", ["no-referrer", pytest.param("", marks=pytest.mark.rare)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_page_of_another_site_takes_and_reads_nothing(
    browser: Any, pages: Pages, closed: Instance, queue: str, shape: str, policy: str
) -> None:
    answers = visit(browser, pages, closed, queue, shape, policy)
    assert {status for _, status in answers} == {403}, answers
    assert count(closed, queue) == 1
    assert not heard(browser)


@pytest.mark.parametrize("shape", ["img", "script", "iframe", "form", "fetch", "fetch with CORS", "EventSource",
                                   "WebSocket", "navigation", "form POST", "sendBeacon"])  # fmt: skip
def test_a_page_of_an_allowed_origin_takes(
    browser: Any, pages: Pages, friendly: Instance, queue: str, shape: str
) -> None:
    visit(browser, pages, friendly, queue, shape, "")
    until(lambda: count(friendly, queue) == 0)
    if shape in ("script", "fetch with CORS", "EventSource", "WebSocket"):
        until(lambda: "secret" in str(heard(browser)))


def test_a_person_who_types_an_address_is_told_what_to_do_and_takes_nothing(
    browser: Any, closed: Instance, queue: str
) -> None:
    assert closed.form(f"/q/{queue}", "value=secret")[0] == 200
    browser.get(f"http://{OURS}:{closed.port}/q/{queue}")
    text = json.loads(browser.find_element("tag name", "pre").text)["error"]
    assert "/j/NAME" in text and "POST /q/NAME/take" in text and "curl" in text
    browser.get(f"http://{OURS}:{closed.port}/j/{queue}")
    assert "secret" in browser.page_source
    assert count(closed, queue) == 1


def test_rest_mq_s_own_page_by_a_name_takes_and_hears(browser: Any, closed: Instance, queue: str) -> None:
    browser.get(f"http://{OURS}:{closed.port}/queue")
    browser.set_script_timeout(20)
    got = browser.execute_async_script(
        """
        const [queue, done] = arguments, text = {"Content-Type": "text/plain"};
        (async () => {
            await fetch(`/q/${queue}`, {method: "POST", body: "one", headers: text});
            const taken = (await (await fetch(`/q/${queue}`)).json()).value;
            const source = new EventSource(`/sse/${queue}`);
            source.onopen = () => fetch(`/q/${queue}`, {method: "POST", body: "two", headers: text});
            source.onmessage = event => { source.close(); done([taken, JSON.parse(event.data).value]); };
        })().catch(error => done(String(error)));
        """,
        queue,
    )
    assert got == ["one", "two"]


def test_a_name_that_a_page_gave_this_address_is_answered_421(browser: Any, start: Any, queue: str) -> None:
    one = start()  # without hosts, on loopback
    assert one.form(f"/q/{queue}", "value=secret")[0] == 200
    browser.get(f"http://{EVIL}:{one.port}/q/{queue}")
    assert json.loads(browser.find_element("tag name", "pre").text)["type"] == "urn:restmq:misdirected"
    assert count(one, queue) == 1
