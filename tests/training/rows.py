"""Small learnable tasks for the tiny base, the example's, and a real set."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.example import Example, Place
from hotswap.training.data.tokens import Row, tokenize

GENERATE_ORDERS = Path(__file__).parents[2] / "examples" / "orders" / "generate.py"
WORDS = ("one", "two", "three", "four", "five")


def counting(count: int) -> list[dict[str, str]]:
    """Questions `<word> <n>` whose answer repeats the word; lengths differ from row to row."""
    return [
        {
            "question": f"{WORDS[i % 5]} {i}" + " fox" * (i % 3),
            "answer": " ".join([WORDS[i % 5]] * (1 + i % 2)),
        }
        for i in range(count)
    ]


def examples_of(rows: Sequence[dict[str, str]], file: str = "rows.jsonl") -> list[Example]:
    return [
        Example(
            (
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ),
            Place(file, number),
        )
        for number, row in enumerate(rows, start=1)
    ]


def tokenized(count: int, prompt: PromptFormat, base: BaseDirectory) -> list[Row]:
    return [tokenize(e, prompt, base.tokenizer) for e in examples_of(counting(count))]


def orders(num_train: int, num_heldout: int, seed: int) -> tuple[list[dict[str, str]], ...]:
    """Training and held-out rows of the example's task."""
    return runpy.run_path(str(GENERATE_ORDERS))["make_rows"](num_train, num_heldout, seed=seed)


def snips(folder: Path, pattern: str) -> list[Example]:
    """Utterances with their intent and slots as JSON; one file is not UTF-8."""
    found = []
    for path in sorted((folder / "snips").glob(pattern)):
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        ((intent, utterances),) = json.loads(text).items()
        found += [
            _utterance(intent, u["data"], Place(path.name, i)) for i, u in enumerate(utterances)
        ]
    return found


def _utterance(intent: str, parts: list[dict[str, Any]], place: Place) -> Example:
    slots = {part["entity"]: part["text"] for part in parts if "entity" in part}
    answer = json.dumps({"intent": intent, "slots": slots}, ensure_ascii=False)
    asked = "".join(part["text"] for part in parts)
    return Example(
        ({"role": "user", "content": asked}, {"role": "assistant", "content": answer}), place
    )
