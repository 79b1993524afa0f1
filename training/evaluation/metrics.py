"""Every metric as a sum over rows and a function of that sum.

A metric gives each row a few numbers; added up over a set of rows they decide its value, of that
set. So the value of a resampled set, or of one in which two models' rows are exchanged, is a matrix
product away, also for metrics that are no mean over rows (BLEU, macro F1, perplexity).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap.training.data.texts import is_json
from hotswap.training.evaluation import fields, texts
from hotswap.training.evaluation.answered import AnsweredRow

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """`statistics` gives (num_rows, k), `value` (…, k) sums of it → (…) values; NaN where the set
    has nothing to measure. `formula` says what it is, for people."""

    name: str
    formula: str
    statistics: Callable[[Sequence[AnsweredRow]], Array]
    value: Callable[[Array], Array]
    higher_is_better: bool = True

    def of(self, rows: Sequence[AnsweredRow]) -> float:
        return float(self.value(self.statistics(rows).sum(0)))


def ratio(sums: Array) -> Array:
    """Σ first / Σ second; NaN where the second is 0."""
    return _divide(sums[..., 0], sums[..., 1])


def f1(sums: Array) -> Array:
    """F1 = 2·TP / (2·TP + FP + FN) of the sums TP, FP, FN; NaN where all are 0."""
    return _divide(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def perplexity(sums: Array) -> Array:
    """exp(Σ −ln p / number of tokens)."""
    return np.exp(ratio(sums))


def bleu(sums: Array) -> Array:
    """Corpus BLEU from 0 to 1 (Papineni et al. 2002): brevity penalty times the geometric mean of
    the 1- to 4-gram precisions. sacrebleu's own arithmetic, its default smoothing and tokens."""
    from sacrebleu.metrics.bleu import BLEU

    flat = sums.reshape(-1, 10).astype(int).tolist()
    scores = [
        BLEU.compute_bleu(s[:4], s[4:8], sys_len=s[8], ref_len=s[9], smooth_method="exp").score
        for s in flat
    ]
    return (np.array(scores) / 100).reshape(sums.shape[:-1])


def _divide(above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _first_line(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())


def _table(rows: Sequence[AnsweredRow], of: Callable[[AnsweredRow], Sequence[float]]) -> Array:
    return np.array([of(row) for row in rows], dtype=np.float64)


def _mean(name: str, score: Callable[[str, str], float]) -> Metric:
    """The mean over rows of a score of answer and reference."""
    return Metric(
        name,
        f"Mean over rows. {_first_line(score)}",
        lambda rows: _table(rows, lambda row: (score(row.answer, row.reference), 1)),
        ratio,
    )


def _share(
    name: str, formula: str, of: Callable[[AnsweredRow], tuple[float, float]], **more: Any
) -> Metric:
    return Metric(name, formula, lambda rows: _table(rows, of), ratio, **more)


def _bleu_statistics(rows: Sequence[AnsweredRow]) -> Array:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)
    scores = (metric.sentence_score(row.answer, [row.reference]) for row in rows)
    return np.array(
        [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=np.float64
    )


def _loss(row: AnsweredRow) -> tuple[float, float]:
    return -row.logprob, row.num_supervised


TEXT_METRICS = (
    _mean("em", texts.exact),
    _mean("em_normalised", texts.exact_normalised),
    _mean("em_squad", texts.exact_squad),
    _mean("f1", texts.token_f1),
    _mean("rouge_l", texts.rouge_l),
    Metric("bleu", _first_line(bleu), _bleu_statistics, bleu),
)
"""Of any answers."""

MODEL_METRICS = (
    _share(
        "loss",
        "Mean over tokens of −ln p(token | all before it), of the references and their end tokens.",
        _loss,
        higher_is_better=False,
    ),
    Metric(
        "total_loss",
        "Σ over rows of −ln p(reference), in nats.",
        lambda rows: _table(rows, _loss),
        lambda sums: sums[..., 0],
        higher_is_better=False,
    ),
    Metric(
        "perplexity",
        _first_line(perplexity),
        lambda rows: _table(rows, _loss),
        perplexity,
        higher_is_better=False,
    ),
    _share(
        "token_accuracy",
        "The share of the references' tokens that are the likeliest at their place.",
        lambda row: (row.num_correct, row.num_supervised),
    ),
    _share(
        "stop_rate",
        "The share of answers that the end token ended, and not the limit of tokens.",
        lambda row: (row.is_ended, 1),
    ),
    _share(
        "length_ratio",
        "Tokens of all answers / tokens of all references.",
        lambda row: (row.num_answer_tokens, row.num_reference_tokens),
    ),
)
"""Of the model that answers."""

JSON_METRICS = (
    _share(
        "json_valid",
        "The share of answers that are JSON as a whole.",
        lambda row: (is_json(row.answer), 1),
    ),
    Metric(
        "json_f1",
        "Over the fields of all rows: " + _first_line(f1),
        lambda rows: _table(rows, lambda row: fields.field_counts(row.answer, row.reference)),
        f1,
    ),
)
"""Of sets whose references are JSON."""
