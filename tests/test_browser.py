"""A real browser: the form at /queue works, and a page hears elements over EventSource and WebSocket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


def chromium(profile: Path, scripts: bool = True) -> Any:
    """Debian's Chromium, without a screen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium is not installed"
    for flag in FLAGS.split():
        options.add_argument(flag)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser as most are."""
    driver = chromium(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def plain_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that runs no scripts."""
    driver = chromium(tmp_path_factory.mktemp("plain"), scripts=False)
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


def write(browser: Any, command: str) -> None:
    """Put a command into the form and send it."""
    body = browser.find_element(By.ID, "body")
    body.clear()
    body.send_keys(command)
    browser.find_element(By.CSS_SELECTOR, "button.main").click()


def shown(browser: Any, part: str) -> None:
    """Wait for an answer. The page that was left may still be there when a click returns, and go meanwhile."""
    WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException]).until(
        lambda page: part in page.find_element(By.ID, "answer").text
    )


def test_without_scripts_the_form_shows_the_answer_on_its_page(
    instance: Any, plain_browser: Any, queue: str
) -> None:
    browser = plain_browser
    browser.get(f"http://localhost:{instance.port}/queue")
    assert browser.find_element(By.ID, "answer").text == ""
    for command, answer in [
        ('{"cmd": "add", "queue": "%s", "value": "<b>é"}', '{"queue": "%s", "value": "<b>\\u00e9", "key": "%s:1"}'),
        ('{"cmd": "take", "queue": "%s"}', '{"queue": "%s", "value": "<b>\\u00e9", "key": "%s:1"}'),
        ('{"cmd": "take", "queue": "%s"}', '{"error": "empty queue"}'),
    ]:
        write(browser, command.replace("%s", queue))
        shown(browser, answer.replace("%s", queue))
        assert browser.find_element(By.ID, "body").get_attribute("value") == command.replace("%s", queue)
    write(browser, '{"cmd": ')
    shown(browser, "this is no JSON")
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
