"""Where each row's tokens lie when they are packed without padding. Knows no weights.

What no loss depends on is left out: padding, and of each row what comes after its last
prediction. What all rows begin with stands there once: under a causal mask its states are the
same in every row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hotswap.training.batches import TrainingBatch


@dataclass(frozen=True, slots=True)
class Layout:
    """The tokens of a pass in one line: the common prefix, then what each row has of its own.

    Invariant: `ids`, `positions` (num_tokens,) are prefix first, then rows in order; `answers`
    (num_supervised,) are places in that line, in the order of the batch's targets. `seats`
    (num_rows, longest) are the places of each row's tokens in the line, the prefix's too, and that
    of its last one where it has no more. `scatter` (num_own,) are the places of own tokens in the
    grid of rows without the prefix, `padding` the grid's other places.
    """

    ids: Tensor
    positions: Tensor
    answers: Tensor
    seats: Tensor
    scatter: Tensor
    padding: Tensor
    num_prefix: int

    @classmethod
    def of(cls, batch: TrainingBatch) -> Layout:
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
        seats = torch.cat(
            [
                torch.arange(num_prefix).expand(len(rows), -1),
                starts[:, None] + in_row.minimum(own[:, None] - 1),
            ],
            1,
        )
        is_shared = batch.position < num_prefix
        return cls(
            ids=torch.cat([ids[0, :num_prefix], ids[:, num_prefix:][:, :longest][is_token]]),
            positions=torch.cat([torch.arange(num_prefix), in_row[is_token] + num_prefix]),
            answers=torch.where(
                is_shared, batch.position, starts[row_index] + batch.position - num_prefix
            ),
            seats=seats,
            scatter=is_token.flatten().nonzero()[:, 0],
            padding=(~is_token).flatten().nonzero()[:, 0],
            num_prefix=num_prefix,
        )

    def to(self, device: torch.device) -> Layout:
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            answers=self.answers.to(device),
            seats=self.seats.to(device),
            scatter=self.scatter.to(device),
            padding=self.padding.to(device),
        )

    def rows(self, line: Tensor) -> Tensor:
        """(num_tokens, …) to (num_rows, longest, …), a row's last token again where it has
        no more: behind it, where no query of the row looks."""
        return line.index_select(0, self.seats.flatten()).view(*self.seats.shape, *line.shape[1:])

    def grid(self, own: Tensor) -> Tensor:
        """(num_own, …) to (num_rows, longest - num_prefix, …), zeros where a row has no token."""
        seats = self.seats[:, self.num_prefix :]
        made = own.index_select(0, (seats - self.num_prefix).flatten())
        return made.index_fill_(0, self.padding, 0).view(*seats.shape, *own.shape[1:])

    def line(self, grid: Tensor) -> Tensor:
        """The inverse of `grid`."""
        return grid.flatten(0, 1).index_select(0, self.scatter)


def _common_prefix(ids: Tensor, ends: Tensor) -> int:
    """How many tokens all rows begin with; each row keeps one of its own at least."""
    if len(ids) == 1:
        return 0
    differs = (ids != ids[0]).any(0).nonzero()
    shared = int(differs[0, 0]) if len(differs) else ids.shape[1]
    return min(shared, int(ends.min()) - 1)
