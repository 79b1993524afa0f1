"""Renders and tokenises rows one by one; a row that cannot be rendered is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hotswap.registry.domain.errors import InvalidPrompt
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.dataset import Row, end_of_turn_id, tokenize
from hotswap.training.data.findings import Finding, error
from hotswap.training.data.formats import Example
from hotswap.training.errors import InvalidData


def rendered(
    examples: Iterable[Example], prompt: PromptFormat, base: BaseDirectory
) -> Iterator[tuple[Example, Row | Finding]]:
    """Every example with its row, or with why the base's chat template cannot render it, or only
    without its history, or why its model cannot read it. Raises InvalidData for a base without the
    token that ends an answer."""
    end_of_turn_id(prompt, base.tokenizer)
    for example in examples:
        try:
            row = tokenize(example, prompt, base.tokenizer)
        except (InvalidData, InvalidPrompt) as problem:
            text = problem.message.removeprefix(f"{example.place}: ")
            yield example, error("not_rendered", example.place, text)
            continue
        if (unknown := max(row.ids)) >= base.num_words:
            text = (
                f"it has the token {base.tokenizer.id_to_token(unknown)!r} (id {unknown}), which"
                f" the tokenizer of {base.model_id} knows and its model does not embed (ids 0 to"
                f" {base.num_words - 1}); take it out of the row"
            )
            yield example, error("not_embedded", example.place, text)
            continue
        yield example, row
