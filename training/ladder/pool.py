"""Training rows that a prompt may show as examples, in which order. Knows no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest

from hotswap.training.data.classes import are_classes, rows_by_class
from hotswap.training.data.duplicates import alike
from hotswap.training.data.example import Example
from hotswap.training.ladder.retrieval import Retriever


class Pool:
    """Invariant: `rows` stand in an order of chance in which classes, where answers are classes,
    take turns: the first k show k classes, or each class as often as the next but for one."""

    def __init__(self, train: Sequence[Example], seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        classes = list(rows_by_class(train).values()) if are_classes(train) else []
        groups = classes or [list(range(len(train)))]
        for rows in groups:
            chance.shuffle(rows)
        chance.shuffle(groups)
        turns = (row for turn in zip_longest(*groups) for row in turn if row is not None)
        self.rows = tuple(train[row] for row in turns)

    def first(self, k: int) -> tuple[Example, ...]:
        """The same k for every question, so that a server keeps them as a prefix."""
        return self.rows[:k]

    def nearest(self, asked: Example, k: int) -> tuple[Example, ...]:
        """The k rows whose questions are most like this one's by BM25, the most like first; rows
        that are equally like in the pool's order."""
        ranked = self._retriever.ranked(asked.question, k)
        return tuple(self.rows[index] for index in ranked)

    @cached_property
    def _retriever(self) -> Retriever:
        return Retriever([row.question for row in self.rows])


def without_leaks(asked: Sequence[Example], train: Sequence[Example]) -> list[Example]:
    """The rows whose questions are no duplicate or near-duplicate (as in `data.near`, chains too)
    of a training row's: the adapter knows the others by heart, and a prompt would show them."""
    leaked: set[int] = set()
    for group in alike([*train, *asked]):
        if group[0] < len(train):
            leaked.update(index - len(train) for index in group)
    return [row for index, row in enumerate(asked) if index not in leaked]
