"""Small learnable tasks for the tiny base."""

from __future__ import annotations

from collections.abc import Sequence

from registry.prompts import PromptFormat
from serving.base_model import BaseDirectory
from training.data.dataset import Row, tokenize
from training.data.formats import Example, Place

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
