"""RestMQ under a path of a site, as docs/README.nginx says: every link of every page leads to what it names."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest

from tests import ROOT
from tests.support.browser import complaints, patiently
from tests.support.listener import Listener
from tests.support.nginx import Nginx
from tests.support.patience import until
from tests.support.requests import FORM, add, http_call, stats
from tests.support.websocket import Talker

pytestmark = pytest.mark.browser
README = (ROOT / "docs" / "README.nginx").read_text().partition("\nUnder a path\n")[2]
SHORT = "location /mq/ { proxy_pass http://restmq/; proxy_buffering off; }"
PAGES = ["", "queue", "q/", "q/?after=a", "j/{}"]


def block(word: str) -> str:
    """What the README has of these, as it stands there."""
    return "\n".join(re.findall(rf"(?ms)^    {word} .*?^    \}}$", README))


class Under(Nginx):
    """docs/nginx.conf, with RestMQ under /mq/."""

    locations = block("location")

    def write(self, upstreams: list[str], more: str = "") -> None:
        super().write(upstreams, more)
        text = self.conf.read_text()
        text, count = re.subn(r"(?s)        location / \{.*?\n        \}\n", "", text)
        text, counted = re.subn(r"(?s)        location ~ .*?\n        \}\n", self.locations + "\n", text)
        assert (count, counted) == (1, 1)
        self.conf.write_text(text.replace("    upstream restmq", f"{block('map')}\n    upstream restmq"))


class Short(Under):
    """The shorter form, which does for plain names."""

    locations = SHORT


@pytest.fixture(scope="module", params=[Under, pytest.param(Short, marks=pytest.mark.rare)])
def site(request: Any, instance: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of RestMQ there."""
    made = request.param(tmp_path_factory.mktemp("nginx"), [f"127.0.0.1:{instance.port}"])
    yield f"http://127.0.0.1:{made.port}/mq/"
    made.end()


def get(address: str) -> tuple[int, dict[str, str], str]:
    """What a browser gets there."""
    there = urlsplit(address)
    assert there.port and there.path.startswith("/mq/"), address
    status, headers, body = http_call(there.port, "GET", there.path + (f"?{there.query}" if there.query else ""))
    return status, headers, body.decode()


def links(page: str) -> list[str]:
    """All that a page leads to, or loads."""
    return [html.unescape(link) for link in re.findall(r'(?:href|src|action)="([^"]*)"', page)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_every_page_leads_to_what_it_names(instance: Any, site: str, queue: str, page: str) -> None:
    name = quote(queue + "é:'+&%", safe="")
    assert instance.form(f"/q/{name}", "value=v")[0] == 200
    address = site + page.format(name)
    status, headers, text = get(address)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    found = {urljoin(address, link) for link in links(text)}
    assert {site, site + "q/", site + "queue", site + "stats/", site + "static/restmq.css"} <= found
    for link in found:
        assert get(link)[0] == 200, link
    for link in found:
        if re.search("/(peek|dead|stats|ledger|control|settings)/.", link.removeprefix(site.rstrip("/"))):
            assert json.loads(get(link)[2])["queue"] == unquote(name), link
    if page == "j/{}":
        assert len([link for link in found if name in link]) == 9


def test_a_listing_leads_to_the_pages_of_its_queues(instance: Any, site: str, queue: str) -> None:
    add(instance, queue, "v")
    address = site + "q/?after=" + queue[:-1]
    (link,) = [link for link in links(get(address)[2]) if link.endswith(f"/{queue}")]
    assert f"<h1>{queue}</h1>" in get(urljoin(address, link))[2]


def test_the_description_names_its_own_folder_as_the_server(site: str) -> None:
    told = json.loads(get(site + "openapi.json")[2])
    (server,) = told["servers"]
    assert urljoin(site + "openapi.json", server["url"]) == site


def test_the_forms_work_with_and_without_their_script(instance: Any, site: str, browser: Any, queue: str) -> None:
    browser.get(site + "queue")
    command = '{"cmd": "add", "queue": "%s", "value": "v"}' % queue
    field = browser.find_element("id", "body")
    field.clear()
    field.send_keys(command)
    browser.find_element("css selector", "button.main").click()
    patiently(browser).until(lambda page: f'"key": "{queue}:1"' in page.find_element("id", "answer").text)
    assert browser.current_url == site + "queue"
    browser.execute_script("document.getElementById('command').submit()")  # as without a script
    patiently(browser).until(lambda page: f'"key": "{queue}:2"' in page.find_element("id", "answer").text)
    assert browser.current_url == site + "queue"
    assert complaints(browser) == []
    browser.find_element("link text", "queues").click()
    patiently(browser).until(lambda page: page.current_url == site + "q/")
    browser.get(site + "q/?after=" + queue[:-1])
    browser.find_element("link text", queue).click()
    patiently(browser).until(lambda page: page.current_url == site + "j/" + queue)
    sheet = browser.execute_script("return document.styleSheets[0].cssRules.length")
    assert sheet > 5 and complaints(browser) == []


def test_a_page_there_hears_elements_over_both(instance: Any, site: str, browser: Any, queue: str) -> None:
    browser.get(site)
    browser.execute_script(
        "const heard = window.heard = [], at = location.href;"
        f"new EventSource('sse/{queue}').onmessage = event => heard.push(JSON.parse(event.data).value);"
        f"new WebSocket(new URL('ws/{queue}', at.replace('http', 'ws'))).onmessage ="
        " event => heard.push(JSON.parse(event.data).value);"
    )
    until(lambda: stats(instance, queue)["consumers"] == 2)
    add(instance, queue, "v")
    patiently(browser).until(lambda page: page.execute_script("return window.heard") == ["v", "v"])
    browser.get("about:blank")


def test_requests_go_through_as_they_came(instance: Any, tmp_path_factory: pytest.TempPathFactory, queue: str) -> None:
    made = Under(tmp_path_factory.mktemp("nginx"), [f"127.0.0.1:{instance.port}"])
    try:
        status, _, body = http_call(made.port, "POST", f"/mq/q/{queue}%2Fb", "value=x", FORM)
        assert status == 400 and b"the queue name has '/' in it" in body
        assert http_call(made.port, "POST", f"/mq/q/{queue}+%25?delay=1ms", "value=x", FORM)[2].decode() == (
            f"{queue}+%:1\r\n"
        )
        status, headers, _ = http_call(made.port, "GET", "/mq")
        assert (status, urljoin("/mq", headers["location"])) == (301, "/mq/")
        assert http_call(made.port, "GET", f"/q/{queue}")[0] != 200
        there = Listener(made.port, f"/mq/c/{queue}.live")
        talker = Talker(made.port, f"/mq/ws/{queue}.live")
        until(lambda: stats(instance, f"{queue}.live")["consumers"] == 2)
        add(instance, f"{queue}.live", "v")
        assert there.until(lambda c: c.values).values == ["v"]
        there.close()
        talker.close()
    finally:
        made.end()


def test_no_template_has_a_link_that_leaves_the_path() -> None:
    for file in (ROOT / "frontend").glob("*/*"):
        text = Path(file).read_text()
        assert not re.search(r"""(?:href|src|action)="/|fetch\("/|url\(/|location""", text), file
