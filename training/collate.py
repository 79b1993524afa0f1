"""Rows to padded tensors. Padding stands at the right, behind every real token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hotswap.training.data.dataset import Row


@dataclass(frozen=True, slots=True)
class Batch:
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


def collate(rows: Sequence[Row], pad_id: int) -> Batch:
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    supervised = torch.zeros((len(rows), length), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        supervised[index, : len(row.ids)] = torch.tensor(row.supervised)
    row_index, target_position = supervised.nonzero(as_tuple=True)
    return Batch(
        ids=ids,
        row_index=row_index,
        position=target_position - 1,
        targets=ids[row_index, target_position],
        num_tokens=sum(len(row.ids) for row in rows),
    )
