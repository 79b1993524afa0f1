"""Rows to batches, passes and padded tensors. Padding stands at the right, behind real tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hotswap.training.data.tokens import Row

_WINDOW_BATCHES = 8


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """What one forward pass reads, in host memory: who computes takes it to the model's device.

    `ids` (rows, length) is padded at the right, so under a causal mask no real token ever sees
    padding and no attention mask is needed; position ids are 0, 1, … in every row. The token
    `targets[k]` (num_supervised,) is predicted from the hidden state at
    `(row_index[k], position[k])`, one place before it.
    """

    ids: torch.Tensor
    row_index: torch.Tensor
    position: torch.Tensor
    targets: torch.Tensor
    num_tokens: int

    @property
    def num_supervised(self) -> int:
        return len(self.targets)


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


def collate(rows: Sequence[Row], pad_id: int) -> TrainingBatch:
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    supervised = torch.zeros((len(rows), length), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        supervised[index, : len(row.ids)] = torch.tensor(row.supervised)
    row_index, target_position = supervised.nonzero(as_tuple=True)
    return TrainingBatch(
        ids=ids,
        row_index=row_index,
        position=target_position - 1,
        targets=ids[row_index, target_position],
        num_tokens=sum(len(row.ids) for row in rows),
    )
