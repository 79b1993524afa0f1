"""What is wrong with answers as a whole: labels that are none, uneven classes, spellings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hotswap.training.data.checks.findings import Finding, Places, Severity, short, warning
from hotswap.training.data.classes import Classes, Counts
from hotswap.training.data.example import Example
from hotswap.training.data.texts import normalised, normalised_hash, text_hash

# Where a share or a balance becomes worth a warning; of sets that are large enough to have one.
MIN_JUDGED = 20
MAX_ANSWER_SHARE = 0.5
MIN_BALANCE = 0.75
MAX_CLASS_RATIO = 20

# What stands in tables where a label is missing.
PLACEHOLDERS = frozenset(
    {
        *("n/a", "na", "#n/a", "nan", "none", "null", "nil", "unknown", "undefined", "missing"),
        *("unlabeled", "unlabelled", "no label", "not labeled", "not labelled", "tbd", "todo"),
        *("-", "--", "?", "??", "???", ".", "_", "<na>", "(none)", "[none]", "\\n"),
    }
)


def check_answers(
    parts: Mapping[str, Sequence[Example]], counts: Counts, classes: Classes | None
) -> Iterator[Finding]:
    """Of all `parts`, by role; `counts` and `classes` are of the answers of "train"."""
    train = parts["train"]
    if counts.total >= MIN_JUDGED:
        yield from _dominant(counts, train)
    if classes is None:
        return
    if counts.total >= MIN_JUDGED:
        yield from _uneven(classes, train)
    yield from _labels(parts)


def _dominant(counts: Counts, train: Sequence[Example]) -> Iterator[Finding]:
    ((answer, count),) = counts.most_frequent(1)
    if count > MAX_ANSWER_SHARE * counts.total:
        text = f"{count} of {counts.total} answers are {short(answer)}; a model may learn no more"
        yield _of_file("dominant_answer", train, text)


def _uneven(classes: Classes, train: Sequence[Example]) -> Iterator[Finding]:
    largest, smallest = classes.counts[0], classes.counts[-1]
    if classes.balance < MIN_BALANCE or largest.count > MAX_CLASS_RATIO * smallest.count:
        text = (
            f"the {len(classes.counts)} answers are unevenly frequent (balance"
            f" {classes.balance:.2f} of 1): {short(largest.text)} {largest.count} times,"
            f" {short(smallest.text)} {smallest.count} times"
        )
        yield _of_file("imbalance", train, text)


@dataclass
class _Spelling:
    """One way to write a label, and by role where it stands."""

    shown: str
    places: dict[str, Places] = field(default_factory=lambda: defaultdict(Places))

    @property
    def count(self) -> int:
        return sum(places.count for places in self.places.values())


def _labels(parts: Mapping[str, Sequence[Example]]) -> Iterator[Finding]:
    """Labels that stand for none, and classes that differ only in letter case, white space or
    Unicode form."""
    known: dict[bytes, dict[bytes, _Spelling]] = defaultdict(dict)
    placeholders: dict[bytes, str] = {}
    for role, examples in parts.items():
        for example in examples:
            for answer in example.answers:
                spellings, exact = known[normalised_hash(answer)], text_hash(answer)
                if exact not in spellings:
                    spellings[exact] = _Spelling(short(answer))
                    if normalised(answer) in PLACEHOLDERS:
                        placeholders[exact] = short(answer)
                spellings[exact].places[role].add(example.place)
    for spellings in known.values():
        for exact, spelling in spellings.items():
            if exact in placeholders:
                yield from _no_label(spelling)
        usual, *others = sorted(spellings.values(), key=lambda spelling: -spelling.count)
        for other in others:
            for places in other.places.values():
                text = (
                    f"the answer {other.shown} ({places}) is elsewhere {usual.shown}"
                    f" ({usual.count} rows)"
                )
                yield warning("spelling", places.first, text)


def _no_label(spelling: _Spelling) -> Iterator[Finding]:
    for places in spelling.places.values():
        text = (
            f"{places.count} rows have the label {spelling.shown}, as if they had none ({places});"
            " label them or leave them out, unless it is a class"
        )
        yield warning("no_label", places.first, text)


def _of_file(code: str, examples: Sequence[Example], text: str) -> Finding:
    return Finding(code, Severity.WARNING, examples[0].place.file, text)
