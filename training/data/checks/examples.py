"""Looks for what is wrong with training data before anything is computed.

A check returns findings and prints nothing; `refuse` turns errors among them into InvalidData.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotswap.training.data.checks.answers import check_answers
from hotswap.training.data.checks.findings import Finding
from hotswap.training.data.checks.repeats import check_repeats
from hotswap.training.data.checks.tidiness import check_tidiness
from hotswap.training.data.classes import Classes, Counts, answers_of
from hotswap.training.data.example import Example


def check_examples(
    train: Sequence[Example],
    validation: Sequence[Example] = (),
    test: Sequence[Example] = (),
) -> list[Finding]:
    """Empty answers (errors); empty questions, missing labels, repeated, nearly repeated and
    contradicting rows, what is held back and trained on too, unbalanced answers, spellings, white
    space, letter case, personal data (warnings). Memory: hashes of the rows, never their texts."""
    if not train:
        return []
    parts = {"train": train, "validation": validation, "test": test}
    counts = Counts(answers_of(train))
    classes = Classes.of_counts(counts)
    judged = ("user",) if classes else ("user", "assistant")  # of classes, spellings are told
    return [
        *check_repeats(parts),
        *check_answers(parts, counts, classes),
        *(finding for rows in parts.values() for finding in check_tidiness(rows, judged)),
    ]
