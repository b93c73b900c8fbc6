"""Chromium without a window, for the pages that npgpt writes: -m browser."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = (  # no screen, no request of its own, nothing kept
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator:
    """A driver; skips the test where there is no Chromium or no selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def open_page(browser, path: Path, hash: str = "") -> None:
    """Load a page anew and wait until it has drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get("about:blank")
    browser.get(f"{path.as_uri()}#{hash}")
    ready = "return document.documentElement.dataset.ready"
    WebDriverWait(browser, 60, 0.02).until(lambda b: b.execute_script(ready))


def look(browser, width: int, height: int = 900, dark: bool = False) -> None:
    """The size of the window, and what the system's colours are."""
    metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def requests(browser) -> list[str]:
    """The addresses that were asked for since the last call."""
    messages = [json.loads(e["message"]) for e in browser.get_log("performance")]
    return [
        message["message"]["params"]["request"]["url"]
        for message in messages
        if message["message"]["method"] == "Network.requestWillBeSent"
    ]


def complaints(browser) -> list[str]:
    """What the browser's console says since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")]


def screenshot(browser, path: Path) -> None:
    """The whole page as PNG."""
    size = browser.execute_script(
        "const e = document.documentElement; return [e.clientWidth, e.scrollHeight]"
    )
    clip = dict(x=0, y=0, width=size[0], height=size[1], scale=1)
    settings = dict(format="png", captureBeyondViewport=True, clip=clip)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", settings)
    path.write_bytes(base64.b64decode(shot["data"]))
