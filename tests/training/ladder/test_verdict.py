"""The rules of the verdict, on scores that are made up."""

from __future__ import annotations

import pytest

from hotswap.training.evaluation.intervals import Difference, Estimate, bootstrap, compare
from hotswap.training.evaluation.metrics import TEXT_METRICS
from hotswap.training.ladder.verdict import LadderOutcome, LadderVerdict, Prompted, judge, reach
from tests.training.evaluation.answers import answered_rows

EM = next(metric for metric in TEXT_METRICS if metric.name == "em")
ADAPTER = Estimate(0.9, 0.85, 0.95)


def rung(
    name: str, difference: tuple[float, float, float], p_value: float = 0.001, tokens: float = 50
) -> Prompted:
    score = Estimate(0.9 - difference[0], 0, 1)
    return Prompted(name, name, score, tokens, Difference(Estimate(*difference), p_value))


def verdict_of_rows(
    adapter: list[bool], prompts: dict[str, list[bool]], margin: float
) -> LadderVerdict:
    """Of rows that were answered rightly or wrongly; a prompt's tokens are in their order."""

    def statistics(right: list[bool]):
        return EM.statistics(answered_rows([("x" if r else "y", "x") for r in right]))

    ours = statistics(adapter)
    prompted = [
        Prompted(name, name, bootstrap(EM, theirs), tokens, compare(EM, ours, theirs))
        for tokens, (name, theirs) in enumerate(
            ((name, statistics(right)) for name, right in prompts.items()), start=1
        )
    ]
    return judge(prompted, bootstrap(EM, ours), len(adapter), margin)


def test_equal_answers_to_enough_rows_are_enough_and_the_cheapest_prompt_is_named() -> None:
    right = [True] * 180 + [False] * 20
    worse = [True] * 100 + [False] * 100

    found = verdict_of_rows(right, {"zero": worse, "few": right, "retrieved": right}, 0.02)

    assert (found.outcome, found.rung, found.num_more_rows) == (
        LadderOutcome.PROMPTING_IS_ENOUGH, "few", None,
    )  # fmt: skip
    assert "at most 0.015 better" in found.text  # 3 / 200


def test_equal_answers_to_few_rows_prove_nothing() -> None:
    found = verdict_of_rows([True] * 50, {"zero": [True] * 50}, 0.02)

    assert found.outcome is LadderOutcome.UNDECIDED
    assert found.num_more_rows == 100  # 3 / 0.02 - 50
    assert "about 100 more rows" in found.text


def test_an_adapter_that_wins_far_more_rows_than_it_loses_is_worth_it() -> None:
    adapter = [True] * 90 + [False] * 10
    prompts = {"zero": [False] * 100, "few": [True] * 50 + [False] * 40 + [True] * 10}

    found = verdict_of_rows(adapter, prompts, 0.02)

    assert (found.outcome, found.rung) == (LadderOutcome.ADAPTER_IS_WORTH_IT, "few")
    assert "+0.300" in found.text


def test_an_adapter_must_beat_every_rung() -> None:
    adapter = [True] * 55 + [False] * 45
    prompts = {"zero": [False] * 100, "few": [True] * 50 + [False] * 50}

    found = verdict_of_rows(adapter, prompts, 0.02)

    assert (found.outcome, found.rung) == (LadderOutcome.UNDECIDED, "few")
    assert found.num_more_rows is not None


def test_an_adapter_that_is_worse_needs_no_margin() -> None:
    found = verdict_of_rows([False] * 100, {"zero": [True] * 60 + [False] * 40}, 0.0)

    assert found.outcome is LadderOutcome.PROMPTING_IS_ENOUGH
    assert "at most 0.000 better" in found.text


@pytest.mark.parametrize(
    ("difference", "p_value", "outcome"),
    [
        ((0.01, 0.0, 0.02), 0.2, LadderOutcome.PROMPTING_IS_ENOUGH),  # the end is the margin itself
        ((0.01, 0.0, 0.0201), 0.2, LadderOutcome.UNDECIDED),
        (
            (0.015, 0.011, 0.019),
            0.001,
            LadderOutcome.PROMPTING_IS_ENOUGH,
        ),  # better, but by too little
        ((0.02, 0.01, 0.03), 0.001, LadderOutcome.UNDECIDED),  # better by the margin, not by more
        ((0.021, 0.001, 0.04), 0.049, LadderOutcome.ADAPTER_IS_WORTH_IT),
        ((0.021, 0.0, 0.04), 0.05, LadderOutcome.UNDECIDED),
        ((-0.2, -0.3, -0.1), 0.001, LadderOutcome.PROMPTING_IS_ENOUGH),
    ],
)
def test_each_rule_holds_to_its_limit(
    difference: tuple[float, float, float], p_value: float, outcome: LadderOutcome
) -> None:
    found = judge([rung("zero", difference, p_value)], ADAPTER, 1000, 0.02)

    assert found.outcome is outcome


def test_no_interval_is_taken_as_narrower_than_three_rows() -> None:
    same = rung("zero", (0.0, 0.0, 0.0), 1.0)

    assert judge([same], ADAPTER, 150, 0.02).outcome is LadderOutcome.PROMPTING_IS_ENOUGH
    assert judge([same], ADAPTER, 149, 0.02).num_more_rows == 1


def test_of_two_prompts_that_are_enough_the_one_with_fewer_tokens_is_named() -> None:
    rungs = [
        rung("few", (0.0, -0.01, 0.01), 1.0, tokens=500),
        rung("system", (0.005, -0.01, 0.015), 0.5, tokens=80),
        rung("zero", (0.5, 0.4, 0.6), tokens=50),
    ]

    assert judge(rungs, ADAPTER, 1000, 0.02).rung == "system"


def test_more_rows_are_those_that_narrow_the_interval_to_the_gap() -> None:
    # twice as narrow where the difference is half its interval's side: four times the rows
    significant = judge([rung("zero", (0.05, -0.05, 0.15), 0.3)], ADAPTER, 100, 0.02)
    within = judge([rung("zero", (0.0, -0.04, 0.04), 0.9)], ADAPTER, 400, 0.02)
    at_the_margin = judge([rung("zero", (0.02, -0.02, 0.06), 0.4)], ADAPTER, 400, 0.02)

    assert significant.num_more_rows == 300
    assert within.num_more_rows == 1200
    assert at_the_margin.num_more_rows is None
    assert "no number of rows" in at_the_margin.text


SCORES = {
    "low": Prompted("low", "low", Estimate(0.5, 0.4, 0.6), 50),
    "high": Prompted("high", "high", Estimate(0.8, 0.75, 0.85), 500),
    "higher": Prompted("higher", "higher", Estimate(0.82, 0.77, 0.87), 400),
}


@pytest.mark.parametrize(
    ("goal", "outcome", "named", "more"),
    [
        (None, LadderOutcome.PROMPTS_ONLY, "higher", None),
        (0.75, LadderOutcome.PROMPTING_IS_ENOUGH, "higher", None),
        (0.4, LadderOutcome.PROMPTING_IS_ENOUGH, "low", None),
        (0.78, LadderOutcome.UNDECIDED, "higher", 563),  # ⌈1000 · (0.05 / 0.04)²⌉ - 1000
        (0.87, LadderOutcome.UNDECIDED, "higher", 1),
        (0.88, LadderOutcome.TRAIN, "higher", None),
    ],
)
def test_without_an_adapter_a_goal_judges_the_prompts(
    goal: float | None, outcome: LadderOutcome, named: str, more: int | None
) -> None:
    found = reach(list(SCORES.values()), 1000, goal)

    assert (found.outcome, found.rung, found.num_more_rows) == (outcome, named, more)


def test_a_goal_of_a_few_perfect_answers_is_not_reached() -> None:
    perfect = Prompted("zero", "zero", Estimate(1.0, 1.0, 1.0), 50)

    assert reach([perfect], 20, 0.9).outcome is LadderOutcome.UNDECIDED
    assert reach([perfect], 20, 0.9).num_more_rows == 10
    assert reach([perfect], 30, 0.9).outcome is LadderOutcome.PROMPTING_IS_ENOUGH
