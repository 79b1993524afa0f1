"""Compares requests of production with the rows an adapter was trained on. No torch.

Every figure goes from 0 (alike) to 1. Rows held back from the training set give each figure's noise
at this number of rows; the verdict is about what the requests have above it.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from registry.errors import InvalidData
from training.data.checks import Finding, Severity
from training.data.formats import Example

DRIFTING = 0.1
FOREIGN = 0.3
NUM_LISTED = 10
MIN_ROWS = 2
_BLOCK_ROWS = 256
_NGRAM = 3
_SQL = re.compile(
    r"(?is)^\s*(select|insert|update|delete|create|with)\b.*\b(from|into|set|table|as)\b"
)
_CODE = re.compile(r"(?m)^\s*(def |class |import |from \w+ import|#include|function |```|public )")


class Verdict(StrEnum):
    """The largest excess: below DRIFTING, below FOREIGN, or from there on."""

    OK = "ok"
    DRIFTING = "drifting"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Figure:
    """`requests` and `held_back` are the same distance to the remaining training rows."""

    name: str
    formula: str
    requests: float
    held_back: float

    @property
    def excess(self) -> float:
        return self.requests - self.held_back

    @property
    def verdict(self) -> Verdict:
        if self.excess >= FOREIGN:
            return Verdict.FOREIGN
        return Verdict.DRIFTING if self.excess >= DRIFTING else Verdict.OK


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
                f"{figure.verdict}: {figure.requests:.3f}, {figure.held_back:.3f} for rows held"
                f" back from training ({figure.formula})",
            )
            for figure in self.figures
            if figure.verdict is not Verdict.OK
        ]

    def as_json(self) -> dict[str, Any]:
        figures = [{**asdict(f), "verdict": f.verdict.value} for f in self.figures]
        return {**asdict(self), "figures": figures, "verdict": self.verdict.value}


def measure_drift(requests: Sequence[Example], train: Sequence[Example], *, seed: int = 0) -> Drift:
    """Compares what users ask. Raises InvalidData when there are not enough rows to compare."""
    if not requests or len(train) < MIN_ROWS:
        raise InvalidData(
            f"{len(requests)} requests and {len(train)} training rows cannot be compared; give at"
            f" least 1 and {MIN_ROWS}"
        )
    asked, known = [_asked(e) for e in requests], [_asked(e) for e in train]
    random.Random(seed).shuffle(known)  # noqa: S311
    num_held = min(len(asked), len(known) // 2)
    held, rest = known[:num_held], known[num_held:]
    figures = tuple(
        Figure(name, formula, distance(asked, rest), distance(held, rest))
        for name, formula, distance in FIGURES
    )
    cosines = nearest_cosines(asked, known)
    order = np.argsort(cosines, kind="stable")[:NUM_LISTED]
    foreign = tuple(
        ForeignRequest(str(requests[i].place), asked[i], float(cosines[i])) for i in order
    )
    return Drift(len(asked), len(known), figures, foreign)


def length_distance(texts: Sequence[str], known: Sequence[str]) -> float:
    return float(ks_2samp([len(t) for t in texts], [len(t) for t in known]).statistic)


def unseen_words(texts: Sequence[str], known: Sequence[str]) -> float:
    return _unseen(_counts(texts, words), _counts(known, words))


def unseen_ngrams(texts: Sequence[str], known: Sequence[str]) -> float:
    return _unseen(_counts(texts, ngrams), _counts(known, ngrams))


def word_divergence(texts: Sequence[str], known: Sequence[str]) -> float:
    return divergence(_counts(texts, words), _counts(known, words))


def form_distance(texts: Sequence[str], known: Sequence[str]) -> float:
    return _total_variation(Counter(map(form, texts)), Counter(map(form, known)))


def language_distance(texts: Sequence[str], known: Sequence[str]) -> float:
    import py3langid

    def languages(texts: Sequence[str]) -> Counter[str]:
        return Counter(py3langid.classify(text)[0] for text in texts)

    return _total_variation(languages(texts), languages(known))


FIGURES: tuple[tuple[str, str, Callable[[Sequence[str], Sequence[str]], float]], ...] = (
    ("length", "two-sample Kolmogorov-Smirnov D of lengths in characters", length_distance),
    ("unseen_words", "share of words that no training row has", unseen_words),
    ("unseen_ngrams", "share of character 3-grams that no training row has", unseen_ngrams),
    ("words", "Jensen-Shannon divergence of word frequencies, in bits", word_divergence),
    ("form", "total variation of JSON, SQL, code, casing and kind of sentence", form_distance),
    ("language", "total variation of languages as py3langid tells them", language_distance),
)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def ngrams(text: str) -> list[str]:
    flat = f" {' '.join(text.casefold().split())} "
    return [flat[i : i + _NGRAM] for i in range(len(flat) - _NGRAM + 1)]


def form(text: str) -> str:
    """What a request looks like: its kind, its casing, and whether white space is irregular."""
    if _is_json(text):
        return "json"
    if _SQL.search(text):
        return "sql"
    if _CODE.search(text):
        return "code"
    kind = "question" if text.rstrip().endswith("?") else "text"
    casing = "lower" if text.islower() else "upper" if text.isupper() else "mixed"
    return f"{kind} {casing}{'' if text == ' '.join(text.split()) else ' irregular'}"


def divergence(one: Counter[str], other: Counter[str]) -> float:
    """JSD(P, Q) = ½ KL(P‖M) + ½ KL(Q‖M), M = ½ (P + Q), in bits (Lin 1991); 1 when one is empty."""
    keys = sorted(one.keys() | other.keys())
    if not one or not other:
        return float(bool(keys))
    p, q = ([counter[key] for key in keys] for counter in (one, other))
    return float(jensenshannon(p, q, base=2) ** 2)


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


def _asked(example: Example) -> str:
    """The last message of the user: what was answered."""
    return [m["content"] for m in example.messages if m["role"] == "user"][-1]


def _counts(texts: Iterable[str], parts: Callable[[str], list[str]]) -> Counter[str]:
    return Counter(part for text in texts for part in parts(text))


def _unseen(found: Counter[str], known: Counter[str]) -> float:
    return sum(n for part, n in found.items() if part not in known) / max(found.total(), 1)


def _total_variation(one: Counter[str], other: Counter[str]) -> float:
    """½ Σ |p − q|."""
    keys = one.keys() | other.keys()
    return 0.5 * sum(abs(one[k] / one.total() - other[k] / other.total()) for k in keys)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
