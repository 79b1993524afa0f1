"""Compares answers that should be JSON, field by field. Pure.

A field is the path to a leaf and the leaf's value: `{"item": {"size": "L"}}` has one,
`("item", "size") = "L"`. Items of a list count in any order, each as often as it occurs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hotswap.training.data.texts import NOT_JSON, json_value

Field = tuple[tuple[str, ...], str]


def fields_of(text: str) -> Counter[Field] | None:
    """Every field and how often it occurs; None when the text is not JSON."""
    value = json_value(text)
    return None if value is NOT_JSON else Counter(_leaves(value, ()))


def field_counts(answer: str, reference: str) -> tuple[int, int, int]:
    """(TP, FP, FN): fields in both, in the answer only, in the reference only. Of an answer that
    is not JSON all fields of the reference are missing."""
    expected = fields_of(reference) or Counter[Field]()
    answered = fields_of(answer) or Counter[Field]()
    common = (answered & expected).total()
    return common, answered.total() - common, expected.total() - common


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[Field]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(inner, (*path, "[]"))
    else:
        yield path, json.dumps(value, ensure_ascii=False)
