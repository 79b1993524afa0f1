"""What a run made, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hotswap.registry.domain.manifest import Probe
from hotswap.training.loop.progress import Timing
from hotswap.training.loop.state import Checkpoint, Point
from hotswap.training.loss import Tally
from hotswap.training.methods.plain import Energy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made: the best checkpoint as a plain LoRA, PEFT's config for it, the curve and the
    timing. `published_validation` is measured with the adapter on the untouched base where
    training's model was another; `energy` is an extraction's, by layer."""

    best: Checkpoint
    peft_config: dict[str, Any]
    num_trainable: int
    num_steps: int
    validate_every: int
    curve: tuple[Point, ...]
    first_validation: Tally | None
    timing: Timing
    probes: tuple[Probe, ...] = ()
    published_validation: Tally | None = None
    energy: Mapping[str, Energy] = field(default_factory=dict)
    stopped_early: bool = False
    overfit_from: int | None = None

    def metrics(self) -> dict[str, float]:
        """Figures of the best checkpoint; training figures are over the `validate_every` steps
        that end at it (an epoch, unless the spec says otherwise)."""
        values = {"best_step": float(self.best.step), "num_steps": float(self.num_steps)}
        if self.overfit_from is not None:
            values["overfit_from_step"] = float(self.overfit_from)
        train = self._train_tally()
        if train.num_supervised:
            values |= {"train_loss": train.loss, "train_token_accuracy": train.token_accuracy}
        if self.best.validation is not None and self.first_validation is not None:
            values |= {
                "validation_loss": self.best.validation.loss,
                "validation_token_accuracy": self.best.validation.token_accuracy,
                "base_validation_loss": self.first_validation.loss,
                "base_validation_token_accuracy": self.first_validation.token_accuracy,
            }
        return values | self._published_metrics()

    def _published_metrics(self) -> dict[str, float]:
        """What it cost to make a LoRA for the untouched base of what was trained: the loss of the
        adapter itself, and how much of the weight change is in it, in all and in the worst layer.
        """
        values = {}
        if self.published_validation is not None:
            values["published_validation_loss"] = self.published_validation.loss
        if self.energy:
            values["energy_kept"] = sum(self.energy.values(), Energy()).share
            values["lowest_energy_kept"] = min(energy.share for energy in self.energy.values())
        return values

    def verdict(self) -> str:
        """How the run ended, in words; `verdicts` says when it is called overfit."""
        parts = []
        if self.stopped_early:
            parts.append(f"stopped early after step {self.num_steps}")
        if self.overfit_from is not None:
            parts.append(f"overfit from step {self.overfit_from}")
        return ", ".join(parts)

    def _train_tally(self) -> Tally:
        first = self.best.step - self.validate_every
        return sum((p.train for p in self.curve if first < p.step <= self.best.step), Tally())
