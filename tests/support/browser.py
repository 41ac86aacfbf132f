"""A real browser: Chromium without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


def chromium(profile: Path, scripts: bool = True, more: Sequence[str] = ()) -> Any:
    """Debian's Chromium, without a screen; `more` are flags of its command line."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium is not installed"
    for flag in (*FLAGS.split(), *more):
        options.add_argument(flag)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))


def complaints(browser: Any) -> list[str]:
    """What the browser's console says: errors, and breaches of the page's policy."""
    return [line["message"] for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


def patiently(browser: Any) -> WebDriverWait[Any]:
    """What waits. The page that was left may still be there when a click returns, and go while one looks at it."""
    return WebDriverWait(browser, 20, ignored_exceptions=[WebDriverException])
