"""Changes to rows that a user asks for, each counted, so that a manifest can tell of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.domain.prompts import Normaliser
from hotswap.registry.domain.values import ValueObject, first_problem
from hotswap.training.data.classes import balance
from hotswap.training.data.duplicates import alike
from hotswap.training.data.example import Example
from hotswap.training.data.texts import normalised, structure_of, text_hash

_ROLES = {"question": "user", "answer": "assistant"}
_MAX_STRUCTURED_SHARE = 0.05

Column = Literal["question", "answer"]
Applied = dict[str, Any]
"""What a fix did: its name, its options and `num_rows`, the rows it changed, left out or added."""


class Fixes(ValueObject):
    """Which fixes are asked for. Questions are all messages of users, answers all of the
    assistant's; system messages are left as they are."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    noun: ClassVar[str] = "fixes"
    """What errors call these options."""

    trim: bool = False
    """Trim questions and answers and make runs of white space one space; of an answer that is
    JSON, SQL or code, only trim the ends."""
    lower: tuple[Column, ...] = ()
    """Columns to write in small letters: question, answer or both, with a comma between them;
    refused for JSON, SQL and code."""
    dedup: Literal["exact", "near"] | None = None
    """Leave out rows that are an earlier row but for case, white space and Unicode's forms; near:
    also those whose question is a near-duplicate (Jaccard index of 0.8) and all else the same."""
    balance: float | None = Field(default=None, gt=0)
    """Even out classes to this many times the rows of the median class; never the validation's."""
    balance_by: Literal["down", "over"] = "down"
    """How: leave rows of larger classes out, or repeat rows of smaller ones."""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """The options with these values; raises InvalidSettings naming the first that does not
        fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidSettings(f"{cls.noun}: {first_problem(error)}") from None

    @field_validator("lower", mode="before")
    @classmethod
    def _columns(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    def required_normaliser(self) -> Normaliser:
        """What a server has to do to requests, so that it sees what these fixes leave."""
        trimmed = Normaliser.WHITESPACE if self.trim else Normaliser.NONE
        lowered = Normaliser.LOWERCASE if "question" in self.lower else Normaliser.NONE
        return trimmed | lowered


Keep = Callable[[Iterable[Example]], Sequence[Example]]
"""Where rows that were fixed are kept: `list`, or a spool on disk."""


def clean(
    examples: Sequence[Example], fixes: Fixes, keep: Keep = list
) -> tuple[Sequence[Example], list[Applied]]:
    """The rows, trimmed, lowered and without duplicates, in this order and the file's; raises
    InvalidData for a column that is not to be lowered."""
    rows, applied = examples, []
    if fixes.trim:
        rows, num_rows = _rewritten(rows, {"question": _collapsed, "answer": _trimmed}, keep)
        applied.append({"fix": "trim", "num_rows": num_rows})
    for column in fixes.lower:
        _refuse_structured(rows, column)
        rows, num_rows = _rewritten(rows, {column: Normaliser.LOWERCASE.apply}, keep)
        applied.append({"fix": "lower", "column": column, "num_rows": num_rows})
    if fixes.dedup is not None:
        before = len(rows)
        rows = keep(without_duplicates(rows, near=fixes.dedup == "near"))
        applied.append({"fix": "dedup", "how": fixes.dedup, "num_rows": before - len(rows)})
    return rows, applied


def even_out(
    examples: Sequence[Example], fixes: Fixes, seed: int, keep: Keep = list
) -> tuple[Sequence[Example], list[Applied]]:
    """The rows, balanced when that is asked for; for rows to train on, after any split."""
    if fixes.balance is None:
        return examples, []
    chosen = balance(examples, fixes.balance, fixes.balance_by, seed)
    rows = keep(examples[index] for index in chosen)
    how = {"ratio": fixes.balance, "by": fixes.balance_by}
    return rows, [{"fix": "balance", **how, "num_rows": abs(len(rows) - len(examples))}]


def without_duplicates(examples: Sequence[Example], *, near: bool) -> Iterator[Example]:
    """The first of the rows whose messages are the same but for case, white space and Unicode's
    forms; with `near`, questions are the same that are connected by near-duplicates."""
    group_of = {}
    if near:
        group_of = {row: f"{n}" for n, group in enumerate(alike(examples)) for row in group}
    known = set()
    for row, example in enumerate(examples):
        question = group_of[row] if near else normalised(example.question)
        rest = [
            [m["role"]] if m["role"] == "user" else [m["role"], normalised(m["content"])]
            for m in example.messages
        ]
        said = text_hash(json.dumps([question, rest, sorted(example.context)]))
        if said not in known:
            known.add(said)
            yield example


def _rewritten(
    examples: Sequence[Example], changes: dict[Column, Callable[[str], str]], keep: Keep
) -> tuple[Sequence[Example], int]:
    """The rows with the texts of some columns changed, and how many of them differ now."""
    change_of = {_ROLES[column]: change for column, change in changes.items()}

    def rewrite(example: Example) -> Example:
        messages = tuple(
            {**m, "content": change_of[m["role"]](m["content"])} if m["role"] in change_of else m
            for m in example.messages
        )
        return replace(example, messages=messages)

    rows = keep(map(rewrite, examples))
    return rows, sum(a != b for a, b in zip(rows, examples, strict=True))


def _collapsed(text: str) -> str:
    return Normaliser.WHITESPACE.apply(text)


def _trimmed(text: str) -> str:
    return text.strip() if structure_of(text) else _collapsed(text)


def _refuse_structured(examples: Sequence[Example], column: Column) -> None:
    first, num_structured = None, 0
    for example in examples:
        if (structure := _structure(example, _ROLES[column])) is not None:
            first = first or (example, structure)
            num_structured += 1
    if first is not None and num_structured > _MAX_STRUCTURED_SHARE * len(examples):
        example, structure = first
        example.place.refuse(
            f"the {column} is {structure}, as in {num_structured} of"
            f" {len(examples)} rows; small letters would change what it means; leave"
            f" --lower {column} out",
            field=column,
        )


def _structure(example: Example, role: str) -> str | None:
    return next(filter(None, map(structure_of, example.texts_of(role))), None)
