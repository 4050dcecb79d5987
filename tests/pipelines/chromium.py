"""Headless Chromium, where there is one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VARIABLE = "FUTURE_L1_CHROMIUM"
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
MISSING = f"no browser: install one of {', '.join(BROWSERS)} (Debian: apt install chromium), or set ${VARIABLE}"


def browser_path() -> str | None:
    """The path of Chromium, if it is installed."""
    return os.environ.get(VARIABLE) or next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def chromium(path: str) -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()
