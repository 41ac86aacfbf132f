"""A real browser: the form at /queue works, and a page hears elements over EventSource and WebSocket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium, without a screen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium is not installed"
    for flag in FLAGS.split():
        options.add_argument(flag)
    profile: Path = tmp_path_factory.mktemp("profile")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    yield driver
    driver.quit()


def complaints(browser: Any) -> list[str]:
    """What the browser's console says: errors, and breaches of the page's policy."""
    return [line["message"] for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


def test_the_form_posts_a_command_and_shows_the_answer(instance: Any, browser: Any, queue: str) -> None:
    browser.get(f"http://localhost:{instance.port}/queue")
    body = browser.find_element(By.ID, "body")
    body.clear()
    body.send_keys('{"cmd": "add", "queue": "%s", "value": "from a browser"}' % queue)
    browser.find_element(By.TAG_NAME, "button").click()
    answer = WebDriverWait(browser, 10).until(lambda page: page.find_element(By.ID, "answer").text)
    assert answer == '{"queue": "%s", "value": "from a browser", "key": "%s:1"}' % (queue, queue)
    assert b'"from a browser"' in instance.http("GET", f"/q/{queue}")[2]
    assert complaints(browser) == []


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
