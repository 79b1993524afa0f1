"""What stored runs depend on: hashes of rows, and which rows a seed puts where.

The values were computed by release 0.1.0. A run that was started with it goes on with these.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from hotswap.training.batches import batches
from hotswap.training.data.checks.repeats import input_key
from hotswap.training.data.classes import balance
from hotswap.training.data.duplicates import alike
from hotswap.training.data.example import Example, Place
from hotswap.training.data.fixes import without_duplicates
from hotswap.training.data.splitting import cut
from hotswap.training.data.texts import normalised, text_hash
from hotswap.training.data.tokens import Row

THINGS = ("pizza", "tea", "bread", "soup", "salad", "coffee")
LABELS = ("order", "cancel", "ask")


def example(number: int) -> Example:
    """Of 60 rows, every seventh nearly and every eleventh exactly repeats an earlier question."""
    about = number - 1 if number % 7 == 6 or number % 11 == 10 else number
    thing = THINGS[about % len(THINGS)]
    question = (
        f"I would like to have {about * 37} portions of {thing} sent to my house in street {about}"
    )
    question += " please" if number % 7 == 6 else ""
    label = LABELS[0 if about % 5 < 3 else 1 + about % 2]
    messages = (
        {"role": "user", "content": question.upper() if number % 11 == 10 else question},
        {"role": "assistant", "content": label},
    )
    if number % 4 == 0:
        messages = ({"role": "system", "content": "Ｓort ﬁrst"}, *messages)
    if number % 10 == 3:
        again = ({"role": "user", "content": "And then?"}, {"role": "assistant", "content": label})
        return Example((*messages, *again), Place("rows.jsonl", number), frozenset({1}))
    return Example(messages, Place("rows.jsonl", number))


ROWS = [example(number) for number in range(60)]


def digest(values: object) -> str:
    return sha256(repr(values).encode("utf-8")).hexdigest()[:16]


def test_hash_of_a_text() -> None:
    assert text_hash("").hex() == "cae66941d9efbd404e4d88758ea67670"
    assert text_hash("Grüße, 東京\n").hex() == "ce3bf753641c1e2d08d72bc68aeaa040"


def test_key_of_a_text() -> None:
    assert normalised("  Ｓtraße\tﬁrst \u00a0 İ ") == "strasse first i\u0307"


def test_hashes_of_inputs() -> None:
    assert digest([text_hash(input_key(row)).hex() for row in ROWS]) == "51f6bb2eabd71ef4"


def test_rows_that_are_alike() -> None:
    groups = [group for group in alike(ROWS) if len(group) > 1]
    assert groups == [
        [0, 30],
        [1, 19, 20],
        [2, 21, 26, 27],
        [4, 40, 41, 46],
        [5, 6, 35, 53, 54],
        [9, 10],
        [12, 13],
        [31, 32],
        [33, 34],
        [42, 43],
        [47, 48],
    ]


@pytest.mark.parametrize(
    ("seed", "parts"),
    [
        (0, [[7, 8, 15, 16, 23, 36], [3, 12, 13, 17, 24, 28, 29, 37, 38, 45, 50]]),
        (7, [[16, 22, 36, 38, 39, 51], [1, 3, 18, 19, 20, 25, 28, 29, 31, 32, 44, 57]]),
    ],
)
def test_rows_that_a_split_holds_back(seed: int, parts: list[list[int]]) -> None:
    kept, *held = cut(ROWS, (0.1, 0.2), seed)
    assert held == parts
    assert sorted([*kept, *held[0], *held[1]]) == list(range(60))


@pytest.mark.parametrize(
    ("way", "value"), [("down", "d2748f148e3cb4d6"), ("over", "0f521360cc21614b")]
)
def test_rows_that_balance_keeps(way: str, value: str) -> None:
    assert digest(balance(ROWS, 1.2, way, 3)) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(("near", "lines"), [(False, [10]), (True, [6, 10, 21, 26, 27, 35, 46])])
def test_rows_that_are_left_out_as_duplicates(near: bool, lines: list[int]) -> None:
    kept = {row.place.line for row in without_duplicates(ROWS, near=near)}
    assert sorted(set(range(60)) - kept) == lines


def test_order_of_rows_in_batches() -> None:
    rows = [Row((1,) * (3 + n * 7 % 11), (True,), Place("rows.jsonl", n)) for n in range(60)]
    lines = [
        [[row.place.line for row in batch] for batch in batches(rows, 4, seed=5, epoch=epoch)]
        for epoch in (0, 1)
    ]
    assert digest(lines) == "1dc58ddb342463a1"
