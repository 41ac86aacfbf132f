"""A real browser: the form at /queue works, and a page hears elements over EventSource and WebSocket."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.browser import chromium, complaints, patiently
from tests.support.listener import Listener
from tests.support.patience import LONG, PATIENCE, until
from tests.support.proxy import Carrier
from tests.support.requests import batch_add, stats, texts
from tests.support.tls import Secure, certify

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def plain_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that runs no scripts."""
    driver = chromium(tmp_path_factory.mktemp("plain"), scripts=False)
    yield driver
    driver.quit()


def test_the_form_posts_a_command_and_shows_the_answer(instance: Any, browser: Any, queue: str) -> None:
    browser.get(f"http://localhost:{instance.port}/queue")
    assert browser.find_element(By.CLASS_NAME, "here").text == f"http://localhost:{instance.port}/"
    body = browser.find_element(By.ID, "body")
    body.clear()
    body.send_keys('{"cmd": "add", "queue": "%s", "value": "from a browser"}' % queue)
    browser.find_element(By.TAG_NAME, "button").click()
    answer = WebDriverWait(browser, 10).until(lambda page: page.find_element(By.ID, "answer").text)
    assert answer == '{"queue": "%s", "value": "from a browser", "key": "%s:1"}' % (queue, queue)
    assert b'"from a browser"' in instance.http("GET", f"/q/{queue}")[2]
    assert complaints(browser) == []


def test_on_a_narrow_screen_nothing_sticks_together(instance: Any, browser: Any) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(f"http://localhost:{instance.port}/queue")
        place = "return arguments[0].getBoundingClientRect()"
        links = [browser.execute_script(place, link)["top"] for link in browser.find_elements(By.CSS_SELECTOR, "nav a")]
        assert len(links) > 3 and len(set(links)) == 1
        answer, other = (browser.find_element(By.CSS_SELECTOR, f"#{form} h2") for form in ("command", "examples"))
        box = browser.execute_script(place, browser.find_element(By.ID, "answer"))
        assert browser.execute_script(place, other)["top"] - box["bottom"] >= 16
        for style in ("font-size", "font-weight", "margin-top"):
            assert answer.value_of_css_property(style) == other.value_of_css_property(style), style
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def write(browser: Any, command: str) -> Any:
    """Put a command into the form and send it. Returns the form's field."""
    body = browser.find_element(By.ID, "body")
    body.clear()
    body.send_keys(command)
    browser.find_element(By.CSS_SELECTOR, "button.main").click()
    return body


def shown(browser: Any, part: str) -> None:
    """Wait for an answer."""
    patiently(browser).until(lambda page: part in page.find_element(By.ID, "answer").text)


def test_without_scripts_the_form_shows_the_answer_on_its_page(instance: Any, plain_browser: Any, queue: str) -> None:
    browser = plain_browser
    browser.get(f"http://localhost:{instance.port}/queue")
    assert browser.find_element(By.ID, "answer").text == ""
    for command, answer in [
        ('{"cmd": "add", "queue": "%s", "value": "<b>é"}', '{"queue": "%s", "value": "<b>\\u00e9", "key": "%s:1"}'),
        ('{"cmd": "take", "queue": "%s"}', '{"queue": "%s", "value": "<b>\\u00e9", "key": "%s:1"}'),
        ('{"cmd": "take", "queue": "%s"}', '{"error": "empty queue"}'),
    ]:
        field = write(browser, command.replace("%s", queue))
        # Two commands have the same answer: it must be the next page that shows it.
        patiently(browser).until(staleness_of(field))
        shown(browser, answer.replace("%s", queue))
        assert browser.find_element(By.ID, "body").get_attribute("value") == command.replace("%s", queue)
    write(browser, '{"cmd": ')
    shown(browser, "this is not JSON")
    assert browser.find_element(By.ID, "answer").get_attribute("class") == "error"
    assert browser.current_url.endswith("/queue")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_click_on_an_example_sends_it(instance: Any, browser: Any, plain_browser: Any, scripts: bool) -> None:
    browser = browser if scripts else plain_browser
    browser.get(f"http://localhost:{instance.port}/queue")
    examples = browser.find_elements(By.CSS_SELECTOR, "#examples button")
    assert [example.text.split('"')[3] for example in examples] == ["add", "get", "take", "del"]
    examples[0].click()
    shown(browser, '"key": "test:')
    assert b'"value": "oi"' in instance.http("GET", "/q/test")[2]


@pytest.mark.parametrize(
    "opening",
    [
        "new EventSource('/sse/{queue}').onmessage = event => heard.push(event.data); heard.length;",
        "const socket = new WebSocket(`ws://${location.host}/ws/{queue}`);"
        "socket.onmessage = event => heard.push(event.data);",
    ],
    ids=["EventSource", "WebSocket"],
)
def test_a_page_hears_an_element(instance: Any, browser: Any, queue: str, opening: str) -> None:
    browser.get(f"http://localhost:{instance.port}/")
    browser.execute_script("const heard = window.heard = [];" + opening.replace("{queue}", queue))
    WebDriverWait(browser, 10).until(lambda _: b'"consumers": 1' in instance.http("GET", f"/stats/{queue}")[2])
    instance.form(f"/q/{queue}", "value=seen")
    heard = WebDriverWait(browser, 10).until(lambda page: page.execute_script("return window.heard"))
    assert heard == ['{"key": "%s:1", "value": "seen"}' % queue]
    assert complaints(browser) == []


@pytest.fixture
def page_elsewhere(tmp_path: Path) -> Iterator[str]:
    """The address of a page of another origin."""
    (tmp_path / "index.html").write_text("<title>elsewhere</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_of_an_allowed_origin_produces_consumes_and_hears(
    start: Any, browser: Any, queue: str, page_elsewhere: str
) -> None:
    one = start(f"[server]\nallowed_origins = {page_elsewhere}\n")
    browser.get(page_elsewhere)
    browser.set_script_timeout(PATIENCE)
    got = browser.execute_async_script(
        """
        const [at, done] = arguments, said = [];
        (async () => {
            const headers = {"Content-Type": "application/json", "Idempotency-Key": "k", "RestMQ-TTL": "1h"};
            said.push(await (await fetch(at, {method: "POST", body: "{}", headers})).text());
            const leased = await fetch(at + "?lease=1m");
            said.push((await leased.json()).value, leased.headers.get("ETag").slice(0, 4));
            const gone = await fetch(at + "/1", {method: "DELETE", headers: {"If-Match": leased.headers.get("ETag")}});
            said.push((await gone.json()).deleted);
            said.push((await fetch(at, {method: "HEAD"})).headers.get("RestMQ-Waiting"));
            const source = new EventSource(at.replace("/q/", "/sse/"));
            source.onopen = () => fetch(at, {method: "POST", body: "live", headers: {"Content-Type": "text/plain"}});
            source.onmessage = event => { source.close(); done([...said, JSON.parse(event.data).value]); };
        })().catch(error => done([...said, String(error)]));
        """,
        f"http://127.0.0.1:{one.port}/q/{queue}",
    )
    assert got == [f"{queue}:1\r\n", "{}", '"1.1', True, "0", "live"]


class Switch(Carrier):
    """Carries connections to an instance until they are cut, all at once."""

    def __init__(self, port: int) -> None:
        self.carried: list[socket.socket] = []
        super().__init__(port)

    def down(self, client: socket.socket, there: socket.socket) -> None:
        self.carried += client, there
        with contextlib.suppress(OSError):  # it was cut
            while data := there.recv(1 << 14):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End what is carried now."""
        while self.carried:
            with contextlib.suppress(OSError):  # gone already
                self.carried.pop().shutdown(socket.SHUT_RDWR)


def test_an_event_source_that_is_cut_off_before_its_first_element_misses_nothing(
    instance: Any, browser: Any, queue: str
) -> None:
    switch = Switch(instance.port)
    browser.get(f"http://localhost:{switch.port}/")
    browser.execute_script(
        "const heard = window.heard = []; window.opened = 0;"
        f"const source = window.source = new EventSource('/sse/{queue}');"
        "source.onopen = () => window.opened += 1; source.onmessage = event => heard.push(event.data);"
    )
    patiently(browser).until(lambda page: page.execute_script("return window.opened") == 1)
    with contextlib.closing(Listener(instance.port, f"/c/{queue}")) as other:  # what it gets is broadcast, and gone
        switch.cut()
        until(lambda: stats(instance, queue)["consumers"] == 1)
        batch_add(instance, queue, *texts(3))
        other.until(lambda c: len(c.values) == 3)
    patiently(browser).until(lambda page: page.execute_script("return window.heard.length") >= 3)
    assert [one.rpartition(" ")[2] for one in browser.execute_script("return window.heard")] == [
        f'"{text}"}}' for text in texts(3)
    ]
    browser.execute_script("window.source.close()")
    switch.server.close()


class Cutter(Carrier):
    """Carries connections to an instance, and cuts those that have carried enough, in the middle of what comes."""

    def __init__(self, port: int, cuts: int, every: int) -> None:
        self.left, self.every = cuts, every
        super().__init__(port)

    def down(self, client: socket.socket, there: socket.socket) -> None:
        carried, stream = 0, False
        try:
            while data := there.recv(1 << 14):
                stream = stream or b"text/event-stream" in data
                carried += len(data)
                if stream and carried > self.every and self.left:
                    client.sendall(data[: len(data) // 2])
                    self.left -= 1
                    if self.left % 2:  # as if the other machine had crashed; else as a proxy that ends
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                client.sendall(data)
        except OSError:
            pass  # the other side has gone
        for each in (client, there):
            with contextlib.suppress(OSError):  # gone already
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def missing(browser: Any, queue: str, count: int) -> str:
    """Which elements a page has not heard, as runs of numbers; and what else it heard."""
    heard = browser.execute_script("return window.heard")
    there = {key.rpartition(":")[2] for key in heard}
    lost = [number for number in range(1, count + 1) if str(number) not in there]
    runs = [number for number in lost if number - 1 not in lost or number + 1 not in lost]
    return f"{len(lost)} are missing: {runs}; of {len(heard)}, {[key for key in heard if queue not in key]}"


def test_an_event_source_that_is_cut_off_again_and_again_has_everything_once_and_in_order(
    start: Any, browser: Any, queue: str
) -> None:
    instance = start("[queues]\nhistory = 10000\nhistory_bytes = 16MiB\n")
    count = 10_000
    cutter = Cutter(instance.port, cuts=10, every=30_000)
    browser.get(f"http://localhost:{cutter.port}/")
    browser.execute_script(
        "const heard = window.heard = [], ids = window.ids = []; window.opened = 0;"
        f"const source = window.source = new EventSource('/sse/{queue}');"
        "source.onopen = () => window.opened += 1;"
        "source.onmessage = event => { heard.push(JSON.parse(event.data).key); ids.push(event.lastEventId); };"
        "for (const kind of ['gap', 'reset']) source.addEventListener(kind, event => heard.push(kind));"
    )
    WebDriverWait(browser, PATIENCE).until(lambda page: page.execute_script("return window.opened"))
    for first in range(0, count, 50):
        batch_add(instance, queue, *texts(50, first))
        time.sleep(0.05)
    until(
        lambda: browser.execute_script(f"return window.heard.length >= {count}"),
        lambda: missing(browser, queue, count),
        LONG,
        0.5,
    )
    assert cutter.left == 0
    assert browser.execute_script("return window.opened") == 11
    assert browser.execute_script("return window.heard") == [f"{queue}:{number}" for number in range(1, count + 1)]
    places = [int(word.partition("@")[0]) for word in browser.execute_script("return window.ids")]
    assert all(one < two for one, two in zip(places, places[1:]))  # what nobody had got yet has a new place
    browser.execute_script("window.source.close()")
    cutter.server.close()


def test_over_tls_a_page_adds_takes_and_hears(start: Any, tmp_path: Path, queue: str) -> None:
    folder = tmp_path / "pems"
    folder.mkdir()
    certify(folder)
    one = start("", kind=lambda place, redis, conf: Secure(place, redis, folder, conf))
    driver = chromium(tmp_path / "profile", more=["--ignore-certificate-errors"])
    try:
        driver.get(f"https://127.0.0.1:{one.port}/queue")
        write(driver, '{"cmd": "add", "queue": "%s", "value": "over TLS"}' % queue)
        shown(driver, f'"key": "{queue}:1"')
        driver.set_script_timeout(PATIENCE)
        got = driver.execute_async_script(
            """
            const [queue, done] = arguments, how = performance.getEntriesByType("navigation")[0].nextHopProtocol;
            (async () => {
                const taken = await (await fetch(`/q/${queue}`)).json(), source = new EventSource(`/sse/${queue}`);
                source.onmessage = event => { source.close(); done([how, taken.value, JSON.parse(event.data).value]); };
                const socket = new WebSocket(`wss://${location.host}/ws/${queue}.other`);
                socket.onopen = () => socket.send(JSON.stringify({cmd: "add", queue, value: "live"}));
            })().catch(error => done(String(error)));
            """,
            queue,
        )
    finally:
        driver.quit()
    assert got == ["http/1.1", "over TLS", "live"]


WRONG = {  # ways in which a page of RestMQ's asks for what it cannot use; each calls done() when it has its answer
    "an EventSource": "const s = new EventSource(URL); s.onerror = () => { s.close(); done(s.readyState) };",
    "a prefetch": "const l = document.createElement('link'); l.rel = 'prefetch'; l.href = URL;"
    " l.onload = l.onerror = () => done(1); document.head.append(l);",
    "a WebSocket": "const w = new WebSocket(URL.replace('http', 'ws')); w.onopen = w.onerror = () => done(1);",
    "a part of it": "fetch(URL, {headers: {Range: 'bytes=5-'}}).then(r => done(r.status));",
    "whether it changed": "fetch(URL, {headers: {'If-None-Match': '\"1.1@e\"'}}).then(r => done(r.status));",
}


@pytest.mark.parametrize("way", WRONG)
@pytest.mark.parametrize("path", ["/q/{}", "/?queue={}", "/q/{}?lease=30s"])
def test_a_page_that_cannot_use_an_element_takes_none(
    instance: Any, browser: Any, queue: str, way: str, path: str
) -> None:
    batch_add(instance, queue, "kept")
    browser.get(f"http://localhost:{instance.port}/queue")
    url = f"http://localhost:{instance.port}{path.format(queue)}"
    script = "const URL = arguments[0], done = arguments[1];" + WRONG[way]
    browser.set_script_timeout(PATIENCE)
    browser.execute_async_script(script, url)
    assert (stats(instance, queue)["len"], stats(instance, queue)["leased"]) == (1, 0)
    complaints(browser)  # which says that these failed
