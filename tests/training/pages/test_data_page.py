"""The data report's page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.reports.rows import report_on
from hotswap.training.pages.data import as_html
from tests.browser import chromium, window
from tests.training.rows import examples_of

LONG = "a-name-without-any-space-" * 8


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module", params=("classes", "free answers"))
def page_file(
    request: pytest.FixtureRequest, base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A report with all its parts: a histogram, bars, an error, warnings, long names."""
    free = request.param != "classes"
    rows = [
        {"question": f"{i * 7919} asks", "answer": f"{LONG[: 9 + i % 3]}{i if free else ''}"}
        for i in range(60)
    ]
    rows += [{"question": f" {LONG} " * 3, "answer": rows[0]["answer"]}, {**rows[1], "answer": ""}]
    examples = examples_of(rows, f"{LONG}.jsonl")
    files = {"train": (Path(f"{LONG}.jsonl"), examples)}
    report = report_on(files, base, base.prompt_format(), max_length=60)
    assert report.num_errors >= 2
    assert report.num_warnings
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(as_html(report), encoding="utf-8")
    return path


def shown(page: Page, file: Path) -> None:
    """Open the page; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert (complaints, asked) == ([], [file.as_uri()])


@pytest.mark.parametrize("width", [320, 360, 700, 1200])
def test_page_never_scrolls_sideways(browser: Browser, page_file: Path, width: int) -> None:
    with window(browser, width=width) as page:
        shown(page, page_file)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        beyond = page.evaluate(
            """() => [...document.body.querySelectorAll('*')]
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                .map(e => e.tagName)"""
        )
        assert beyond == []
        assert page.locator("svg rect").count() > 3
        bars = [bar.bounding_box() for bar in page.locator(".bars svg").all()]
        assert min(box["width"] for box in bars if box) >= min(width, 960) / 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_legible_in_the_scheme_that_is_asked_for(
    browser: Browser, page_file: Path, scheme: Literal["light", "dark"]
) -> None:
    with window(browser, scheme=scheme) as page:
        shown(page, page_file)
        paper = luminance(style(page, "body", "backgroundColor"))
        assert (paper < 0.05) if scheme == "dark" else (paper > 0.9)
        for what, name, least in (
            ("body", "color", 7.0),
            ("strong.error", "color", 4.5),
            ("strong.warning", "color", 4.5),
            ("svg text", "fill", 7.0),
            ("svg rect", "fill", 3.0),
            ("rect.over", "fill", 3.0),
        ):
            assert contrast(paper, luminance(style(page, what, name))) >= least, what


def style(page: Page, selector: str, name: str) -> str:
    found = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")
    assert isinstance(found, str)
    return found


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of `rgb(…)`."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    """WCAG 2's contrast ratio, from 1 to 21."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
