"""A ladder's result: each rung's scores, tokens and latency, and the verdict. Knows no engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.evaluation.intervals import Difference, Estimate, bootstrap, compare
from hotswap.training.evaluation.metrics import JSON_METRICS, TEXT_METRICS, Metric
from hotswap.training.ladder.rungs import ADAPTER, Climbed
from hotswap.training.ladder.verdict import LadderVerdict, Prompted, judge, reach

_CLASSES, _JSON, _TEXT = "em_normalised", "json_f1", "f1"


@dataclass(frozen=True, slots=True)
class RungScores:
    """Of one rung. Tokens are means over requests, the end token left out; a latency is from
    asking to the last token. `difference` is the adapter's score less this rung's. `num_trimmed`
    prompts showed fewer examples than asked for, `min_examples` the fewest."""

    name: str
    label: str
    metrics: dict[str, Estimate]
    prompt_tokens: float
    answer_tokens: float
    median_latency_s: float
    p95_latency_s: float
    k: int
    min_examples: int
    num_trimmed: int
    difference: Difference | None

    @property
    def tokens(self) -> float:
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class LadderReport:
    """Invariant: the first rung is the question alone, and every rung was asked the same rows."""

    metric: str
    formula: str
    num_rows: int
    rungs: tuple[RungScores, ...]
    verdict: LadderVerdict
    costs: tuple[str, ...]

    def values(self) -> dict[str, float]:
        """Each rung's score, as a manifest states metrics: `ladder_zero_shot` and so on."""
        return {f"ladder_{rung.name}": rung.metrics[self.metric].value for rung in self.rungs}

    def summary(self) -> dict[str, Any]:
        """What a version states of it: no latency, which no two runs share, so that the same
        ladder of the same adapter is the same version."""
        return {
            "metric": self.metric,
            "num_rows": self.num_rows,
            "rungs": {
                rung.name: {
                    "score": _rounded(rung.metrics[self.metric]),
                    "loss": _rounded(rung.metrics["loss"]),
                    "prompt_tokens": round(rung.prompt_tokens, 1),
                    "answer_tokens": round(rung.answer_tokens, 1),
                }
                for rung in self.rungs
            },
            "verdict": self.verdict.outcome.value,
            "text": self.verdict.text,
        }

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def metric_named(name: str | None, metrics: Sequence[Metric]) -> str:
    """What a ladder is judged by: a metric of answers, from 0 to 1. Without a name by task: F1 of
    fields for JSON, exact match (normalised) for classes, else F1 of words. Raises InvalidRequest.
    """
    of_answers = {metric.name for metric in (*TEXT_METRICS, *JSON_METRICS)}
    known = [m.name for m in metrics if m.name in of_answers or m.name.startswith("class_f1")]
    if name is None:
        if _JSON in known:
            return _JSON
        return _CLASSES if "class_f1_macro" in known else _TEXT
    if name not in known:
        raise InvalidRequest(
            f"metric {name!r} cannot judge answers to this set; known: {', '.join(known)}",
            param="metric",
        )
    return name


def make_ladder_report(
    climbed: Sequence[Climbed],
    metrics: Sequence[Metric],
    metric: str,
    *,
    margin: float,
    goal: float | None = None,
    seed: int = 0,
) -> LadderReport:
    """`metrics` hold the loss and `metric`, which is judged by; an adapter is the last rung."""
    judged = next(m for m in metrics if m.name == metric)
    adapter = climbed[-1] if climbed[-1].rung.name == ADAPTER else None
    scores = [_scores(one, adapter, metrics, judged, seed) for one in climbed]
    prompted = [
        Prompted(s.name, s.label, s.metrics[metric], s.tokens, s.difference)
        for s in scores
        if s.name != ADAPTER
    ]
    num_rows = len(climbed[0].answerer.rows)
    return LadderReport(
        metric=metric,
        formula=judged.formula,
        num_rows=num_rows,
        rungs=tuple(scores),
        verdict=reach(prompted, num_rows, goal)
        if adapter is None
        else judge(prompted, scores[-1].metrics[metric], num_rows, margin),
        costs=tuple(_costs(scores)),
    )


def _scores(
    one: Climbed, adapter: Climbed | None, metrics: Sequence[Metric], judged: Metric, seed: int
) -> RungScores:
    rows = one.answerer.rows
    estimates = {m.name: bootstrap(m, m.statistics(rows), seed=seed) for m in metrics}
    difference = None
    if adapter is not None and one is not adapter:
        ours, theirs = (judged.statistics(c.answerer.rows) for c in (adapter, one))
        difference = compare(judged, ours, theirs, seed=seed)
    median, p95 = np.quantile(
        [row.latency_s for row in rows], [0.5, 0.95], method="inverted_cdf"
    ).tolist()
    return RungScores(
        name=one.rung.name,
        label=one.rung.label,
        metrics={name: e for name, e in estimates.items() if math.isfinite(e.value)},
        prompt_tokens=sum(row.num_prompt_tokens for row in rows) / len(rows),
        answer_tokens=sum(row.num_answer_tokens for row in rows) / len(rows),
        median_latency_s=median,
        p95_latency_s=p95,
        k=one.rung.k,
        min_examples=min(one.shown),
        num_trimmed=one.num_trimmed,
        difference=difference,
    )


def _costs(scores: Sequence[RungScores]) -> Iterator[str]:
    """What each prompt costs beside the adapter's, or beside the question alone."""
    plain = scores[-1] if scores[-1].name == ADAPTER else scores[0]
    for rung in scores:
        more = rung.prompt_tokens - plain.prompt_tokens
        if round(more) > 0:
            yield (
                f"{rung.label}: {more:.0f} prompt tokens a request more than {plain.label}"
                f" ({rung.prompt_tokens:.0f} instead of {plain.prompt_tokens:.0f})"
            )


def _rounded(estimate: Estimate) -> list[float]:
    """Value and interval."""
    return [round(part, 6) for part in (estimate.value, estimate.low, estimate.high)]
