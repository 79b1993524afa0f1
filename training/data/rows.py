"""Renders and tokenises rows one by one; a row that cannot be rendered is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer

from registry.errors import InvalidData, InvalidPrompt
from registry.prompts import PromptFormat
from training.data.dataset import Row, end_of_turn_id, tokenize
from training.data.findings import Finding, error
from training.data.formats import Example


def rendered(
    examples: Iterable[Example], prompt: PromptFormat, tokenizer: Tokenizer
) -> Iterator[tuple[Example, Row | Finding]]:
    """Every example with its row, or with why the base's chat template cannot render it, or only
    without its history. Raises InvalidData for a base without the token that ends an answer."""
    end_of_turn_id(prompt, tokenizer)
    for example in examples:
        try:
            row = tokenize(example, prompt, tokenizer)
        except (InvalidData, InvalidPrompt) as problem:
            text = problem.message.removeprefix(f"{example.place}: ")
            yield example, error("not_rendered", example.place, text)
        else:
            yield example, row
