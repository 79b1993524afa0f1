"""One row asked with a system prompt and examples in front of it, as many as the context holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from hotswap.registry.domain.prompts import Message, PromptFormat
from hotswap.serving.rendering import render
from hotswap.training.data.example import Example
from hotswap.training.data.tokens import encode
from hotswap.training.errors import InvalidData

_END_TOKEN, _NEXT_TOKEN = 1, 1  # behind a reference, when its likelihood is asked for


@dataclass(frozen=True, slots=True)
class Context:
    """How long a conversation may be, in tokens of this base and prompt format: its prompt and
    `max_tokens` of an answer, or the reference, fit into `max_model_len`."""

    prompt: PromptFormat
    tokenizer: Tokenizer
    max_model_len: int
    max_tokens: int

    def missing(self, example: Example) -> int:
        """How many tokens it has too many; 0 when it fits."""
        prompt_ids = encode(render(self.prompt, example.messages[:-1]), self.tokenizer)
        reference_ids = encode(example.answers[-1], self.tokenizer)
        answer = max(self.max_tokens, len(reference_ids) + _END_TOKEN + _NEXT_TOKEN)
        return max(0, len(prompt_ids) + answer - self.max_model_len)


@dataclass(frozen=True, slots=True)
class Prompting:
    """How a row is asked. `system` takes the place of the row's own system message, None leaves it.

    `choose` gives the examples for a row, those to keep first; they are shown as earlier turns, in
    this order or, with `is_nearest_last`, in the other, so that the first stands by the question.
    """

    system: str | None = None
    choose: Callable[[Example], Sequence[Example]] | None = None
    is_nearest_last: bool = False

    def asked(self, row: Example, context: Context) -> tuple[Example, int]:
        """The row as it is asked, and how many examples it shows: all, or as many as the context
        holds. Raises InvalidData when it does not even hold the row alone."""
        examples = tuple(self.choose(row)) if self.choose is not None else ()

        def shown(count: int) -> Example:
            kept = examples[:count]
            return in_front(row, kept[::-1] if self.is_nearest_last else kept, self.system)

        if not context.missing(whole := shown(len(examples))):
            return whole, len(examples)
        fits, too_many = -1, len(examples)
        while too_many - fits > 1:
            count = (fits + too_many) // 2
            fits, too_many = (fits, count) if context.missing(shown(count)) else (count, too_many)
        if fits < 0:
            raise InvalidData(
                f"{row.place}: the row has {context.missing(shown(0))} tokens more than the context"
                f" of {context.max_model_len} holds with {context.max_tokens} for an answer; leave"
                " it out, lower --max-tokens, or shorten the system prompt",
                file=row.place.file,
                line=row.place.line,
            )
        return shown(fits), fits


def in_front(row: Example, examples: Sequence[Example], system: str | None) -> Example:
    """The row behind the examples' turns; what is learnt of it stays what it was."""
    own, turns = _parted(row)
    head = own if system is None else ({"role": "system", "content": system},)
    before = (*head, *(message for e in examples for message in _parted(e)[1]))
    moved = len(before) - len(own)
    shown = {i for i, message in enumerate(before) if message["role"] == "assistant"}
    kept = {index + moved for index in row.context}
    return Example((*before, *turns), row.place, frozenset(shown | kept))


def _parted(example: Example) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message, if there is one, and the rest."""
    cut = 1 if example.messages[0]["role"] == "system" else 0
    return example.messages[:cut], example.messages[cut:]
