"""The form of the decision records: sections, index, links, names of files and tests, sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tests.prose import CODE, ROOT, dead_links, label, long_sentences

FOLDER = ROOT / "DECISIONS"
INDEX = FOLDER / "README.md"
RECORDS = sorted(path for path in FOLDER.rglob("*.md") if path != INDEX)
PAGES = [INDEX, *RECORDS, *sorted((ROOT / "benchmarks" / "results").glob("*.md"))]
SECTIONS = ["Context", "Decision", "Evidence", "Tried and rejected"]


def faults(
    paths: Sequence[Path], faults_of: Callable[[Path], Sequence[str]]
) -> dict[str, Sequence[str]]:
    """The faults by page, of the pages that have any."""
    by_page = {label(path): faults_of(path) for path in paths}
    return {page: listed for page, listed in by_page.items() if listed}


def title(record: Path) -> str:
    return record.read_text().split("\n", 1)[0].removeprefix("# ")


def sections(text: str) -> dict[str, str]:
    _, *parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return {name: part.strip() for name, part in zip(parts[::2], parts[1::2], strict=True)}


@cache
def files_of_the_project() -> list[str]:
    folders = ("registry", "serving", "training", "benchmarks", "examples", "tests")
    files = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    return ["/" + label(path) for path in files]


@cache
def names_of_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}


def is_missing(code: str) -> bool:
    """Whether code names a file or test, and there is none of that name."""
    if re.fullmatch(r"[\w/]+\.(py|c|h|md)", code):
        return not any(path.endswith("/" + code) for path in files_of_the_project())
    return bool(re.fullmatch(r"test_\w+", code)) and code not in names_of_tests()


def test_a_record_has_a_title_a_date_and_its_four_sections() -> None:
    def faults_of(record: Path) -> list[str]:
        text = record.read_text()
        begin = re.match(r"# \S.*\n\nDate: 20\d\d-\d\d-\d\d", text)
        empty = [name for name, part in sections(text).items() if not part]
        missing = [] if list(sections(text)) == SECTIONS else ["sections"]
        return missing + empty + ([] if begin else ["title or date"])

    assert faults(RECORDS, faults_of) == {}


def test_the_evidence_of_a_record_has_a_table() -> None:
    def faults_of(record: Path) -> list[str]:
        evidence = sections(record.read_text())["Evidence"]
        return [] if re.search(r"^\|[ :|-]+\|$", evidence, re.MULTILINE) else ["no table"]

    assert faults(RECORDS, faults_of) == {}


def test_the_index_names_each_record_once_by_its_title() -> None:
    named = re.findall(r"^- \[(.*)\]\(([^)]+)\)", INDEX.read_text(), re.MULTILINE)
    records = [(title(record), record.relative_to(FOLDER).as_posix()) for record in RECORDS]
    assert sorted(named) == sorted(records)


def test_links_lead_to_files() -> None:
    assert faults(PAGES, dead_links) == {}


def test_files_and_tests_that_a_page_names_are_there() -> None:
    def faults_of(page: Path) -> list[str]:
        named = [code.strip("`") for code in CODE.findall(page.read_text())]
        return [name for name in named if is_missing(name)]

    assert faults(PAGES, faults_of) == {}


def test_no_sentence_has_more_than_25_words() -> None:
    assert faults(PAGES, long_sentences) == {}
