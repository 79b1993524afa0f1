"""One run from top to bottom: setup, fit, validate, keep the best checkpoint.

Knows neither files nor terminals: rows come in, an Outcome goes out, a Progress hears of it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.utils.deterministic
from torch import nn

from registry.errors import HotswapError
from registry.manifest import Probe
from serving.base_model import BaseDirectory
from training.collate import collate
from training.data.dataset import Row, batches, end_of_turn_id, micro_batches
from training.methods.adapted import Adapted, adapt
from training.methods.plain import Energy
from training.model import Tally, measure, train_pass, trainable
from training.optimizer import MasterWeights, learning_rate
from training.probes import ProbePrompt, record_probes
from training.progress import Progress, Timing
from training.spec import TrainingSpec


class TrainingDiverged(HotswapError):
    """The loss is no longer a finite number; nothing is published."""

    code: ClassVar[str] = "training_diverged"
    status: ClassVar[int] = 422


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
    """LoRA weights after `step` optimiser steps, as PEFT names them."""

    step: int
    tensors: dict[str, torch.Tensor]
    validation: Tally | None = None


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

    def metrics(self) -> dict[str, float]:
        """Figures of the best checkpoint; training figures are over the `validate_every` steps
        that end at it (an epoch, unless the spec says otherwise)."""
        values = {"best_step": float(self.best.step), "num_steps": float(self.num_steps)}
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

    def _train_tally(self) -> Tally:
        first = self.best.step - self.validate_every
        return sum((p.train for p in self.curve if first < p.step <= self.best.step), Tally())


def finetune(
    spec: TrainingSpec,
    base: BaseDirectory,
    train: Sequence[Row],
    validation: Sequence[Row],
    progress: Progress,
    probes: Sequence[ProbePrompt] = (),
) -> Outcome:
    """Train LoRA weights on `train`, keep those with the lowest loss on `validation`.

    Without validation rows the last checkpoint is kept. `probes` are recorded with the checkpoint
    that is kept. The same arguments on the same machine and thread count give bit-equal weights.
    Raises TrainingDiverged.
    """
    with _reproducible(spec.seed):
        run = _setup(spec, base, train, validation, progress)
        run.validate(step=0)
        for epoch in range(spec.num_epochs):
            for batch in batches(train, spec.batch_size, seed=spec.seed, epoch=epoch):
                run.fit(batch)
                if run.step % run.validate_every == 0 or run.step == run.num_steps:
                    run.validate(run.step)
        return run.outcome(probes)


def _setup(
    spec: TrainingSpec,
    base: BaseDirectory,
    train: Sequence[Row],
    validation: Sequence[Row],
    progress: Progress,
) -> _Run:
    longest = max((len(row.ids) for row in (*train, *validation)), default=0)
    adapted = adapt(base, spec, longest)
    steps_an_epoch = math.ceil(len(train) / spec.batch_size)
    run = _Run(
        spec=spec,
        adapted=adapted,
        weights=MasterWeights(
            trainable(adapted.model), adapted.masters, spec, adapted.rate_factors
        ),
        validation=validation,
        pad_id=end_of_turn_id(base.prompt_format(), base.tokenizer),
        num_steps=steps_an_epoch * spec.num_epochs,
        validate_every=spec.validate_every_steps or max(steps_an_epoch, 1),
        progress=progress,
    )
    progress.started(run.num_steps)
    return run


@dataclass
class _Run:
    """The state of a run between two steps; only `fit` moves weights."""

    spec: TrainingSpec
    adapted: Adapted
    weights: MasterWeights
    validation: Sequence[Row]
    pad_id: int
    num_steps: int
    validate_every: int
    progress: Progress
    step: int = 0
    curve: list[Point] = field(default_factory=list)
    best: Checkpoint | None = None
    first_validation: Tally | None = None
    timing: Timing = field(default_factory=Timing)

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self.adapted.model
        return model

    def fit(self, batch: Sequence[Row]) -> None:
        """One optimiser step on the mean loss over all supervised tokens of `batch`."""
        start = time.perf_counter()
        self.model.train()
        num_supervised = sum(row.num_supervised for row in batch)
        tally = Tally()
        for rows in micro_batches(batch, self.spec.micro_batch_tokens):
            tally += train_pass(self.model, collate(rows, self.pad_id), num_supervised)
            self.weights.gather()
        self._require_finite(tally)
        self.step += 1
        rate = learning_rate(self.spec, self.step, self.num_steps)
        norm = self.weights.step(rate)
        self.curve.append(Point(self.step, rate, norm, tally))
        num_tokens = sum(len(row.ids) for row in batch)
        self.timing += Timing(num_tokens, train_s=time.perf_counter() - start)
        self.progress.stepped(self.step, tally, self.timing)

    def validate(self, step: int) -> None:
        """Measure the validation rows and keep this checkpoint when it is the best so far."""
        start = time.perf_counter()
        if not self.validation:
            if step == self.num_steps:
                self.best = Checkpoint(step, self.adapted.snapshot())
            return
        tally = self._measure(self.model)
        if step == 0:
            self.first_validation = tally
        else:
            point = self.curve[-1]
            self.curve[-1] = Point(
                point.step, point.learning_rate, point.gradient_norm, point.train, tally
            )
        known = self.best.validation if self.best is not None else None
        if known is None or tally.loss < known.loss:
            self.best = Checkpoint(step, self.adapted.snapshot(), tally)
        self.timing += Timing(validation_s=time.perf_counter() - start)
        self.progress.validated(step, tally)

    def outcome(self, probes: Sequence[ProbePrompt]) -> Outcome:
        assert self.best is not None, "the last step is always validated"
        adapter = self.adapted.plain_lora(self.best.tensors)
        published = self.adapted.published_model(adapter)
        measured = self.validation and not self.adapted.trains_what_is_published
        return Outcome(
            best=replace(self.best, tensors=adapter.tensors),
            peft_config=adapter.config_values(),
            num_trainable=sum(p.numel() for p in trainable(self.model)),
            num_steps=self.num_steps,
            validate_every=self.validate_every,
            curve=tuple(self.curve),
            first_validation=self.first_validation,
            published_validation=self._measure(published) if measured else None,
            energy=adapter.energy,
            timing=self.timing,
            probes=record_probes(published, probes),
        )

    def _measure(self, model: nn.Module) -> Tally:
        model.eval()
        tally = Tally()
        for rows in micro_batches(self.validation, self.spec.micro_batch_tokens):
            tally += measure(model, collate(rows, self.pad_id))
        self._require_finite(tally)
        return tally

    def _require_finite(self, tally: Tally) -> None:
        if not math.isfinite(tally.loss_sum):
            raise TrainingDiverged(
                f"the loss is {tally.loss} at step {self.step}; lower the learning rate"
                f" (now {self.spec.learning_rate:g}) or max_grad_norm",
                step=self.step,
            )


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch's global generator and refuse nondeterministic kernels; both are put back."""
    before = torch.are_deterministic_algorithms_enabled()
    filling: Any = torch.utils.deterministic
    fill_before = filling.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        # Filling what every kernel overwrites anyway takes 3 % of a step.
        filling.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            filling.fill_uninitialized_memory = fill_before
