"""What a set of rows is like, in numbers: classes, answers, diversity, lengths. Judges nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.data.classes import MIN_MEAN_ROWS
from training.data.formats import Example

_NUM_LISTED = 10
_NUM_BINS = 24


@dataclass(frozen=True, slots=True)
class Share:
    """How often a text came, of all."""

    text: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Classes:
    """Answers that are classes: few distinct ones, each often.

    `balance` is Shannon's entropy of the classes divided by that of equally many of each, from 0
    (one class only) to 1 (Pielou 1966).
    """

    counts: tuple[Share, ...]
    balance: float

    @classmethod
    def of(cls, answers: Sequence[str]) -> Classes | None:
        """None when the answers are no classes, or all of one."""
        counts = Counter(answers)
        if len(counts) < 2 or len(counts) * MIN_MEAN_ROWS > len(answers):
            return None
        shares = [count / len(answers) for count in counts.values()]
        entropy = -sum(share * math.log(share) for share in shares)
        return cls(_shares(counts, len(counts)), entropy / math.log(len(counts)))


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of whole rows, prompt and answers. A percentile is the smallest length that so many
    rows do not exceed. `histogram` has the count of each of the bins between `edges`."""

    p50: int
    p95: int
    max: int
    max_length: int
    num_over: int
    edges: tuple[int, ...]
    histogram: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], max_length: int) -> Lengths:
        ordered = sorted(lengths)
        width = max(1, math.ceil((ordered[-1] + 1) / _NUM_BINS))
        bins = Counter(length // width for length in ordered)
        num_bins = ordered[-1] // width + 1
        return cls(
            p50=_percentile(ordered, 0.5),
            p95=_percentile(ordered, 0.95),
            max=ordered[-1],
            max_length=max_length,
            num_over=sum(length > max_length for length in ordered),
            edges=tuple(width * index for index in range(num_bins + 1)),
            histogram=tuple(bins[index] for index in range(num_bins)),
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the training rows. `distinct_1` and `distinct_2` are the distinct words and pairs of
    neighbouring words divided by all of them (Li et al. 2016), of what users say."""

    num_rows: int
    num_answers: int
    classes: Classes | None
    top_answers: tuple[Share, ...]
    top_prefixes: tuple[Share, ...]
    distinct_1: float
    distinct_2: float
    lengths: Lengths | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def describe(
    examples: Sequence[Example], lengths: Sequence[int] | None, max_length: int
) -> Statistics:
    """`lengths` are the rows' tokens, where a tokenizer was there; there is at least one row."""
    answers = [answer for example in examples for answer in example.answers]
    asked = [m["content"].split() for e in examples for m in e.messages if m["role"] == "user"]
    return Statistics(
        num_rows=len(examples),
        num_answers=len(answers),
        classes=Classes.of(answers),
        top_answers=_shares(Counter(answers), _NUM_LISTED),
        top_prefixes=_shares(Counter(map(_prefix, answers)), _NUM_LISTED),
        distinct_1=_distinct(asked, 1),
        distinct_2=_distinct(asked, 2),
        lengths=Lengths.of(lengths, max_length) if lengths else None,
    )


def _prefix(answer: str) -> str:
    return " ".join(answer.split()[:3])


def _shares(counts: Counter[str], limit: int) -> tuple[Share, ...]:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(text, count, count / total) for text, count in ordered[:limit])


def _distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _percentile(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
