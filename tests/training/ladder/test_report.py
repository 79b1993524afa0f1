"""The report and its page, of answers that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.requests.resolver import Target
from hotswap.training.evaluation.report import Answerer, metrics_for
from hotswap.training.ladder.prompting import Prompting
from hotswap.training.ladder.report import LadderReport, make_ladder_report, metric_named
from hotswap.training.ladder.rungs import Climbed, Rung
from hotswap.training.pages.ladder import page
from tests.refusals import refused
from tests.training.evaluation.answers import answered
from tests.training.evaluation.test_page import NASTY, Read

TARGET = Target(PromptFormat(chat_template="", end_of_turn="x"))
METRICS = metrics_for(["yes", "no"] * 100)


def climbed(name: str, label: str, num_right: int, k: int = 0, **known: Any) -> Climbed:
    """200 rows, the first of them right; the last three show an example less than k."""
    rows = tuple(
        answered("yes" if line <= num_right else "no idea", "yes", line, latency_s=line / 100,
                 logprob=-2.0, **known)
        for line in range(1, 201)
    )  # fmt: skip
    shown = (k,) * 197 + (max(k - 1, 0),) * 3
    return Climbed(Rung(name, label, TARGET, Prompting(), k), Answerer(label, None, rows), shown)


@pytest.fixture(scope="module")
def report() -> LadderReport:
    rungs = [
        climbed("zero_shot", "zero-shot", 20, num_prompt_tokens=40),
        climbed("few_shot", NASTY, 120, k=8, num_prompt_tokens=452),
        climbed("adapter", "the adapter", 190, num_prompt_tokens=40),
    ]
    return make_ladder_report(rungs, METRICS, "em_normalised", margin=0.02)


def test_figures_are_of_the_rungs_rows(report: LadderReport) -> None:
    zero, few, adapter = report.rungs

    assert [r.metrics["em_normalised"].value for r in report.rungs] == [0.1, 0.6, 0.95]
    assert (few.prompt_tokens, few.answer_tokens, few.tokens) == pytest.approx(
        (452, (120 * 1 + 80 * 2) / 200, 452 + 1.4)
    )
    assert (few.median_latency_s, few.p95_latency_s) == (1.0, 1.9)  # nearest ranks of 0.01 … 2
    assert (few.num_trimmed, few.min_examples, zero.num_trimmed) == (3, 7, 0)
    assert adapter.difference is None
    assert few.difference is not None
    assert few.difference.estimate.value == pytest.approx(0.35)
    assert few.difference.p_value < 0.001
    assert report.costs == (
        f"{NASTY}: 412 prompt tokens a request more than the adapter (452 instead of 40)",
    )
    assert report.verdict.rung == "few_shot"


def test_the_summary_is_the_same_whatever_the_latency(report: LadderReport) -> None:
    summary = report.summary()

    assert summary["verdict"] == "adapter_is_worth_it"
    assert list(summary["rungs"]) == ["zero_shot", "few_shot", "adapter"]
    assert summary["rungs"]["few_shot"]["score"][0] == 0.6
    assert summary["rungs"]["few_shot"]["loss"][0] == 1.0  # 2 nats over 2 tokens
    assert "latency" not in str(summary)
    assert report.values() == {
        "ladder_zero_shot": 0.1, "ladder_few_shot": 0.6, "ladder_adapter": 0.95,
    }  # fmt: skip


def test_a_page_needs_nothing_else_and_shows_labels_as_text(report: LadderReport) -> None:
    found = Read(page(report, f"{NASTY}.jsonl", {"base": NASTY, "goal": None}, 1))

    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert found.text.count(NASTY) >= 4
    assert found.tags.count("rect") == 3
    assert report.verdict.text in found.text
    assert "Latency of 1 request at a time" in found.text
    assert "goal" not in found.text


@pytest.mark.parametrize(
    ("references", "metric"),
    [
        (["yes", "no"] * 5, "em_normalised"),
        (['{"a": 1}', '{"a": 2}'] * 5, "json_f1"),
        (["The fox jumps.", "A dog sleeps."], "f1"),
    ],
)
def test_the_task_chooses_the_metric(references: list[str], metric: str) -> None:
    assert metric_named(None, metrics_for(references)) == metric
    assert metric_named("em", metrics_for(references)) == "em"


@pytest.mark.parametrize("name", ["loss", "length_ratio", "json_f1", "accuracy"])
def test_only_scores_of_answers_can_judge(name: str) -> None:
    with refused(InvalidRequest, repr(name)):
        metric_named(name, METRICS)
