from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hotswap.registry.cli import cli
from hotswap.training.data.example import Example, Place
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.reports.distances import DISTANCES, Sample, Traits, divergence, form
from hotswap.training.data.reports.drift import Verdict, compare, measure_drift, nearest_cosines
from hotswap.training.errors import InvalidData
from tests.refusals import refused

ITEMS = ("pizza", "burger", "salad", "soup", "pasta")


def examples(texts: list[str]) -> list[Example]:
    return [
        Example(
            ({"role": "user", "content": text}, {"role": "assistant", "content": "yes"}),
            Place("rows.jsonl", line),
        )
        for line, text in enumerate(texts, start=1)
    ]


def orders(start: int, end: int) -> list[str]:
    return [f"please order {i % 7} {ITEMS[i % 5]} for table {i % 9}" for i in range(start, end)]


def figure(name: str, texts: list[str], known: list[str]) -> float:
    (of,) = (distance.of for distance in DISTANCES if distance.name == name)
    return of(*(Sample.of(map(Traits.of, each)) for each in (texts, known)))


def test_requests_like_the_training_rows_are_ok() -> None:
    found = measure_drift(examples(orders(200, 260)), examples(orders(0, 200)))
    assert found.verdict is Verdict.OK
    assert found.findings("log.jsonl") == []


def test_requests_of_another_kind_are_foreign_and_the_strangest_is_named() -> None:
    strange = "SELECT name FROM users WHERE id = 4"
    requests = examples([*orders(0, 3), *[strange] * 9])
    found = measure_drift(requests, examples(orders(0, 200)))
    assert found.verdict is Verdict.FOREIGN
    assert found.most_foreign[0].text == strange
    assert "drift_unseen_words" in {finding.code for finding in found.findings("log.jsonl")}


def alarms(traits: list[Traits], num_requests: int, num_rows: int, seeds: int) -> list[int]:
    """The seeds for which requests drawn from the rows' own source raise an alarm."""
    found = []
    for seed in range(seeds):
        drawn = random.Random(seed).sample(traits, num_requests + num_rows)
        figures = compare(drawn[:num_requests], drawn[num_requests:], seed)
        if any(each.verdict is not Verdict.OK for each in figures):
            found.append(seed)
    return found


@pytest.mark.parametrize("num_requests", [5, 20, 60])
def test_requests_from_the_rows_own_source_raise_no_alarm(num_requests: int) -> None:
    generator = random.Random(1)
    texts = [
        f"please order {generator.randrange(7)} {generator.choice(ITEMS)} for table"
        f" {generator.randrange(9)}{generator.choice(['', '?', ' and be quick', '!' * 3])}"
        for _ in range(400)
    ]
    assert alarms([Traits.of(text) for text in texts], num_requests, 200, seeds=30) == []


def test_real_requests_from_the_rows_own_source_raise_no_alarm(real_data: Path) -> None:
    rows = read_examples(
        real_data / "banking77/train.csv", columns={"question": "text", "answer": "category"}
    )
    texts = [example.messages[0]["content"] for example in random.Random(1).sample(rows, 3000)]
    traits = [Traits.of(text) for text in texts]
    assert alarms(traits, 30, 500, seeds=20) == []
    assert alarms(traits, 200, 1500, seeds=10) == []


def test_one_class_of_many_and_a_habit_that_is_new_are_drift(real_data: Path) -> None:
    rows = read_examples(
        real_data / "banking77/train.csv", columns={"question": "text", "answer": "category"}
    )
    one = [e for e in rows if e.answers == ("card_arrival",)][:60]
    rest = random.Random(1).sample([e for e in rows if e not in one], 1500)
    found = {figure.name: figure.verdict for figure in measure_drift(one, rest).figures}
    assert found["words"] is not Verdict.OK

    def shouted(example: Example) -> Example:
        (asked, answer) = example.messages
        return replace(example, messages=({**asked, "content": asked["content"].upper()}, answer))

    usual = measure_drift(rest[:60], rest[60:])
    loud = measure_drift([shouted(e) for e in rest[:60]], rest[60:])
    assert usual.verdict is Verdict.OK
    assert {f.name for f in loud.figures if f.verdict is not Verdict.OK} == {"form"}


def test_a_few_of_many_requests_that_are_foreign_are_noticed() -> None:
    requests = examples([*orders(0, 90), *["Wie spät ist es in Berlin?"] * 10])
    found = measure_drift(requests, examples(orders(0, 300)))
    assert found.verdict is Verdict.DRIFTING


def test_the_length_distance_is_the_largest_gap_of_the_distributions() -> None:
    assert figure("length", ["a", "ab", "abcd"], ["ab", "abc", "abcd"]) == pytest.approx(1 / 3)


def test_the_divergence_is_that_of_the_formula() -> None:
    p, q = (3 / 4, 1 / 4, 0.0), (1 / 2, 0.0, 1 / 2)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(of: tuple[float, ...]) -> float:
        return sum(a * math.log2(a / m) for a, m in zip(of, middle, strict=True) if a)

    found = divergence(Counter(a=3, b=1), Counter(a=1, c=1))
    assert found == pytest.approx((kl(p) + kl(q)) / 2)


def test_words_of_no_training_row_are_counted_as_often_as_they_occur() -> None:
    assert figure("unseen_words", ["one two two", "three"], ["One three"]) == pytest.approx(0.5)


def test_the_cosine_is_1_for_a_known_text_and_0_for_one_that_shares_no_ngram() -> None:
    assert nearest_cosines(["order soup", "xyz"], ["a pizza", "order soup"]) == pytest.approx(
        [1, 0]
    )


def test_another_language_is_noticed() -> None:
    english = ["The weather is nice today and we go to the beach with our children"] * 3
    german = ["Das Wetter ist heute schön und wir gehen mit unseren Kindern an den Strand"] * 3
    assert figure("language", german, english) == 1
    assert figure("language", english, english) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', "json"),
        ("select a from b", "sql"),
        ("def f():\n  pass", "code"),
        ("How many?", "question mixed"),
        ("two  soups", "text lower irregular"),
    ],
)
def test_the_form_of_a_request(text: str, expected: str) -> None:
    assert form(text) == expected


def test_no_requests_cannot_be_compared() -> None:
    with refused(InvalidData, "0 requests"):
        measure_drift([], examples(orders(0, 5)))


def test_the_command_prints_the_verdict_and_writes_the_figures(tmp_path: Path) -> None:
    for name, texts in (("train", orders(0, 60)), ("log", ["Wie spät ist es?"] * 5)):
        rows = (json.dumps({"question": text, "answer": "yes"}) for text in texts)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "drift.json"
    traffic, train = str(tmp_path / "log.jsonl"), str(tmp_path / "train.jsonl")
    done = CliRunner().invoke(
        cli, ["data", "drift", "--traffic", traffic, train, "--report", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "verdict: foreign" in done.output
    assert json.loads(out.read_text(encoding="utf-8"))["verdict"] == "foreign"
