from __future__ import annotations

import json
import math
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.check import check
from hotswap.training.data.checks.examples import check_examples
from hotswap.training.data.classes import Classes
from hotswap.training.data.duplicates import jaccard
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.reports.rows import report_on
from hotswap.training.data.reports.statistics import Lengths, describe
from hotswap.training.pages.data import as_html
from hotswap.training.settings import TrainingHome
from tests.training.conftest import WriteRows
from tests.training.rows import examples_of, snips

COLUMNS = {"question": "text", "answer": "category"}


def row(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


def codes(*rows: dict[str, str]) -> Counter[str]:
    return Counter(finding.code for finding in check_examples(examples_of(rows)))


def labelled(counts: dict[str, int]) -> list[dict[str, str]]:
    """Rows with nothing in common but their labels."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [
        row(f"{chr(97 + i % 26) * 5} {i * 7919} {label}", label) for i, label in enumerate(labels)
    ]


def test_rows_alike_but_for_case_and_white_space_are_duplicates() -> None:
    assert codes(row("My card", "x"), row("my  CARD ", "X"))["duplicate"] == 1


def test_a_row_is_a_duplicate_of_any_row_with_its_answer() -> None:
    found = codes(row("a", "x"), row("a", "y"), row("a", "y"))
    assert (found["contradiction"], found["duplicate"]) == (1, 1)


def test_nearly_the_same_input_is_told_with_the_line_it_is_near_to() -> None:
    rows = [
        row("Where is the card that I have ordered last week?", "x"),
        row("Something else", "x"),
    ]
    rows.append(row("Where is the card that I have ordered last week", "x"))
    (finding,) = check_examples(examples_of(rows))
    assert (finding.code, finding.where) == ("near_duplicate", "rows.jsonl:3")
    assert "rows.jsonl:1" in finding.text


def test_a_chain_of_near_duplicates_is_named_as_a_whole() -> None:
    text = "Where is the card that I have ordered from you in the spring of last year"
    chain = [text[9 * i :].strip() for i in range(3)]
    assert jaccard(chain[0], chain[1]) > 0.8 > jaccard(chain[0], chain[2])
    rows = [row(chain[0], "x"), row(chain[2], "x"), row("Something else", "x"), row(chain[1], "x")]
    rows.append(row(chain[1].upper(), "x"))
    test = examples_of([row(f"{chain[2]}!", "x")], "test.jsonl")

    findings = check_examples(examples_of(rows), (), test)

    told = [(f.code, f.where) for f in findings]
    assert told == [
        ("duplicate", "rows.jsonl:5"),
        ("near_duplicate", "rows.jsonl:2"),
        ("near_duplicate", "rows.jsonl:4"),
        ("near_leak", "test.jsonl:1"),
    ]
    for finding in findings[1:]:
        assert "3 near-duplicates (rows.jsonl:1, rows.jsonl:2, rows.jsonl:4)" in finding.text


def test_a_test_row_nearly_trained_on_is_a_near_leak_and_names_the_set() -> None:
    train = examples_of([row("Where is the card that I have ordered last week?", "x")])
    test = examples_of([row("Where is the card that I have ordered last week", "x")])
    (finding,) = check_examples(train, (), test)
    assert finding.code == "near_leak"
    assert "test" in finding.text


def test_one_answer_to_most_rows_and_uneven_classes_are_told() -> None:
    found = codes(*labelled({"yes": 60, "no": 2}))
    assert (found["dominant_answer"], found["imbalance"]) == (1, 1)
    assert not codes(*labelled({"yes": 30, "no": 30}))


def test_a_class_that_is_spelt_in_two_ways_is_told_with_its_lines() -> None:
    rows = labelled({"card": 20, "fee": 20})
    rows[3] = row(rows[3]["question"], "Card")
    findings = check_examples(examples_of(rows))
    (finding,) = [finding for finding in findings if finding.code == "spelling"]
    assert finding.where == "rows.jsonl:4"
    assert "'Card'" in finding.text
    assert "'card'" in finding.text


def test_white_space_and_personal_data_are_told() -> None:
    found = codes(row(" a", "b"), row("ask me@mail.example.com", "c  d"))
    assert (found["white_space"], found["personal_data"]) == (2, 1)


def test_white_space_spellings_and_personal_data_are_told_of_rows_held_back_too() -> None:
    train = examples_of(labelled({"card": 20, "fee": 20}))
    asked = [row("ask me@mail.example.com", "Card"), row(" over  there", "fee")]

    findings = check_examples(train, examples_of(asked, "val.jsonl"), examples_of(asked, "t.jsonl"))

    for file in ("val.jsonl", "t.jsonl"):
        told = {(f.code, f.where) for f in findings if f.where.startswith(file)}
        assert told == {
            ("spelling", f"{file}:1"),
            ("personal_data", f"{file}:1"),
            ("white_space", f"{file}:2"),
        }


def test_questions_and_free_answers_in_several_cases_are_told() -> None:
    rows = [row(f"Tell {i * 7919} me", f"It Is {i}") for i in range(40)]
    assert codes(*rows)["casing"] == 0
    for i in (3, 9):
        rows[i] = row(f"tell {i * 7919} me", f"it is {i}")
    found = [f for f in check_examples(examples_of(rows)) if f.code == "casing"]
    assert [f.where for f in found] == ["rows.jsonl:4", "rows.jsonl:4"]
    assert "2 of 40 questions have no capital letters" in found[0].text
    assert "--lower question" in found[0].text
    assert "--lower answer" in found[1].text

    classes = [{**each, "answer": "xY"[i % 2]} for i, each in enumerate(rows)]
    assert codes(*classes)["casing"] == 1
    as_json = [
        {**each, "answer": json.dumps({"K" if i else "k": i})} for i, each in enumerate(rows)
    ]
    assert codes(*as_json)["casing"] == 1


def test_balance_is_entropy_over_the_most_there_can_be() -> None:
    classes = Classes.of(["a"] * 10 + ["b"] * 30)
    assert classes is not None
    shares = np.array([0.25, 0.75])
    assert classes.balance == pytest.approx(float(-(shares * np.log2(shares)).sum()))
    assert Classes.of([str(i) for i in range(40)]) is None


def test_percentiles_and_bins_are_those_of_numpy() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 300, 501)]
    found = Lengths.of(lengths, max_length=200)
    for share, value in ((0.5, found.p50), (0.95, found.p95)):
        assert value == np.percentile(lengths, 100 * share, method="inverted_cdf")
    counts, _ = np.histogram(lengths, bins=[*found.edges[:-1], math.inf])
    assert found.histogram == tuple(counts)
    assert found.num_over == sum(length > 200 for length in lengths)


def test_distinct_shares_count_words_and_pairs_of_words() -> None:
    found = describe(examples_of([row("a b a", "x"), row("a b", "y")]), None, 10)
    assert found.distinct_1 == pytest.approx(2 / 5)
    assert found.distinct_2 == pytest.approx(2 / 3)


class Seen(HTMLParser):
    """The tags of a page, and what would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "onload")]


def test_the_page_shows_a_bar_a_class_and_runs_nothing_of_the_data(base: BaseDirectory) -> None:
    rows = [*labelled({"<script>alert(1)</script>": 20, "b&b": 20}), row(" x", "b&b")]
    files = {"train": (Path("<img src=x>.jsonl"), examples_of(rows))}
    report = report_on(files, base, base.prompt_format(), max_length=60)

    seen = Seen()
    seen.feed(as_html(report))

    assert seen.fetched == []
    assert (seen.tags["script"], seen.tags["img"]) == (0, 0)
    assert report.statistics.lengths is not None
    assert seen.tags["rect"] == 2 + len(report.statistics.lengths.histogram)
    assert report.num_warnings > 0


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(
        check, [str(argument) for argument in arguments], standalone_mode=False
    )


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hotswap.training.commands.check.read_home", lambda _: TrainingHome(tmp_path / "home")
    )


def test_warnings_fail_only_when_asked_and_errors_always(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    data = write_rows([row("a", "b"), row("a", "b")])
    options = ("--base", base.path, "--report", tmp_path / "r.json", "--html", tmp_path / "r.html")

    assert invoke(data, *options).return_value == 0
    assert invoke(data, *options, "--strict").return_value == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["counts"] == {"duplicate": 1}
    assert "duplicate" in (tmp_path / "r.html").read_text()

    too_long = invoke(data, *options, "--max-length", 3)
    assert too_long.return_value == 1
    assert "error: 2 × too_long" in too_long.stdout


def test_banking77_has_four_duplicates_and_seven_leaks(real_data: Path) -> None:
    train, test = (
        read_examples(real_data / "banking77" / name, columns=COLUMNS)
        for name in ("train.csv", "test.csv")
    )
    found = Counter(finding.code for finding in check_examples(train, (), test))
    assert (found["duplicate"] + found["contradiction"], found["leak"]) == (4, 7)
    assert found["casing"] == 2  # questions, of both files
    classes = Classes.of([example.answers[0] for example in train])
    assert classes is not None
    assert len(classes.counts) == 77


def test_snips_has_207_repeated_texts_and_eleven_leaks(real_data: Path) -> None:
    train = snips(real_data, "train_*_full.json")
    validation = snips(real_data, "validate_*.json")
    assert (len(train), len(validation)) == (13784, 700)
    found = Counter(finding.code for finding in check_examples(train, validation))
    assert (found["duplicate"] + found["contradiction"], found["leak"]) == (207, 11)
