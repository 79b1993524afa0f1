"""Where each row's tokens lie when they are packed without padding. Knows no weights.

What no loss depends on is left out: padding, and of each row what comes after its last
prediction. What all rows begin with stands there once: under a causal mask its states are the
same in every row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.collate import Batch


@dataclass(frozen=True, slots=True)
class Layout:
    """The tokens of a pass in one line: the common prefix, then what each row has of its own.

    Invariant: `ids`, `positions` (num_tokens,) are prefix first, then rows in order; `answers`
    (num_supervised,) are places in that line, in the order of the batch's targets. `scatter`
    (num_own,) are the own tokens' places in a grid of `num_rows` × `longest`.
    """

    ids: Tensor
    positions: Tensor
    answers: Tensor
    scatter: Tensor
    num_prefix: int
    num_rows: int
    longest: int

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """Raises ValueError for a batch in which nothing is supervised."""
        if batch.num_supervised == 0:
            raise ValueError("a batch without supervised tokens has nothing to compute")
        rows, row_index = torch.unique(batch.row_index, return_inverse=True)
        ids = batch.ids[rows]  # a row in which nothing is supervised needs no states
        ends = torch.zeros(len(rows), dtype=torch.long).scatter_reduce(
            0, row_index, batch.position + 1, "amax"
        )
        num_prefix = _common_prefix(ids, ends)
        own = ends - num_prefix
        longest = int(own.max())
        in_row = torch.arange(longest).expand(len(rows), -1)
        is_token = in_row < own[:, None]
        starts = num_prefix + own.cumsum(0) - own
        is_shared = batch.position < num_prefix
        return cls(
            ids=torch.cat([ids[0, :num_prefix], ids[:, num_prefix:][:, :longest][is_token]]),
            positions=torch.cat([torch.arange(num_prefix), in_row[is_token] + num_prefix]),
            answers=torch.where(
                is_shared, batch.position, starts[row_index] + batch.position - num_prefix
            ),
            scatter=is_token.flatten().nonzero()[:, 0],
            num_prefix=num_prefix,
            num_rows=len(rows),
            longest=longest,
        )

    def to(self, device: torch.device) -> Layout:
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            answers=self.answers.to(device),
            scatter=self.scatter.to(device),
        )

    def grid(self, own: Tensor) -> Tensor:
        """(num_own, …) to (num_rows, longest, …), zeros where a row has no token."""
        made = own.new_zeros(self.num_rows * self.longest, *own.shape[1:])
        made[self.scatter] = own
        return made.view(self.num_rows, self.longest, *own.shape[1:])

    def line(self, grid: Tensor) -> Tensor:
        """The inverse of `grid`."""
        return grid.flatten(0, 1)[self.scatter]


def _common_prefix(ids: Tensor, ends: Tensor) -> int:
    """How many tokens all rows begin with; each row keeps one of its own at least."""
    if len(ids) == 1:
        return 0
    differs = (ids != ids[0]).any(0).nonzero()
    shared = int(differs[0, 0]) if len(differs) else ids.shape[1]
    return min(shared, int(ends.min()) - 1)
