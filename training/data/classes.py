"""Answers as classes: whether they are, and how many rows each class has."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Literal

from hotswap.training.data.formats import Example
from hotswap.training.data.hashes import Counts, Texts
from hotswap.training.errors import InvalidData

MIN_MEAN_ROWS = 5


def label(example: Example) -> str:
    return example.answers[-1]


def are_classes(examples: Sequence[Example]) -> bool:
    """Whether an answer is given by MIN_MEAN_ROWS rows on average, so that it is a class."""
    labels = Counts(Texts(examples, lambda example: [label(example)]))
    return labels.distinct * MIN_MEAN_ROWS <= labels.total


def rows_by_class(examples: Sequence[Example]) -> dict[str, list[int]]:
    """The indices of the rows of each class, classes in the order of their first rows."""
    classes: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        classes.setdefault(label(example), []).append(index)
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
