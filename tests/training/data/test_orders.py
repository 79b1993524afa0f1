from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.rows import GENERATE_ORDERS

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(GENERATE_ORDERS))


@pytest.fixture(scope="module")
def rows(example: dict[str, Any]) -> tuple[Rows, Rows]:
    make_rows: Callable[..., tuple[Rows, Rows]] = example["make_rows"]
    return make_rows(360, 60, seed=7)


def pair(row: dict[str, str]) -> tuple[str, str]:
    answer = json.loads(row["answer"])
    return answer["item"], answer["size"]


def test_the_same_seed_gives_the_same_rows(
    example: dict[str, Any], rows: tuple[Rows, Rows]
) -> None:
    assert example["make_rows"](360, 60, seed=7) == rows
    assert example["make_rows"](360, 60, seed=8) != rows


def test_no_message_stands_twice(rows: tuple[Rows, Rows]) -> None:
    messages = [row["question"] for part in rows for row in part]

    assert len(set(messages)) == len(messages) == 420


def test_a_quarter_of_the_heldout_rows_ask_for_pairs_never_trained_on(
    rows: tuple[Rows, Rows],
) -> None:
    train, heldout = rows
    trained = {pair(row) for row in train}

    assert sum(pair(row) not in trained for row in heldout) == 15


def test_the_script_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["generate.py", str(tmp_path / "orders"), "--train", "8", "--heldout", "4"]
    monkeypatch.setattr("sys.argv", arguments)

    runpy.run_path(str(GENERATE_ORDERS), run_name="__main__")

    lines = {p.name: len(p.read_text().splitlines()) for p in (tmp_path / "orders").iterdir()}
    assert lines == {"train.jsonl": 8, "heldout.jsonl": 4}
