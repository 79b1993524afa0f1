"""Turns examples into token ids, says which of them are learnt, and shows them. No torch.

Training must see exactly the ids that serving sees: a prompt is the rendered text encoded in one
piece, an answer is encoded by itself, as it is generated, and ends with the end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from tokenizers import Tokenizer

from hotswap.registry.domain.errors import InvalidPrompt
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.rendering import render
from hotswap.training.data.checks.findings import Finding, Severity, error
from hotswap.training.data.example import Example, Place
from hotswap.training.errors import InvalidData

OPEN, CLOSE = "⟦", "⟧"
_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Row:
    """The ids of one conversation; `supervised[i]` says whether `ids[i]` is to be predicted.

    Invariant: exactly the tokens of the learnt answers and their end tokens are supervised, by
    position and never by id, since a base may use its end token as padding. `ids[0]` never is.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    place: Place

    @property
    def num_supervised(self) -> int:
        return sum(self.supervised)


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


def tokenize(example: Example, prompt: PromptFormat, tokenizer: Tokenizer) -> Row:
    """One row with every learnt answer supervised; other answers are part of the prompts behind
    them, as serving renders them, and those behind the last learnt answer are left out.

    Raises InvalidData when the template renders an earlier answer in another way than it was
    learnt (it drops, trims or rewrites history), because serving would then see other ids.
    """
    end_id = end_of_turn_id(prompt, tokenizer)
    ids: list[int] = []
    supervised: list[bool] = []
    for index in example.learnt:
        prompt_ids = encode(render(prompt, example.messages[:index]), tokenizer)
        if prompt_ids[: len(ids)] != ids:
            example.place.refuse(
                f"messages[{index}]: the chat template does not keep the earlier answer as it was"
                " given, so one row cannot teach both; trim white space at its ends, or give each"
                " answer a row of its own",
                field=f"messages[{index}]",
            )
        answer_ids = [*encode(example.messages[index]["content"], tokenizer), end_id]
        supervised += [False] * (len(prompt_ids) - len(ids)) + [True] * len(answer_ids)
        ids = prompt_ids + answer_ids
    return Row(tuple(ids), tuple(supervised), example.place)


def encode(text: str, tokenizer: Tokenizer) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def end_of_turn_id(prompt: PromptFormat, tokenizer: Tokenizer) -> int:
    """The id of the token that ends an answer; raises InvalidData when it is not one token."""
    end_id: int | None = tokenizer.token_to_id(prompt.end_of_turn)
    if end_id is None:
        raise InvalidData(
            f"the base's tokenizer has no token {prompt.end_of_turn!r}, which should end an answer"
        )
    return end_id


def check_lengths(rows: Iterable[Row], max_length: int) -> list[Finding]:
    """Rows that have more than `max_length` tokens; they are refused, never cut."""
    return [
        Finding(
            "too_long",
            Severity.ERROR,
            str(row.place),
            f"{len(row.ids)} tokens, at most {max_length} are allowed; shorten the row or raise"
            " max_length",
        )
        for row in rows
        if len(row.ids) > max_length
    ]


def marked(row: Row, tokenizer: Tokenizer, *, coloured: bool) -> str:
    """The row's text, special tokens too, each run of supervised tokens between ⟦ and ⟧, in green
    where `coloured`. Control characters are escaped: data does not command a terminal."""
    pieces = []
    for supervised, group in groupby(
        zip(row.ids, row.supervised, strict=True), key=lambda pair: pair[1]
    ):
        ids = [token_id for token_id, _ in group]
        text = _visible(tokenizer.decode(ids, skip_special_tokens=False))
        pieces.append(_highlighted(text, coloured) if supervised else text)
    return "".join(pieces)


def _highlighted(text: str, coloured: bool) -> str:
    inner = f"{OPEN}{text}{CLOSE}"
    return f"{_GREEN}{inner}{_PLAIN}" if coloured else inner


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
