"""One run from top to bottom: setup, fit, validate, keep the best checkpoint.

Knows neither files nor terminals: rows come in, an Outcome goes out, a Progress hears of it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.utils.deterministic
from torch import nn

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.batches import batches, collate, micro_batches
from hotswap.training.data.tokens import Row, end_of_turn_id
from hotswap.training.errors import TrainingDiverged, TrainingInterrupted
from hotswap.training.loop.optimizer import MasterWeights, learning_rate
from hotswap.training.loop.outcome import Outcome
from hotswap.training.loop.probes import ProbePrompt, record_probes
from hotswap.training.loop.processes import ALONE, Processes
from hotswap.training.loop.progress import Progress, Timing
from hotswap.training.loop.state import Checkpoint, Point, State
from hotswap.training.loop.verdicts import Measured, is_exhausted, overfit_from
from hotswap.training.loss import Tally, measure, train_pass, trainable
from hotswap.training.methods.adapted import Adapted, adapt
from hotswap.training.spec import TrainingSpec


class States(Protocol):
    """Where a run's state is kept between two processes."""

    def latest(self) -> State | None: ...

    def save(self, state: State) -> None: ...


class Forgetful:
    """Keeps nothing: the run starts at step 0 and cannot be resumed."""

    def latest(self) -> State | None:
        return None

    def save(self, state: State) -> None: ...


def finetune(
    spec: TrainingSpec,
    base: BaseDirectory,
    train: Sequence[Row],
    validation: Sequence[Row],
    progress: Progress,
    probes: Sequence[ProbePrompt] = (),
    states: States | None = None,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> Outcome:
    """Train LoRA weights on `train`, keep those with the lowest loss on `validation`.

    Without validation rows the last checkpoint is kept. `probes` are recorded with the checkpoint
    that is kept. The same arguments on the same machine and thread count give bit-equal weights,
    in one piece or resumed from any of the `states` in between. `stop` is asked after every step.
    Each of several `processes` calls this with the same rows; all get the same weights, which are
    those of one process up to the rounding of float32 sums.
    Raises TrainingDiverged, and TrainingInterrupted when `stop` says so before the last step.
    """
    states = states or Forgetful()
    with _reproducible(spec.seed):
        run = _setup(spec, base, train, validation, progress, processes)
        known = states.latest()
        if known is None:
            run.validate(step=0)
        else:
            run.restore(known)
        for batch in _batches_from(run.step, train, spec):
            run.fit(batch)
            if run.is_validated_after(run.step):
                run.validate(run.step)
                if run.is_over():
                    break
            _keep(run, states, stop)
        return run.outcome(probes)


def _batches_from(step: int, rows: Sequence[Row], spec: TrainingSpec) -> Iterator[list[Row]]:
    """The batches of all epochs but the first `step` ones."""
    steps_an_epoch = math.ceil(len(rows) / spec.batch_size)
    for epoch in range(step // max(steps_an_epoch, 1), spec.num_epochs):
        skipped = max(step - epoch * steps_an_epoch, 0)
        yield from batches(rows, spec.batch_size, seed=spec.seed, epoch=epoch)[skipped:]


def _keep(run: _Run, states: States, stop: Callable[[], bool]) -> None:
    is_asked = run.processes.any(stop())
    if is_asked or run.step % run.checkpoint_every == 0:
        states.save(run.state())
    if is_asked:
        raise TrainingInterrupted(f"stopped after step {run.step} of {run.num_steps}")


def _setup(
    spec: TrainingSpec,
    base: BaseDirectory,
    train: Sequence[Row],
    validation: Sequence[Row],
    progress: Progress,
    processes: Processes,
) -> _Run:
    if spec.early_stopping_patience is not None and not validation:
        raise InvalidSettings("early_stopping_patience needs validation rows; there are none")
    longest = max((len(row.ids) for row in (*train, *validation)), default=0)
    adapted = adapt(base, spec, longest)
    steps_an_epoch = math.ceil(len(train) / spec.batch_size)
    validate_every = spec.validate_every_steps or max(steps_an_epoch, 1)
    run = _Run(
        spec=spec,
        adapted=adapted,
        weights=MasterWeights(
            trainable(adapted.model), adapted.masters, spec, adapted.rate_factors
        ),
        validation=validation,
        processes=processes,
        pad_id=end_of_turn_id(base.prompt_format(), base.tokenizer),
        num_steps=steps_an_epoch * spec.num_epochs,
        validate_every=validate_every,
        checkpoint_every=spec.checkpoint_every_steps or validate_every,
        progress=progress,
    )
    if processes.rank:
        # First weights are the same everywhere; from here on each draws its own dropout.
        torch.manual_seed(spec.seed + (processes.rank << 32))
    progress.started(run.num_steps)
    return run


@dataclass
class _Run:
    """The state of a run between two steps; only `fit` moves weights."""

    spec: TrainingSpec
    adapted: Adapted
    weights: MasterWeights
    validation: Sequence[Row]
    processes: Processes
    pad_id: int
    num_steps: int
    validate_every: int
    checkpoint_every: int
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

    def restore(self, state: State) -> None:
        self.weights.restore(state.weights)
        torch.set_rng_state(state.generators[self.processes.rank])
        self.step = state.step
        self.curve = list(state.curve)
        self.best = state.best
        self.first_validation = state.first_validation
        self.timing = state.timing

    def state(self) -> State:
        """Holds the weights themselves, not copies: to be saved before the next step."""
        return State(
            weights=self.weights.state(),
            generators=self.processes.gather(torch.get_rng_state()),
            curve=tuple(self.curve),
            best=self.best,
            first_validation=self.first_validation,
            timing=self.timing,
        )

    def is_validated_after(self, step: int) -> bool:
        return step % self.validate_every == 0 or step == self.num_steps

    def is_over(self) -> bool:
        """After the last step, or early because the validation loss no longer falls."""
        return self.step == self.num_steps or self._is_exhausted()

    def _is_exhausted(self) -> bool:
        patience = self.spec.early_stopping_patience
        losses = [measured.validation_loss for measured in self._measured()]
        return patience is not None and is_exhausted(
            losses, patience, self.spec.early_stopping_min_delta
        )

    def _measured(self) -> list[Measured]:
        """The curve at its measurements, the base's own first."""
        if self.first_validation is None:
            return []
        measured = [Measured(0, self.first_validation.loss, None)]
        since = Tally()
        for point in self.curve:
            since += point.train
            if point.validation is not None:
                measured.append(Measured(point.step, point.validation.loss, since.loss))
                since = Tally()
        return measured

    def fit(self, batch: Sequence[Row]) -> None:
        """One optimiser step on the mean loss over all supervised tokens of `batch`."""
        start = time.perf_counter()
        self.model.train()
        num_supervised = sum(row.num_supervised for row in batch)
        tally = Tally()
        for rows in micro_batches(self.processes.share(batch), self.spec.micro_batch_tokens):
            tally += train_pass(self.model, collate(rows, self.pad_id), num_supervised)
            self.weights.gather()
        self.weights.exchange(self.processes.add)
        tally = self.processes.total(tally)
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
            num_steps=self.step,
            validate_every=self.validate_every,
            stopped_early=self.step < self.num_steps,
            overfit_from=overfit_from(self._measured()),
            curve=tuple(self.curve),
            first_validation=self.first_validation,
            published_validation=self._measure(published) if measured else None,
            energy=adapter.energy,
            timing=self.timing,
            probes=record_probes(published, probes),
        )

    def _measure(self, model: nn.Module) -> Tally:
        model.eval()
        share = self.processes.share(self.validation)
        tally = Tally()
        for rows in micro_batches(share, self.spec.micro_batch_tokens):
            tally += measure(model, collate(rows, self.pad_id))
        tally = self.processes.total(tally)
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
