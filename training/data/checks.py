"""Looks for what is wrong with training data before anything is computed.

A check returns findings and prints nothing; `refuse` turns errors among them into InvalidData.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from registry.errors import InvalidData
from training.data.dataset import Row
from training.data.formats import Example, Place
from training.data.near import key
from training.data.personal import personal_data
from training.data.splitting import alike
from training.data.statistics import Classes

# Where a share or a balance becomes worth a warning; of sets that are large enough to have one.
MIN_JUDGED = 20
MAX_ANSWER_SHARE = 0.5
MIN_BALANCE = 0.75
MAX_CLASS_RATIO = 20
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


def check_examples(
    train: Sequence[Example],
    validation: Sequence[Example] = (),
    test: Sequence[Example] = (),
) -> list[Finding]:
    """Empty answers (errors); repeated, nearly repeated and contradicting rows, what is held back
    and trained on too, unbalanced answers, spellings, personal data (warnings)."""
    held_back = {"validation": validation, "test": test}
    return [
        *_empty_answers([*train, *validation, *test]),
        *_repeats(train),
        *_leaks(train, held_back),
        *_near(train, held_back),
        *_unbalanced(train),
        *_spellings(train),
        *_white_space(train),
        *_personal(train),
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


def _repeats(train: Sequence[Example]) -> Iterator[Finding]:
    """Rows whose input was seen before: with the same last answer, or only with others."""
    first: dict[str, dict[str, Place]] = defaultdict(dict)
    for example in train:
        places, answer = first[_input_key(example)], key(example.answers[-1])
        if answer in places:
            yield _warning("duplicate", example, f"the same row as {places[answer]}")
        elif places:
            text = f"the same input as {next(iter(places.values()))} with another answer"
            yield _warning("contradiction", example, text)
        places.setdefault(answer, example.place)


def _leaks(train: Sequence[Example], held_back: dict[str, Sequence[Example]]) -> Iterator[Finding]:
    trained = {_input_key(example): example.place for example in reversed(train)}
    for role, examples in held_back.items():
        for example in examples:
            if (place := trained.get(_input_key(example))) is not None:
                text = f"the same input is trained on ({place}), so {role} figures flatter"
                yield _warning("leak", example, text)


def _near(train: Sequence[Example], held_back: dict[str, Sequence[Example]]) -> Iterator[Finding]:
    """Inputs that are nearly those of a training row, directly or through others, and not the
    same as one that is told of already."""
    roles = ["train"] * len(train) + [role for role, e in held_back.items() for _ in e]
    examples = [*train, *(example for e in held_back.values() for example in e)]
    for group in alike(examples):
        first, *others = group
        if roles[first] != "train":
            continue
        known = {_input_key(examples[first])}
        for index in others:
            if _input_key(examples[index]) not in known:
                yield _nearly(examples[index], examples[first], roles[index])
            if roles[index] == "train":
                known.add(_input_key(examples[index]))


def _nearly(example: Example, first: Example, role: str) -> Finding:
    if role == "train":
        return _warning("near_duplicate", example, f"nearly the input of {first.place}")
    text = f"nearly an input that is trained on ({first.place}), so {role} figures flatter"
    return _warning("near_leak", example, text)


def _unbalanced(train: Sequence[Example]) -> Iterator[Finding]:
    answers = [answer for example in train for answer in example.answers]
    if len(answers) < MIN_JUDGED:
        return
    (answer, count), *_ = Counter(answers).most_common(1)
    if count > MAX_ANSWER_SHARE * len(answers):
        text = f"{count} of {len(answers)} answers are {_short(answer)}; a model may learn no more"
        yield _of_file("dominant_answer", train, text)
    classes = Classes.of(answers)
    if classes is None:
        return
    largest, smallest = classes.counts[0], classes.counts[-1]
    if classes.balance < MIN_BALANCE or largest.count > MAX_CLASS_RATIO * smallest.count:
        text = (
            f"the {len(classes.counts)} answers are unevenly frequent (balance"
            f" {classes.balance:.2f} of 1): {_short(largest.text)} {largest.count} times,"
            f" {_short(smallest.text)} {smallest.count} times"
        )
        yield _of_file("imbalance", train, text)


def _spellings(train: Sequence[Example]) -> Iterator[Finding]:
    """Classes that differ only in letter case, white space or Unicode form."""
    places: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for example in train:
        for answer in example.answers:
            places[key(answer)][answer].append(example.place)
    if Classes.of([answer for example in train for answer in example.answers]) is None:
        return
    for spellings in places.values():
        usual, *others = sorted(spellings, key=lambda spelling: -len(spellings[spelling]))
        for other in others:
            found = spellings[other]
            yield Finding(
                "spelling",
                Severity.WARNING,
                str(found[0]),
                f"the answer {_short(other)} ({_rows(found)}) is elsewhere {_short(usual)}"
                f" ({len(spellings[usual])} rows)",
            )


def _white_space(train: Sequence[Example]) -> Iterator[Finding]:
    """Texts with white space at their ends, or several spaces in a row within a line."""
    for what, role in (("inputs", "user"), ("answers", "assistant")):
        found = [
            example.place
            for example in train
            if any(m["role"] == role and _is_untidy(m["content"]) for m in example.messages)
        ]
        if found:
            text = f"{what} with white space at an end, or doubled: {_rows(found)}"
            yield Finding("white_space", Severity.WARNING, str(found[0]), text)


def _personal(train: Sequence[Example]) -> Iterator[Finding]:
    for example in train:
        text = "\n".join(message["content"] for message in example.messages)
        for kind in personal_data(text):
            yield _warning("personal_data", example, f"holds what looks like personal data: {kind}")


def _input_key(example: Example) -> str:
    """Of all messages before the last answer."""
    return "\n".join(f"{m['role']} {key(m['content'])}" for m in example.messages[:-1])


def _is_untidy(text: str) -> bool:
    return bool(text.strip()) and (text != text.strip() or "  " in text)


def _warning(code: str, example: Example, text: str) -> Finding:
    return Finding(code, Severity.WARNING, str(example.place), text)


def _of_file(code: str, examples: Sequence[Example], text: str) -> Finding:
    return Finding(code, Severity.WARNING, examples[0].place.file, text)


def _rows(places: Sequence[Place]) -> str:
    listed = ", ".join(str(place.line) for place in places[:_LISTED])
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return f"line{'s' if len(places) > 1 else ''} {listed}{more}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
