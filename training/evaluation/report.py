"""An evaluation's result: figures with intervals, differences to others, the worst answers.

Knows no engine and prints nothing; `page` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hotswap.training.data.texts import structure_of
from hotswap.training.evaluation.answered import AnsweredRow
from hotswap.training.evaluation.classes import ClassScore, class_metrics, class_scores, confusion
from hotswap.training.evaluation.classes import classes_of as classes_of_references
from hotswap.training.evaluation.intervals import Difference, Estimate, bootstrap, compare
from hotswap.training.evaluation.metrics import JSON_METRICS, MODEL_METRICS, TEXT_METRICS, Metric
from hotswap.training.evaluation.texts import token_f1

MAX_WORST = 20


@dataclass(frozen=True, slots=True)
class Answerer:
    """Who answered a set: a name for people, and the version's digest (None for the base)."""

    name: str
    digest: str | None
    rows: tuple[AnsweredRow, ...]


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The evaluated beside another on the same rows; differences are the evaluated's less the
    other's."""

    name: str
    digest: str | None
    metrics: dict[str, Estimate]
    differences: dict[str, Difference]

    def values(self) -> dict[str, float]:
        """The other's metrics."""
        return {name: estimate.value for name, estimate in self.metrics.items()}


@dataclass(frozen=True, slots=True)
class EvalReport:
    """Invariant: every metric has a finite value; what the set does not measure is not there."""

    name: str
    digest: str | None
    num_rows: int
    metrics: dict[str, Estimate]
    formulas: dict[str, str]
    comparisons: tuple[PairedComparison, ...]
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[AnsweredRow, ...]
    num_prompt_tokens: int
    num_answer_tokens: int
    median_latency_s: float

    def values(self) -> dict[str, float]:
        """The metrics alone, as a manifest states them."""
        return {name: estimate.value for name, estimate in self.metrics.items()}

    def as_json(self, about: dict[str, Any]) -> dict[str, Any]:
        """For files: what `about` says, then the report. No value is NaN."""
        return {**about, **_finite(asdict(self))}


def metrics_for(references: Sequence[str]) -> tuple[Metric, ...]:
    """Every metric that can be measured with these references: F1 of classes when they repeat
    themselves, those of JSON when each is JSON and none a bare word."""
    classes = classes_of_references(references)
    all_json = all(structure_of(reference) == "JSON" for reference in references)
    of_classes = class_metrics(classes) if classes else ()
    return (*TEXT_METRICS, *of_classes, *(JSON_METRICS if all_json else ()), *MODEL_METRICS)


def make_report(
    answerer: Answerer, others: Sequence[Answerer], metrics: Sequence[Metric], *, seed: int = 0
) -> EvalReport:
    """`answerer` on its own and beside each of `others`, who answered the same rows in the same
    order."""
    rows = answerer.rows
    classes = classes_of_references([row.reference for row in rows])
    return EvalReport(
        name=answerer.name,
        digest=answerer.digest,
        num_rows=len(rows),
        metrics=_estimates(rows, metrics, seed),
        formulas={metric.name: metric.formula for metric in metrics},
        comparisons=tuple(_comparison(answerer, other, metrics, seed) for other in others),
        classes=tuple(class_scores(rows, classes)) if classes else (),
        confusion=tuple(map(tuple, confusion(rows, classes))),
        worst=_worst(rows),
        num_prompt_tokens=sum(row.num_prompt_tokens for row in rows),
        num_answer_tokens=sum(row.num_answer_tokens for row in rows),
        median_latency_s=sorted(row.latency_s for row in rows)[len(rows) // 2],
    )


def _comparison(
    answerer: Answerer, other: Answerer, metrics: Sequence[Metric], seed: int
) -> PairedComparison:
    differences = {
        metric.name: compare(
            metric, metric.statistics(answerer.rows), metric.statistics(other.rows), seed=seed
        )
        for metric in metrics
    }
    return PairedComparison(
        name=other.name,
        digest=other.digest,
        metrics=_estimates(other.rows, metrics, seed),
        differences={n: d for n, d in differences.items() if math.isfinite(d.estimate.value)},
    )


def _estimates(
    rows: Sequence[AnsweredRow], metrics: Sequence[Metric], seed: int
) -> dict[str, Estimate]:
    estimates = {m.name: bootstrap(m, m.statistics(rows), seed=seed) for m in metrics}
    return {name: e for name, e in estimates.items() if math.isfinite(e.value)}


def _worst(rows: Sequence[AnsweredRow]) -> tuple[AnsweredRow, ...]:
    """Wrong answers: the least like their references first, then the most surprising."""
    wrong = [row for row in rows if row.answer != row.reference]
    ranked = sorted(
        wrong,
        key=lambda row: (token_f1(row.answer, row.reference), row.logprob / row.num_supervised),
    )
    return tuple(ranked[:MAX_WORST])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
