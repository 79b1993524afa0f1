"""Compares requests of production with the rows an adapter was trained on. No torch.

Every figure goes from 0 (alike) to 1. What it is for no reason at all is found by drawing as many
rows from the training set itself, NUM_DRAWS times, and holding each draw against the rest of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from hotswap.training.data.checks.findings import Finding, Severity
from hotswap.training.data.example import Example
from hotswap.training.data.reports.distances import DISTANCES, Distance, Sample, Traits, ngrams
from hotswap.training.errors import InvalidData

NUM_DRAWS = 20
FOREIGN = 0.3
NUM_LISTED = 10
MIN_ROWS = 2
_USUAL = 95
_BLOCK_ROWS = 256


class Verdict(StrEnum):
    """ok: not above the threshold. foreign: above it, and FOREIGN above what is held back."""

    OK = "ok"
    DRIFTING = "drifting"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Figure:
    """The distance of the requests to training rows (mean over the draws), and what it is for
    rows that are held back from them.

    `held_back` is the median m of the draws. `threshold` is m + 2 (p + 1/n - m), p their 95th
    percentile, n the rows of a draw: one draw of twenty is above p, and there are six figures; 1/n
    is one row more or less. So a log needs three requests before anything can be above it.
    """

    name: str
    formula: str
    requests: float
    held_back: float
    threshold: float

    @classmethod
    def of(
        cls, distance: Distance, requests: Sequence[float], draws: Sequence[float], num_rows: int
    ) -> Figure:
        """From the distances of the requests and of each draw to the rest of that draw."""
        middle, usual = float(np.median(draws)), float(np.percentile(draws, _USUAL))
        threshold = middle + 2 * (usual + 1 / num_rows - middle)
        mean = float(np.mean(requests))
        return cls(distance.name, distance.formula, mean, middle, threshold)

    @property
    def verdict(self) -> Verdict:
        if self.requests <= self.threshold:
            return Verdict.OK
        is_foreign = self.requests - self.held_back >= FOREIGN
        return Verdict.FOREIGN if is_foreign else Verdict.DRIFTING


@dataclass(frozen=True, slots=True)
class ForeignRequest:
    """A request and its TF-IDF cosine to the training row most like it."""

    where: str
    text: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Drift:
    """The figures of one comparison, and the requests least like any training row, least first."""

    num_requests: int
    num_training_rows: int
    figures: tuple[Figure, ...]
    most_foreign: tuple[ForeignRequest, ...]

    @property
    def verdict(self) -> Verdict:
        order = list(Verdict)
        return max((figure.verdict for figure in self.figures), key=order.index)

    def findings(self, where: str) -> list[Finding]:
        return [
            Finding(
                f"drift_{figure.name}",
                Severity.ERROR if figure.verdict is Verdict.FOREIGN else Severity.WARNING,
                where,
                f"{figure.verdict}: {figure.requests:.3f}, above {figure.threshold:.3f}; rows held"
                f" back from training have {figure.held_back:.3f} ({figure.formula})",
            )
            for figure in self.figures
            if figure.verdict is not Verdict.OK
        ]

    def as_json(self) -> dict[str, Any]:
        figures = [{**asdict(f), "verdict": f.verdict.value} for f in self.figures]
        return {**asdict(self), "figures": figures, "verdict": self.verdict.value}


def measure_drift(requests: Sequence[Example], train: Sequence[Example], *, seed: int = 0) -> Drift:
    """Compares what users ask last. Raises InvalidData when there are too few rows to compare."""
    if not requests or len(train) < MIN_ROWS:
        raise InvalidData(
            f"{len(requests)} requests and {len(train)} training rows cannot be compared; give at"
            f" least 1 and {MIN_ROWS}"
        )
    asked, known = ([e.texts_of("user")[-1] for e in rows] for rows in (requests, train))
    figures = compare([Traits.of(t) for t in asked], [Traits.of(t) for t in known], seed)
    cosines = nearest_cosines(asked, known)
    order = np.argsort(cosines, kind="stable")[:NUM_LISTED]
    foreign = tuple(
        ForeignRequest(str(requests[i].place), asked[i], float(cosines[i])) for i in order
    )
    return Drift(len(asked), len(known), figures, foreign)


def compare(asked: Sequence[Traits], known: Sequence[Traits], seed: int) -> tuple[Figure, ...]:
    """The figures of at least one and two texts; draws are at most half of what is known."""
    generator = random.Random(seed)  # noqa: S311
    num_drawn = min(len(asked), len(known) // 2)
    sample, everything = Sample.of(asked), Sample.of(known)
    requests: list[list[float]] = []
    draws: list[list[float]] = []
    for _ in range(NUM_DRAWS):
        held = Sample.of(generator.sample(known, num_drawn))
        rest = everything.without(held)
        requests.append([distance.of(sample, rest) for distance in DISTANCES])
        draws.append([distance.of(held, rest) for distance in DISTANCES])
    columns = zip(DISTANCES, zip(*requests, strict=True), zip(*draws, strict=True), strict=True)
    return tuple(Figure.of(each, of, noise, num_drawn) for each, of, noise in columns)


def nearest_cosines(texts: Sequence[str], known: Sequence[str]) -> np.ndarray[Any, Any]:
    """For each text the cosine to the known one most like it: (num_texts,).

    Weights are tf · (1 + ln((1 + n) / (1 + df))) of character 3-grams, n and df of `known`.
    """
    counted, counted_known = ([Counter(ngrams(t)) for t in ts] for ts in (texts, known))
    frequency = Counter(gram for counts in counted_known for gram in counts)
    at = {gram: i for i, gram in enumerate(sorted({*frequency, *(g for c in counted for g in c)}))}
    weight = np.array([1 + np.log((1 + len(known)) / (1 + frequency[gram])) for gram in at])
    rows, others = (_unit_rows(counts, at, weight) for counts in (counted, counted_known))
    best = [
        (rows[start : start + _BLOCK_ROWS] @ others.T).max(axis=1).toarray().ravel()
        for start in range(0, len(texts), _BLOCK_ROWS)
    ]
    return np.concatenate(best)


def _unit_rows(
    counted: Sequence[Counter[str]], at: dict[str, int], weight: np.ndarray[Any, Any]
) -> csr_array:
    data, columns, ends = [], [], [0]
    for counts in counted:
        where = [at[gram] for gram in counts]
        values = np.array(list(counts.values()), dtype=np.float64) * weight[where]
        data += list(values / (np.linalg.norm(values) or 1))
        columns += where
        ends.append(len(columns))
    return csr_array((data, columns, ends), shape=(len(counted), len(at)))
