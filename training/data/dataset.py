"""Turns examples into token ids, and says which of them are learnt. No torch.

Training must see exactly the ids that serving sees: a prompt is the rendered text encoded in one
piece, an answer is encoded by itself, as it is generated, and ends with the end-of-turn token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.rendering import render
from hotswap.training.data.formats import Example, Place
from hotswap.training.errors import InvalidData


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
            raise InvalidData(
                f"{example.place}: messages[{index}]: the chat template does not keep the earlier"
                " answer as it was given, so one row cannot teach both; trim white space at its"
                " ends, or give each answer a row of its own",
                file=example.place.file,
                line=example.place.line,
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


_WINDOW_BATCHES = 8


def batches(rows: Sequence[Row], batch_size: int, *, seed: int, epoch: int) -> list[list[Row]]:
    """Every row once, shuffled by seed and epoch, rows of like length together.

    Rows are shuffled, sorted by length inside windows of a few batches, cut into batches, and the
    batches shuffled: little padding, and still another order every epoch.
    """
    chance = random.Random(f"{seed}/{epoch}")  # noqa: S311
    order = list(rows)
    chance.shuffle(order)
    window = batch_size * _WINDOW_BATCHES
    cut: list[list[Row]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda row: len(row.ids))
        cut += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    chance.shuffle(cut)
    return cut


def micro_batches(batch: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Cut a batch so that no pass has more than `max_tokens` padded tokens (one row at least)."""
    passes: list[list[Row]] = []
    for row in sorted(batch, key=lambda row: len(row.ids)):  # ascending: the last is the longest
        if passes and len(row.ids) * (len(passes[-1]) + 1) <= max_tokens:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes
