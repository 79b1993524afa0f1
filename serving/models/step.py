"""What a model is asked to do in one step, and what it answers. Knows no model."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from hotswap.serving.adapters.lora import LoraRoom, LoraWeights
from hotswap.serving.engine.pages import PAGE, num_pages_of

MAX_SPARE_TOKENS = 4096


def reachable_positions(num_pages: int) -> int:
    """How far a sequence can get with so many pages, or one that is tried out in spare pages."""
    return max(num_pages * PAGE, MAX_SPARE_TOKENS)


def spare_pages_of(num_pages: int, max_positions: int) -> range:
    """The pages behind the `num_pages` of sequences: see Model.spare_pages."""
    return range(num_pages, num_pages + num_pages_of(min(max_positions, MAX_SPARE_TOKENS)))


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` to `end` of the step: consecutive tokens of one sequence from `position` on.

    Keys and values of the sequence lie in `pages` (int32), PAGE tokens each, up to the last row's.
    A segment may read pages that one before it in the same step writes.
    """

    start: int
    end: int
    position: int
    pages: array[int]


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """Rows `start` to `end` are answered by the adapter in `slot`, its effect times `scale`."""

    slot: int
    start: int
    end: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class StepInput:
    """One step's tokens, packed: rows that decode first, then the prompts' rows.

    Several AdapterRows that hold one row apply in their order. `wanted` are the rows whose logits
    are asked for.
    """

    token_ids: Sequence[int]
    segments: Sequence[Segment]
    adapters: Sequence[AdapterRows]
    wanted: Sequence[int]


@dataclass(frozen=True, slots=True)
class StepOutput:
    logits: Tensor
    """(num_wanted, vocab) float; good until the next step."""
    best: Sequence[int]
    """The likeliest token of each wanted row, the first of equals."""


class Model(Protocol):
    """A base with slots for adapters and pages for keys and values. Used by one thread at a time,
    but for `prepare`."""

    @property
    def room(self) -> LoraRoom:
        """How many adapters of what rank it takes."""
        ...

    @property
    def max_positions(self) -> int: ...

    @property
    def modules(self) -> frozenset[str]:
        """The names of the layers that adapters may change."""
        ...

    @property
    def max_rows(self) -> int:
        """The most rows of one step."""
        ...

    @property
    def is_cut_invariant(self) -> bool:
        """Whether the bits of a row's logits do not depend on how the tokens before it were cut
        into steps."""
        ...

    @property
    def keys_per_row(self) -> float:
        """How many keys take as long to read as a row takes otherwise; infinity: not known."""
        ...

    @property
    def spare_pages(self) -> Sequence[int]:
        """Pages that no sequence is given, for up to MAX_SPARE_TOKENS of one that is tried out."""
        ...

    def attach(self) -> None:
        """Take the cores for the calling thread, which makes all steps from now on."""
        ...

    def prepare(self, adapter: LoraWeights) -> Any:
        """The adapter in the form that `load` takes; raises NotServable when it does not fit."""
        ...

    def load(self, slot: int, prepared: Any) -> None:
        """Put what `prepare` gave into a slot (from 1 on)."""
        ...

    def forward(self, step: StepInput) -> StepOutput:
        """Run the rows; their keys and values are in their pages afterwards."""
        ...
