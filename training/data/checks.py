"""Looks for what is wrong with training data before anything is computed.

A check returns findings and prints nothing; `refuse` turns errors among them into InvalidData.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from registry.errors import InvalidData
from training.data.dataset import Row
from training.data.formats import Example, Place

_LISTED = 10


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was noticed; `where` is a place, or the file when it concerns the whole."""

    code: str
    severity: Severity
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.text} [{self.code}]"


def check_examples(train: Sequence[Example], validation: Sequence[Example] = ()) -> list[Finding]:
    """Empty answers (errors); duplicates, contradictions and leaks (warnings)."""
    return [
        *_empty_answers([*train, *validation]),
        *_repeats(train),
        *_leaks(train, validation),
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


def refuse(findings: Sequence[Finding]) -> None:
    """Raise InvalidData, listing the first errors, when there is any."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if not errors:
        return
    listed = "; ".join(f"{f.where}: {f.text}" for f in errors[:_LISTED])
    more = f"; and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
    raise InvalidData(
        f"the data cannot be trained on ({len(errors)} errors): {listed}{more}",
        codes=sorted({finding.code for finding in errors}),
        where=[finding.where for finding in errors],
    )


def _empty_answers(examples: Sequence[Example]) -> list[Finding]:
    return [
        Finding("empty_answer", Severity.ERROR, str(example.place), "the answer is empty")
        for example in examples
        if not all(answer.strip() for answer in example.answers)
    ]


def _repeats(train: Sequence[Example]) -> list[Finding]:
    """Rows whose input was seen before: with the same last answer, or with another one."""
    findings: list[Finding] = []
    first: dict[_Key, tuple[str, Place]] = {}
    for example in train:
        answer, place = first.setdefault(_input(example), (example.answers[-1], example.place))
        if place == example.place:
            continue
        if answer == example.answers[-1]:
            code, text = "duplicate", f"the same row as {place}"
        else:
            code, text = "contradiction", f"the same input as {place} with another answer"
        findings.append(Finding(code, Severity.WARNING, str(example.place), text))
    return findings


def _leaks(train: Sequence[Example], validation: Sequence[Example]) -> list[Finding]:
    trained = {_input(example): example.place for example in train}
    return [
        Finding(
            "leak",
            Severity.WARNING,
            str(example.place),
            f"the same input is trained on ({place}), so the validation loss flatters",
        )
        for example in validation
        if (place := trained.get(_input(example))) is not None
    ]


_Key = tuple[tuple[str, str], ...]


def _input(example: Example) -> _Key:
    """All messages before the last answer, exactly as they are written."""
    return tuple((m["role"], m["content"]) for m in example.messages[:-1])
