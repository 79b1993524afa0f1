"""What a ladder comes to: whether prompting is enough. Pure; the rules are in `judge` and `reach`.

An interval of n rows is never taken to be narrower than 3 / n to the side that is claimed: where no
row of n tells two models apart, up to 3 / n of all rows may (95 %; Hanley & Lippman-Hand 1983), and
a bootstrap of equal rows would say none. Scores are from 0 to 1, higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hotswap.training.evaluation.intervals import CONFIDENCE, Difference, Estimate

ALPHA = round(1 - CONFIDENCE, 9)
_TOLERANCE = 1e-9
_MAX_ROWS = 1_000_000


class LadderOutcome(StrEnum):
    PROMPTING_IS_ENOUGH = "prompting_is_enough"
    ADAPTER_IS_WORTH_IT = "adapter_is_worth_it"
    TRAIN = "train"  # no prompt reaches the goal; there is no adapter yet
    UNDECIDED = "undecided"
    PROMPTS_ONLY = "prompts_only"  # neither an adapter nor a goal to judge them by


@dataclass(frozen=True, slots=True)
class Prompted:
    """A rung without the adapter: its score, its tokens a request (prompt and answer), and the
    adapter's score less its own where there is an adapter."""

    name: str
    label: str
    score: Estimate
    tokens: float
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class LadderVerdict:
    """`rung` is the cheapest prompt that is enough, else the best. `num_more_rows` would settle an
    undecided one if the scores stayed as they are; None when none are needed or none would do."""

    outcome: LadderOutcome
    rung: str
    text: str
    num_more_rows: int | None = None


def judge(
    prompted: Sequence[Prompted], adapter: Estimate, num_rows: int, margin: float
) -> LadderVerdict:
    """With an adapter. The first that holds:

    1. Prompting is enough: the adapter is surely (95 %) no more than `margin` better than a rung.
    2. The adapter is worth it: it is better than every rung by more than `margin`, and
       significantly (p < 0.05 in the paired test).
    3. Undecided.
    """
    compared = [(rung, rung.difference) for rung in prompted if rung.difference is not None]
    best = max(prompted, key=lambda rung: rung.score.value)
    enough = [
        rung
        for rung, difference in compared
        if _highest(difference.estimate, num_rows) <= margin + _TOLERANCE
    ]
    if enough:
        rung = min(enough, key=lambda rung: rung.tokens)
        assert rung.difference is not None, "it was compared"
        most = _highest(rung.difference.estimate, num_rows)
        text = (
            f"prompting is enough: {rung.label} scores {rung.score.value:.3f}, the adapter"
            f" {adapter.value:.3f}; that is at most {max(most, 0):.3f} better (95 %), and"
            f" {margin:g} would be worth an adapter"
        )
        return LadderVerdict(LadderOutcome.PROMPTING_IS_ENOUGH, rung.name, text)
    if all(_is_better(difference, margin) for _, difference in compared):
        assert best.difference is not None, "every rung was compared"
        text = (
            f"the adapter is worth it: it scores {adapter.value:.3f}, better by"
            f" {_in_words(best.difference)} than the best prompt, {best.label}"
        )
        return LadderVerdict(LadderOutcome.ADAPTER_IS_WORTH_IT, best.name, text)
    more = _more(_rows_to_judge([d for _, d in compared], num_rows, margin), num_rows)
    assert best.difference is not None, "every rung was compared"
    text = (
        f"undecided: the adapter scores {adapter.value:.3f}, different by"
        f" {_in_words(best.difference)} from the best prompt, {best.label}; {_asking_for(more)}"
    )
    return LadderVerdict(LadderOutcome.UNDECIDED, best.name, text, more)


def reach(prompted: Sequence[Prompted], num_rows: int, goal: float | None) -> LadderVerdict:
    """Without an adapter. The first that holds: there is no goal, and the best rung is named; a
    rung's interval lies at or above the goal: prompting is enough; every rung's lies below it:
    train; undecided."""
    best = max(prompted, key=lambda rung: rung.score.value)
    score = f"{best.score.value:.3f} ({best.score.low:.3f} to {best.score.high:.3f})"
    if goal is None:
        text = (
            f"the best prompt is {best.label} with {score}; --goal says what would be enough,"
            " --adapter what training gives"
        )
        return LadderVerdict(LadderOutcome.PROMPTS_ONLY, best.name, text)
    reached = [r for r in prompted if _lowest(r.score, num_rows) >= goal - _TOLERANCE]
    if reached:
        rung = min(reached, key=lambda rung: rung.tokens)
        text = (
            f"prompting is enough: {rung.label} scores {rung.score.value:.3f}, at least"
            f" {_lowest(rung.score, num_rows):.3f} (95 %), and {goal:g} is the goal"
        )
        return LadderVerdict(LadderOutcome.PROMPTING_IS_ENOUGH, rung.name, text)
    if all(_highest(rung.score, num_rows) < goal - _TOLERANCE for rung in prompted):
        text = f"train: the best prompt, {best.label}, scores {score}, and {goal:g} is the goal"
        return LadderVerdict(LadderOutcome.TRAIN, best.name, text)
    more = _more(_rows_to_reach(prompted, num_rows, goal), num_rows)
    text = (
        f"undecided: the best prompt, {best.label}, scores {score}, and {goal:g} is the goal;"
        f" {_asking_for(more)}"
    )
    return LadderVerdict(LadderOutcome.UNDECIDED, best.name, text, more)


def _is_better(difference: Difference, margin: float) -> bool:
    return difference.p_value < ALPHA and difference.estimate.value > margin + _TOLERANCE


def _highest(estimate: Estimate, num_rows: int) -> float:
    return max(estimate.high, estimate.value + 3 / num_rows)


def _lowest(estimate: Estimate, num_rows: int) -> float:
    return min(estimate.low, estimate.value - 3 / num_rows)


def _rows_to_judge(differences: Sequence[Difference], num_rows: int, margin: float) -> float:
    """Until a rung is enough, when one's difference is within the margin; else until each rung's
    is significant."""
    within = [one.estimate for one in differences if one.estimate.value <= margin + _TOLERANCE]
    if within:
        return min(_rows(e.high - e.value, margin - e.value, num_rows) for e in within)
    open_ones = [one.estimate for one in differences if not _is_better(one, margin)]
    return max(_rows(e.value - e.low, e.value, num_rows) for e in open_ones)


def _rows_to_reach(prompted: Sequence[Prompted], num_rows: int, goal: float) -> float:
    """Until a rung above the goal surely is; when none is above, until each is surely below."""
    scores = [rung.score for rung in prompted]
    above = [e for e in scores if e.value > goal + _TOLERANCE]
    if above:
        return min(_rows(e.value - e.low, e.value - goal, num_rows) for e in above)
    return max(_rows(e.high - e.value, goal - e.value, num_rows) for e in scores)


def _rows(width: float, gap: float, num_rows: int) -> float:
    """How many rows make an interval's side of this width as narrow as `gap`: it narrows with the
    square root of the rows, and is never below 3 / rows."""
    if gap <= _TOLERANCE:
        return math.inf
    return max(num_rows * (width / gap) ** 2, 3 / gap)


def _more(needed: float, num_rows: int) -> int | None:
    return (
        None if needed > _MAX_ROWS else max(1, math.ceil(needed - _TOLERANCE * num_rows) - num_rows)
    )


def _in_words(difference: Difference) -> str:
    e = difference.estimate
    return f"{e.value:+.3f} ({e.low:+.3f} to {e.high:+.3f}, p = {difference.p_value:.3g})"


def _asking_for(more: int | None) -> str:
    if more is None:
        return "the difference is at the limit itself, and no number of rows would settle it"
    return f"about {more} more rows would settle it if the scores stayed as they are"
