"""The processes that make one run together, joined by torchrun and gloo.

Each holds the whole model and computes its share of the rows of every batch. Gradients, tallies
and the wish to stop are summed over all, so that every process makes the same step and comes to the
same decisions; only process 0 writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed

from hotswap.training.data.tokens import Row
from hotswap.training.loss import Tally


@dataclass(frozen=True)
class Processes:
    """Invariant: every method but `share` is called by all processes, in the same order."""

    rank: int = 0
    num: int = 1

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """This process's rows: every `num`-th by length, so that all have about as much to do."""
        if self.num == 1:
            return list(rows)
        return sorted(rows, key=lambda row: len(row.ids))[self.rank :: self.num]

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sum over all processes into each tensor, in one exchange."""
        if self.num == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def total(self, tally: Tally) -> Tally:
        sums = torch.tensor(
            [tally.loss_sum, tally.correct, tally.num_supervised], dtype=torch.float64
        )
        self.add([sums])
        return Tally(sums[0].item(), int(sums[1]), int(sums[2]))

    def any(self, is_so: bool) -> bool:
        """Whether it is so in at least one process."""
        count = torch.tensor([float(is_so)])
        self.add([count])
        return bool(count.item())

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every process's tensor; all have the same shape."""
        if self.num == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.num)]
        torch.distributed.all_gather(gathered, tensor)
        return gathered


ALONE = Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """All processes that torchrun has started; without torchrun this one alone."""
    if not torch.distributed.is_torchelastic_launched():
        yield ALONE
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
