"""Answers as classes: what was expected, what was found, F1 by class. Pure.

The classes are the references; an answer that is none of them is "other": it is a missing answer to
its row and counts against no class's precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hotswap.training.data.texts import normalised
from hotswap.training.evaluation.answered import AnsweredRow
from hotswap.training.evaluation.metrics import Array, Metric, f1

MAX_CLASSES = 500
OTHER = "(other)"
_MAX_LENGTH = 60


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Of one class: P = TP / (TP + FP), R = TP / (TP + FN), F1 = 2·TP / (2·TP + FP + FN), each 0
    where it is 0 / 0; `support` is TP + FN."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def classes_of(references: Sequence[str]) -> tuple[str, ...]:
    """The classes of a set whose references repeat themselves, sorted; empty for any other set.

    Each must occur twice on average, be short and on one line, and there must be at least two.
    """
    names = {normalised(reference) for reference in references}
    is_set = 2 <= len(names) <= min(MAX_CLASSES, len(references) // 2)
    is_short = all(len(name) <= _MAX_LENGTH for name in names)
    one_line = all("\n" not in reference.strip() for reference in references)
    return tuple(sorted(names)) if is_set and is_short and one_line else ()


def class_metrics(classes: tuple[str, ...]) -> tuple[Metric, ...]:
    """Micro and macro F1 over these classes."""

    def statistics(rows: Sequence[AnsweredRow]) -> Array:
        return _counts(rows, classes)

    micro = "F1 = 2·TP / (2·TP + FP + FN) of TP, FP and FN added up over classes."
    macro = "The mean over classes of F1 = 2·TP / (2·TP + FP + FN), 0 where all three are 0."
    return (
        Metric("class_f1_micro", micro, statistics, _micro),
        Metric("class_f1_macro", macro, statistics, _macro),
    )


def class_scores(rows: Sequence[AnsweredRow], classes: tuple[str, ...]) -> list[ClassScore]:
    """One for each class, in their order."""
    hits, answered, expected = np.split(_counts(rows, classes).sum(0), 3)
    return [
        ClassScore(
            name,
            precision=_share(hits[i], answered[i]),
            recall=_share(hits[i], expected[i]),
            f1=_share(2 * hits[i], answered[i] + expected[i]),
            support=int(expected[i]),
        )
        for i, name in enumerate(classes)
    ]


def confusion(rows: Sequence[AnsweredRow], classes: tuple[str, ...]) -> list[list[int]]:
    """[expected][found] numbers of rows; the last column is OTHER. Empty without classes."""
    if not classes:
        return []
    at = {name: i for i, name in enumerate(classes)}
    pairs = Counter((at[normalised(r.reference)], at.get(normalised(r.answer))) for r in rows)
    columns: list[int | None] = [*range(len(classes)), None]
    return [[pairs[i, j] for j in columns] for i in range(len(classes))]


def _counts(rows: Sequence[AnsweredRow], classes: tuple[str, ...]) -> Array:
    """(num_rows, 3 · num_classes): hits, answered, expected of each class."""
    at = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(rows), 3, len(classes)))
    for row, of_row in zip(rows, counts, strict=True):
        expected, answered = at[normalised(row.reference)], at.get(normalised(row.answer))
        of_row[2, expected] = 1
        if answered is not None:
            of_row[1, answered] = 1
            of_row[0, expected] = answered == expected
    return counts.reshape(len(rows), -1)


def _micro(sums: Array) -> Array:
    hits, answered, expected = (part.sum(-1) for part in np.split(sums, 3, axis=-1))
    return f1(np.stack([hits, answered - hits, expected - hits], axis=-1))


def _macro(sums: Array) -> Array:
    hits, answered, expected = np.split(sums, 3, axis=-1)
    of_classes = f1(np.stack([hits, answered - hits, expected - hits], axis=-1))
    return np.asarray(np.nan_to_num(of_classes).mean(-1))


def _share(above: float, below: float) -> float:
    return float(above / below) if below else 0.0
