"""What a set of rows is like, in numbers: classes, answers, diversity, lengths. Judges nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from hotswap.training.data.classes import (
    Classes,
    Counts,
    Share,
    TextsOfRows,
    answers_of,
)
from hotswap.training.data.example import Example

_NUM_LISTED = 10
_NUM_BINS = 24
K = 1 << 20
_PENDING = 1 << 18

Hashes = npt.NDArray[np.uint64]


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
    prefixes = Counts(TextsOfRows(examples, lambda example: map(_prefix, example.answers)))
    words, pairs = Distinct(), Distinct()
    for said in TextsOfRows(examples, lambda example: example.texts_of("user")):
        hashes = words_of(said)
        words.add(hashes)
        pairs.add(pairs_of(hashes))
    return Statistics(
        num_rows=len(examples),
        num_answers=answers.total,
        classes=Classes.of_counts(answers),
        top_answers=answers.shares(_NUM_LISTED),
        top_prefixes=prefixes.shares(_NUM_LISTED),
        distinct_1=words.share,
        distinct_2=pairs.share,
        lengths=Lengths.of(lengths, max_length) if lengths else None,
    )


def _prefix(answer: str) -> str:
    return " ".join(answer.split(maxsplit=3)[:3])


def _percentile(ordered: npt.NDArray[np.int64], share: float) -> int:
    return int(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


class Distinct:
    """Counts the different ones of many hashes of 64 bits: exactly up to `k` of them, above that
    from the k minimum values, with a relative standard error of 1/√k (0.1 % for 2²⁰; Bar-Yossef
    2002).

    Memory: 8 bytes for each of k hashes.
    """

    def __init__(self, k: int = K) -> None:
        self.total = 0
        self._k = k
        self._smallest: Hashes = np.empty(0, dtype=np.uint64)
        self._is_over = False
        self._pending: list[Hashes] = []
        self._num_pending = 0

    def add(self, hashes: Hashes) -> None:
        self.total += len(hashes)
        if self._is_over:
            hashes = hashes[hashes < self._smallest[-1]]
        self._pending.append(hashes)
        self._num_pending += len(hashes)
        if self._num_pending >= _PENDING:
            self._merge()

    @property
    def count(self) -> float:
        self._merge()
        if not self._is_over:
            return len(self._smallest)
        return (self._k - 1) * 2.0**64 / float(self._smallest[-1])

    @property
    def share(self) -> float:
        """Of all that were added; 0 when there were none."""
        return self.count / self.total if self.total else 0.0

    def _merge(self) -> None:
        smallest = np.unique(np.concatenate([self._smallest, *self._pending]))
        self._is_over = self._is_over or len(smallest) > self._k
        self._smallest = smallest[: self._k].copy()
        self._pending, self._num_pending = [], 0


def words_of(text: str) -> Hashes:
    """The hashes of the text's words, which white space separates."""
    return np.fromiter(map(_word_hash, text.split()), dtype=np.uint64)


def pairs_of(words: Hashes) -> Hashes:
    """The hashes of the pairs of neighbouring words: splitmix64's finaliser over both."""
    mixed = words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=1 << 15)
def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")
