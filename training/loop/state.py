"""What a run is between two steps, as values. Knows no model and no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hotswap.training.loop.progress import Timing
from hotswap.training.loss import Tally


@dataclass(frozen=True, slots=True)
class Point:
    """One optimiser step: the training tally of its batch, and the validation's when measured."""

    step: int
    learning_rate: float
    gradient_norm: float
    train: Tally
    validation: Tally | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trained weights after `step` optimiser steps, under the names their method gives them."""

    step: int
    tensors: dict[str, torch.Tensor]
    validation: Tally | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All that the steps still to come depend on besides spec, base and rows.

    Invariant: a run that goes on from it makes bit for bit what it would have made without a
    break. The order of rows needs no place of its own: it follows from seed, epoch and step.
    """

    weights: Mapping[str, torch.Tensor]
    """Master weights and AdamW's moments, as `MasterWeights.state` names them."""
    generators: Sequence[torch.Tensor]
    """State of torch's random generator, one for each process: what dropout draws from."""
    curve: tuple[Point, ...] = ()
    best: Checkpoint | None = None
    first_validation: Tally | None = None
    timing: Timing = field(default_factory=Timing)

    @property
    def step(self) -> int:
        return len(self.curve)
