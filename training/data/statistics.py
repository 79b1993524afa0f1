"""What a set of rows is like, in numbers: classes, answers, diversity, lengths. Judges nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hotswap.training.data.classes import MIN_MEAN_ROWS
from hotswap.training.data.distinct import Distinct, pairs_of, words_of
from hotswap.training.data.formats import Example
from hotswap.training.data.hashes import Counts, Texts

_NUM_LISTED = 10
_NUM_BINS = 24


@dataclass(frozen=True, slots=True)
class Share:
    """How often a text came, of all; a long text is cut."""

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
        return cls.of_counts(Counts(answers))

    @classmethod
    def of_counts(cls, counts: Counts) -> Classes | None:
        if counts.distinct < 2 or counts.distinct * MIN_MEAN_ROWS > counts.total:
            return None
        shares = [count / counts.total for count in counts.each]
        entropy = -sum(share * math.log(share) for share in shares)
        return cls(_shares(counts, counts.distinct), entropy / math.log(counts.distinct))


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
        ordered = np.sort(np.asarray(lengths, dtype=np.int64))
        longest = int(ordered[-1])
        width = max(1, math.ceil((longest + 1) / _NUM_BINS))
        bins = np.bincount(ordered // width)
        return cls(
            p50=_percentile(ordered, 0.5),
            p95=_percentile(ordered, 0.95),
            max=longest,
            max_length=max_length,
            num_over=int((ordered > max_length).sum()),
            edges=tuple(width * index for index in range(len(bins) + 1)),
            histogram=tuple(bins.tolist()),
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the training rows. `distinct_1` and `distinct_2` are the distinct words and pairs of
    neighbouring words divided by all of them (Li et al. 2016), of what users say; estimated within
    about 0.1 % where there are more than 2²⁰ different ones."""

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
    """`lengths` are the rows' tokens, of those that were rendered; there is at least one row."""
    answers = Counts(answers_of(examples))
    prefixes = Counts(Texts(examples, lambda example: map(_prefix, example.answers)))
    words, pairs = Distinct(), Distinct()
    for said in Texts(examples, _asked):
        hashes = words_of(said)
        words.add(hashes)
        pairs.add(pairs_of(hashes))
    return Statistics(
        num_rows=len(examples),
        num_answers=answers.total,
        classes=Classes.of_counts(answers),
        top_answers=_shares(answers, _NUM_LISTED),
        top_prefixes=_shares(prefixes, _NUM_LISTED),
        distinct_1=words.share,
        distinct_2=pairs.share,
        lengths=Lengths.of(lengths, max_length) if lengths else None,
    )


def answers_of(examples: Sequence[Example]) -> Texts:
    return Texts(examples, lambda example: example.answers)


def _asked(example: Example) -> Iterator[str]:
    return (m["content"] for m in example.messages if m["role"] == "user")


def _prefix(answer: str) -> str:
    return " ".join(answer.split(maxsplit=3)[:3])


def _shares(counts: Counts, limit: int) -> tuple[Share, ...]:
    return tuple(
        Share(text, count, count / counts.total) for text, count in counts.most_frequent(limit)
    )


def _percentile(ordered: npt.NDArray[np.int64], share: float) -> int:
    return int(ordered[max(0, math.ceil(share * len(ordered)) - 1)])
