from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.tokens import tokenize
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.progress import Silence
from hotswap.training.loop.verdicts import Measured, is_exhausted, overfit_from
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.rows import counting, examples_of, tokenized


def curve(validation: Sequence[float], train: Sequence[float]) -> list[Measured]:
    """Measured at steps 0, 10, 20, …; training losses of the steps in between."""
    return [
        Measured(10 * index, loss, None if index == 0 else train[index - 1])
        for index, loss in enumerate(validation)
    ]


@pytest.mark.parametrize(
    ("validation", "train", "step"),
    [
        ([3, 2, 1.5, 1.6, 1.7], [2.5, 1.4, 0.9, 0.5], 20),
        ([3, 2, 1.5, 1.4, 1.3], [2.5, 1.4, 0.9, 0.5], None),  # both fall
        ([3, 2, 1.5, 1.6], [2.5, 1.4, 0.9], None),  # one higher measurement
        ([3, 2, 1.5, 1.505, 1.51], [2.5, 1.4, 0.9, 0.5], None),  # within 1 %
        ([3, 2, 1.5, 1.9, 2.4], [2.5, 1.4, 1.9, 2.6], None),  # both rise: it diverges
        ([1.0, 1.2, 1.5], [2.0, 1.0], 0),  # worse than the base from the first step
        ([1.0, 1.2, 1.5], [2.0, 2.1], None),
        ([3, 1.5, 1.5, 1.8, 1.9], [2.5, 1.4, 0.9, 0.5], 10),  # the first of equals
        ([3, 2, 1.5, 1.9, 1.51], [2.5, 1.4, 0.9, 0.5], None),  # it came back
        ([3], [], None),
        ([], [], None),
    ],
)
def test_overfitting_is_falling_training_loss_with_rising_validation_loss(
    validation: list[float], train: list[float], step: int | None
) -> None:
    assert overfit_from(curve(validation, train)) == step


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "exhausted"),
    [
        ([3, 2, 2.5], 1, 0, True),
        ([3, 2, 2.5], 2, 0, False),
        ([3, 2, 2.5, 2.0], 2, 0, True),  # equal is no improvement
        ([3, 2, 2.5, 1.9], 2, 0, False),
        ([3, 2.95, 2.90], 2, 0.2, True),
        ([3, 2.9, 2.75], 2, 0.2, False),  # small steps that add up are an improvement
        ([3], 1, 0, False),
    ],
)
def test_patience_counts_measurements_without_improvement(
    losses: list[float], patience: int, min_delta: float, exhausted: bool
) -> None:
    assert is_exhausted(losses, patience, min_delta) is exhausted


def spec_of(**values: object) -> TrainingSpec:
    known = {"data": Path("rows.jsonl"), "r": 4, "dtype": "float32", "learning_rate": 0.01}
    return TrainingSpec.parse({**known, **values})


def test_a_run_stops_early_keeps_its_best_checkpoint_and_says_that_it_overfits(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(32, prompt, base)
    wrong = [{**row, "answer": "one five"} for row in counting(16)]
    validation = [tokenize(e, prompt, base.tokenizer) for e in examples_of(wrong)]

    whole = finetune(spec_of(num_epochs=8), base, rows, validation, Silence())
    stopped = finetune(
        spec_of(num_epochs=8, early_stopping_patience=2), base, rows, validation, Silence()
    )

    assert not whole.stopped_early
    assert stopped.stopped_early
    assert stopped.num_steps == stopped.best.step + 2 * stopped.validate_every < whole.num_steps
    assert stopped.curve == whole.curve[: stopped.num_steps]
    assert stopped.best.validation == whole.best.validation
    assert stopped.overfit_from == stopped.best.step
    assert stopped.metrics()["overfit_from_step"] == stopped.best.step
    assert stopped.verdict() == (
        f"stopped early after step {stopped.num_steps}, overfit from step {stopped.best.step}"
    )


def test_a_run_that_improves_to_its_end_has_no_verdict(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(40, prompt, base)
    spec = spec_of(num_epochs=6, early_stopping_patience=2)

    outcome = finetune(spec, base, rows[:32], rows[32:], Silence())

    assert outcome.verdict() == ""
    assert "overfit_from_step" not in outcome.metrics()


def test_early_stopping_without_validation_rows_is_refused(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    with refused(InvalidSettings, "early_stopping_patience"):
        finetune(
            spec_of(early_stopping_patience=1), base, tokenized(4, prompt, base), [], Silence()
        )
