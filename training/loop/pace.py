"""How long a run will take, from a few steps of it. Nothing it trains is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.batches import batches, collate, micro_batches
from hotswap.training.data.tokens import Row, end_of_turn_id
from hotswap.training.loop.optimizer import MasterWeights
from hotswap.training.loss import answer_states, measure, train_pass, trainable
from hotswap.training.methods.adapted import adapt
from hotswap.training.methods.plan import largest_pass, saved_bytes
from hotswap.training.spec import TrainingSpec

NUM_STEPS = 3  # besides one that is not timed, in which memory is fetched


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens are real ones, prompt and answer, without padding. `activations_bytes` is what one
    longest pass really keeps for its backward pass."""

    activations_bytes: int
    train_tokens_per_s: float
    validation_tokens_per_s: float

    def seconds(self, spec: TrainingSpec, train: Sequence[Row], validation: Sequence[Row]) -> float:
        """Of all epochs and validations of a run that does not stop early."""
        steps_an_epoch = math.ceil(len(train) / spec.batch_size)
        num_steps = steps_an_epoch * spec.num_epochs
        every = spec.validate_every_steps or max(steps_an_epoch, 1)
        num_validations = 1 + math.ceil(num_steps / every)
        trained = _num_tokens(train) * spec.num_epochs / self.train_tokens_per_s
        validated = _num_tokens(validation) * num_validations / self.validation_tokens_per_s
        return trained + validated


def measure_pace(base: BaseDirectory, spec: TrainingSpec, train: Sequence[Row]) -> Pace:
    """Time NUM_STEPS steps at rate 0, spread over the first epoch, and as many validations."""
    longest = max(len(row.ids) for row in train)
    pad_id = end_of_turn_id(base.prompt_format(), base.tokenizer)
    with torch.random.fork_rng(devices=[]):
        adapted = adapt(base, spec, longest)
        weights = MasterWeights(trainable(adapted.model), adapted.masters, spec)
        chosen = _spread(batches(train, spec.batch_size, seed=spec.seed, epoch=0), NUM_STEPS)

        def step(batch: Sequence[Row]) -> None:
            adapted.model.train()
            for rows in micro_batches(batch, spec.micro_batch_tokens):
                train_pass(
                    adapted.model, collate(rows, pad_id), sum(r.num_supervised for r in batch)
                )
                weights.gather()
            weights.step(rate=0.0)

        def validate(batch: Sequence[Row]) -> None:
            adapted.model.eval()
            for rows in micro_batches(batch, spec.micro_batch_tokens):
                measure(adapted.model, collate(rows, pad_id))

        largest = collate(largest_pass(train, spec), pad_id)
        activations = saved_bytes(lambda: answer_states(adapted.model, largest), adapted.model)
        return Pace(activations, _tokens_per_s(step, chosen), _tokens_per_s(validate, chosen))


def _spread(steps: Sequence[list[Row]], count: int) -> list[list[Row]]:
    """`count` of them, or all, evenly over the whole."""
    count = min(count, len(steps))
    return [steps[i * len(steps) // count] for i in range(count)]


def _tokens_per_s(run: Callable[[Sequence[Row]], None], chosen: Sequence[list[Row]]) -> float:
    run(chosen[0])
    start = time.perf_counter()
    for batch in chosen:
        run(batch)
    return sum(map(_num_tokens, chosen)) / (time.perf_counter() - start)


def _num_tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.ids) for row in rows)
