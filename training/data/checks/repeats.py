"""Rows that say the same again: duplicates, contradictions, leaks, exactly and nearly.

Rows are compared by hashes; only those that are reported are read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt

from hotswap.training.data.checks.findings import Finding, listed, warning
from hotswap.training.data.duplicates import Questions, first_equal, near_groups
from hotswap.training.data.example import Example, Place
from hotswap.training.data.spool import LazySequence
from hotswap.training.data.texts import normalised, text_hash


def check_repeats(parts: Mapping[str, Sequence[Example]]) -> Iterator[Finding]:
    """Of all `parts`, by role, the first of which is "train": what is the same within the training
    rows, and what is held back and trained on too."""
    rows = _Joined(parts)
    inputs, pairs = bytearray(), bytearray()
    for index, example in enumerate(rows):
        said = input_key(example)
        inputs += text_hash(said)
        if index < rows.num_train:
            pairs += text_hash(f"{said}\n{normalised(example.label)}")
    same_input = first_equal(inputs)
    yield from _duplicates(rows, same_input, first_equal(pairs))
    yield from _leaks(rows, same_input)
    yield from _near(rows, same_input)


def input_key(example: Example) -> str:
    """Of all messages before the last answer."""
    return "\n".join(f"{m['role']} {normalised(m['content'])}" for m in example.messages[:-1])


class _Joined(LazySequence[Example]):
    """The rows of all parts, one part behind the other."""

    def __init__(self, parts: Mapping[str, Sequence[Example]]) -> None:
        self._parts = list(parts.values())
        self._roles = list(parts)
        self._ends = list(accumulate(map(len, self._parts)))
        self.num_train = self._ends[0]

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[Example]:
        return chain(*self._parts)

    def at(self, index: int) -> Example:
        part = self._part(index)
        return self._parts[part][index - self._ends[part] + len(self._parts[part])]

    def place(self, index: int) -> Place:
        return self[index].place

    def role(self, index: int) -> str:
        return self._roles[self._part(index)]

    def _part(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))


_Firsts = npt.NDArray[np.int64]


def _duplicates(rows: _Joined, same_input: _Firsts, same_row: _Firsts) -> Iterator[Finding]:
    """Rows whose input was seen before: with the same last answer, or only with others."""
    own = np.arange(rows.num_train)
    for index in np.flatnonzero(same_input[: rows.num_train] != own).tolist():
        if same_row[index] != index:
            text = f"the same row as {rows.place(int(same_row[index]))}"
            yield warning("duplicate", rows.place(index), text)
        else:
            first = rows.place(int(same_input[index]))
            text = f"the same input as {first} with another answer"
            yield warning("contradiction", rows.place(index), text)


def _leaks(rows: _Joined, same_input: _Firsts) -> Iterator[Finding]:
    is_trained = same_input[rows.num_train :] < rows.num_train
    for index in (np.flatnonzero(is_trained) + rows.num_train).tolist():
        first = rows.place(int(same_input[index]))
        text = f"the same input is trained on ({first}), so {rows.role(index)} figures flatter"
        yield warning("leak", rows.place(index), text)


def _near(rows: _Joined, same_input: _Firsts) -> Iterator[Finding]:
    """Inputs that are nearly those of a training row, directly or through others, and not the
    same as one that is reported already."""
    for group in near_groups(Questions(rows)):
        if group[0] >= rows.num_train:
            continue
        trained = sorted({int(same_input[i]) for i in group if i < rows.num_train})
        chain = _Chain(rows, trained)
        known = {int(same_input[group[0]])}
        for index in group[1:]:
            same = int(same_input[index])
            if same not in known:
                yield chain.finding(index)
            if index < rows.num_train:
                known.add(same)


class _Chain:
    """Training rows each of which is nearly another one of them; they are named in every finding
    about them, since a row may be near to any of them."""

    def __init__(self, rows: _Joined, trained: Sequence[int]) -> None:
        self._rows = rows
        self._trained = trained
        self._chain = ""
        if len(trained) > 2:
            places = listed(map(rows.place, trained), len(trained))
            self._chain = f"of a chain of {len(trained)} near-duplicates ({places})"

    def finding(self, index: int) -> Finding:
        place, first = self._rows.place(index), self._rows.place(self._trained[0])
        if index < self._rows.num_train:
            text = f"nearly the input of {first}"
            return warning("near_duplicate", place, f"one {self._chain}" if self._chain else text)
        flatters = f"so {self._rows.role(index)} figures flatter"
        places = listed(map(self._rows.place, self._trained), len(self._trained))
        which = self._chain or f"of {places}"
        return warning("near_leak", place, f"nearly an input {which}, trained on, {flatters}")
