"""How sure a figure is: bootstrap intervals, and a paired test of two models on the same rows.

Works on the sums of `metrics`. Every random number comes from the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hotswap.training.evaluation.metrics import Array, Metric

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
_MAX_CELLS = 4_000_000  # of one block of resamples × rows: 32 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """`estimate` is the first model's value less the second's; `p_value` is the probability of a
    difference as large, in either direction, if it did not matter which of the two answered."""

    estimate: Estimate
    p_value: float


def bootstrap(metric: Metric, statistics: Array, *, seed: int = 0) -> Estimate:
    """Percentile bootstrap (Efron & Tibshirani 1993, ch. 13): rows are drawn with replacement, as
    many as there are; the interval holds the middle 95 % of the values. `statistics` is (rows, k).
    """
    drawn = metric.value(_resampled(statistics, seed))
    return Estimate(float(metric.value(statistics.sum(0))), *_middle(drawn))


def compare(metric: Metric, ours: Array, theirs: Array, *, seed: int = 0) -> Difference:
    """The paired difference of two models on the same rows; both (rows, k).

    The interval is the bootstrap's over pairs of rows. The p-value is of a permutation test
    (Fisher 1935; Edgington 1995): the two answers to a row are exchanged with probability ½, and
    p = (1 + number of draws with a difference as large) / (1 + number of draws).
    """
    observed = float(metric.value(ours.sum(0)) - metric.value(theirs.sum(0)))
    both = np.concatenate([ours, theirs], axis=1)
    sums = _resampled(both, seed)
    drawn = metric.value(sums[:, : ours.shape[1]]) - metric.value(sums[:, ours.shape[1] :])
    p_value = _permuted(metric, ours, theirs, observed, seed)
    return Difference(Estimate(observed, *_middle(drawn)), p_value)


def _permuted(metric: Metric, ours: Array, theirs: Array, observed: float, seed: int) -> float:
    differs = (ours != theirs).any(axis=1)  # other rows are the same whoever is said to answer
    change = (theirs - ours)[differs]
    kept, total = ours.sum(0), (ours + theirs).sum(0)
    chance = np.random.default_rng([seed, 1])
    num_extreme = 0
    for size in _blocks(len(change)):
        exchanged = chance.integers(0, 2, (size, len(change))).astype(np.float64)
        one = kept + exchanged @ change
        differences = metric.value(one) - metric.value(total - one)
        num_extreme += int((np.abs(differences) >= abs(observed) - 1e-9).sum())
    return (1 + num_extreme) / (1 + NUM_RESAMPLES)


def _resampled(statistics: Array, seed: int) -> Array:
    """(NUM_RESAMPLES, k): the sums over rows drawn with replacement."""
    num_rows = len(statistics)
    chance = np.random.default_rng([seed, 0])
    equally = np.full(num_rows, 1 / num_rows)
    sums = [
        chance.multinomial(num_rows, equally, size).astype(np.float64) @ statistics
        for size in _blocks(num_rows)
    ]
    return np.concatenate(sums)


def _blocks(num_rows: int) -> list[int]:
    """NUM_RESAMPLES in parts that fit in memory."""
    size = max(1, min(NUM_RESAMPLES, _MAX_CELLS // max(num_rows, 1)))
    whole, rest = divmod(NUM_RESAMPLES, size)
    return [size] * whole + [rest] * (rest > 0)


def _middle(drawn: Array) -> tuple[float, float]:
    if np.isnan(drawn).all():
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
