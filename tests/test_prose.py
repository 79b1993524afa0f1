"""What people read: sentences are short, links lead somewhere, and the README is no manual."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prose import ROOT, dead_links, label, long_sentences, paragraphs, sentences

PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MADE_BY_THE_SITE = "reference/"

each_page = pytest.mark.parametrize("page", PAGES, ids=map(label, PAGES))


@each_page
def test_no_sentence_has_more_than_25_words(page: Path) -> None:
    assert long_sentences(page) == []


@each_page
def test_links_lead_to_files(page: Path) -> None:
    assert [target for target in dead_links(page) if MADE_BY_THE_SITE not in target] == []


def test_the_readme_has_about_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_sentences_end_at_points_and_not_in_abbreviations_numbers_or_code() -> None:
    text = "It took 2.5 ms, e.g. in `a. b`. See [the list](x.md). Nothing else!"
    parts = ["It took 2.5 ms, e.g. in `code`.", "See the list.", "Nothing else!"]
    assert sentences(text) == parts


def test_prose_is_what_is_no_table_heading_or_code() -> None:
    text = "# Title\n\nA line\nand more.\n\n    code\n\n1. An item.\n\n"
    text += "    ```bash\n    ls\n    ```\n\n| a |\n"
    assert paragraphs(text) == ["A line and more.", "An item."]
