"""How much one step may do, so that streams never wait long for its end. Counts only, no clocks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class StepBudget:
    """What is left of a step, in rows.

    While streams wait for the step's end, a prompt's row also counts the keys it reads: attention
    makes rows late in a long prompt cost several times what the first ones do.
    """

    left: float
    keys_per_row: float
    """See Model.keys_per_row."""
    streams_wait: bool = False

    def take(self, start: int, length: int) -> None:
        """Let a sequence's tokens `start` to `start + length` be computed."""
        self.left -= self._cost(start, length)

    def give_back(self, start: int, length: int) -> None:
        """Undo `take`."""
        self.left += self._cost(start, length)

    def fitting(self, start: int, wanted: int) -> int:
        """How many of `wanted` tokens from `start` on fit; at least one while a row is left, so
        that every prompt ends."""
        if self.left < 1 or not self.streams_wait:
            return min(wanted, int(self.left))
        # The largest n with n + (start * n + n² / 2) / keys_per_row <= left.
        row = 1 + start / self.keys_per_row
        most = 2 * self.left / (row + math.sqrt(row * row + 2 * self.left / self.keys_per_row))
        return max(1, min(wanted, int(most)))

    def _cost(self, start: int, length: int) -> float:
        if not self.streams_wait or length == 1:  # a decoded token is never put off
            return length
        return length + (start * length + length * length / 2) / self.keys_per_row
