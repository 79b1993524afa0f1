"""Our own training in a process of its own, so that its memory is its own.

It runs in this project's environment, makes its batches itself and checks that they are the job's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training_protocol import IGNORED, Job, answer

from hotswap.serving.base_model import BaseDirectory, quiet_libraries
from hotswap.training.batches import batches
from hotswap.training.data.example import Place
from hotswap.training.data.tokens import Row
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.progress import Silence
from hotswap.training.spec import TrainingSpec


def train(job: Job) -> dict[str, Any]:
    quiet_libraries()
    spec = TrainingSpec.parse(job["spec"])
    rows = [_row(row) for row in job["rows"]]
    if spec.num_epochs:
        made = batches(rows, spec.batch_size, seed=spec.seed, epoch=0)
        asked = [[row["ids"] for row in batch] for batch in job["batches"]]
        assert [[list(row.ids) for row in batch] for batch in made] == asked
    base = BaseDirectory(Path(job["base"]), "benchmark")
    validation = [_row(row) for row in job["validation"]]
    outcome = finetune(spec, base, rows, validation, Silence())
    first = outcome.first_validation
    last = outcome.curve[-1].validation if outcome.curve else first
    assert first is not None
    assert last is not None
    return {
        "settings": f"hotswap, {spec.dtype}",
        "train_s": outcome.timing.train_s,
        "first_loss": first.loss,
        "last_loss": last.loss,
    }


def _row(row: dict[str, list[int]]) -> Row:
    supervised = tuple(label != IGNORED for label in row["labels"])
    return Row(tuple(row["ids"]), supervised, Place("benchmark", 1))


if __name__ == "__main__":
    answer(train)
