"""How often answers come, and whether they are classes.

Texts are counted by their hashes; those that are shown are read again.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hotswap.training.data.duplicates import first_equal
from hotswap.training.data.example import Example
from hotswap.training.data.texts import HASH_BYTES, text_hash
from hotswap.training.errors import InvalidData

MIN_MEAN_ROWS = 5
MAX_CHARACTERS = 1000


class TextsOfRows(Iterable[str]):
    """Texts of rows, which are read again each time: `of` gives those of one row."""

    def __init__(self, examples: Sequence[Example], of: Callable[[Example], Iterable[str]]) -> None:
        self._examples = examples
        self._of = of

    def __iter__(self) -> Iterator[str]:
        for example in self._examples:
            yield from self._of(example)


class Counts:
    """How often each of many texts came. `texts` can be gone through again: it is, for the texts
    that are asked for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        hashes = bytearray()
        for text in texts:
            hashes += text_hash(text)
        self.total = len(hashes) // HASH_BYTES
        # How often a text came, at the index where it came first.
        self._counts = np.bincount(first_equal(hashes), minlength=self.total)

    @property
    def distinct(self) -> int:
        return int(np.count_nonzero(self._counts))

    @property
    def each(self) -> list[int]:
        """The counts, in the order in which their texts came first."""
        return [int(count) for count in self._counts[self._counts > 0]]

    def most_frequent(self, limit: int) -> list[tuple[str, int]]:
        """The most frequent first, equally frequent ones in order of text; texts are cut after
        MAX_CHARACTERS."""
        counted = heapq.nsmallest(
            limit,
            (
                (-int(count), text[:MAX_CHARACTERS])
                for text, count in zip(self._texts, self._counts, strict=True)
                if count
            ),
        )
        return [(text, -count) for count, text in counted]

    def shares(self, limit: int) -> tuple[Share, ...]:
        """The most frequent ones as shares of all."""
        return tuple(
            Share(text, count, count / self.total) for text, count in self.most_frequent(limit)
        )


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
        return cls(counts.shares(counts.distinct), entropy / math.log(counts.distinct))


def answers_of(examples: Sequence[Example]) -> TextsOfRows:
    return TextsOfRows(examples, lambda example: example.answers)


def are_classes(examples: Sequence[Example]) -> bool:
    """Whether an answer is given by MIN_MEAN_ROWS rows on average, so that it is a class."""
    labels = Counts(TextsOfRows(examples, lambda example: [example.label]))
    return labels.distinct * MIN_MEAN_ROWS <= labels.total


def rows_by_class(examples: Sequence[Example]) -> dict[str, list[int]]:
    """The indices of the rows of each class, classes in the order of their first rows."""
    classes: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        classes.setdefault(example.label, []).append(index)
    return classes


def balance(
    examples: Sequence[Example], ratio: float, way: Literal["down", "over"], seed: int
) -> list[int]:
    """The indices of rows whose classes differ less, ascending: with the limit ratio · (rows of the
    median class), rounded, `down` leaves out rows of larger classes by chance, `over` repeats rows
    of smaller ones, each as often as the next but for one.

    Raises InvalidData when the answers are no classes.
    """
    if not are_classes(examples):
        raise InvalidData(
            f"the rows cannot be balanced: {len(examples)} rows have"
            f" {len(rows_by_class(examples))} answers, so that these are no classes"
        )
    classes = rows_by_class(examples).values()
    limit = max(1, math.floor(ratio * statistics.median(map(len, classes)) + 0.5))
    chance = random.Random(seed)  # noqa: S311
    kept: list[int] = []
    for rows in classes:
        if way == "down":
            kept += rows if len(rows) <= limit else chance.sample(rows, limit)
        else:
            times, rest = divmod(max(limit, len(rows)), len(rows))
            kept += rows * times + chance.sample(rows, rest)
    return sorted(kept)
