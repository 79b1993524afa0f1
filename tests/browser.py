"""Debian's Chromium, headless, with a profile of its own; Playwright drives it and brings none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from tests.servers import give_up

_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where there is no Chromium; in CI it fails."""
    found = shutil.which("chromium")
    if found is None:
        give_up("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(
    browser: Browser, *, width: int = 1200, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """A page in a window of this width that asks for this colour scheme."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    try:
        yield context.new_page()
    finally:
        context.close()
