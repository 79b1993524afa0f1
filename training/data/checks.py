"""Looks for what is wrong with training data before anything is computed.

A check returns findings and prints nothing; `refuse` turns errors among them into InvalidData.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hotswap.training.data.answers import check_answers
from hotswap.training.data.dataset import Row
from hotswap.training.data.findings import Finding, Severity
from hotswap.training.data.formats import Example
from hotswap.training.data.hashes import Counts
from hotswap.training.data.repeats import check_repeats
from hotswap.training.data.statistics import Classes, answers_of
from hotswap.training.data.tidiness import check_tidiness


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


def check_lengths(rows: Iterable[Row], max_length: int) -> list[Finding]:
    """Rows that have more than `max_length` tokens; they are refused, never cut."""
    return [
        Finding(
            "too_long",
            Severity.ERROR,
            str(row.place),
            f"{len(row.ids)} tokens, at most {max_length} are allowed; shorten the row or raise"
            " max_length",
        )
        for row in rows
        if len(row.ids) > max_length
    ]
