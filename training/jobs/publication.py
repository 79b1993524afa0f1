"""Makes what a finished run left into what a client sees: a version, a result file, checkpoints."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.manifest import Lineage
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.training.jobs.files import Files
from hotswap.training.jobs.job import Checkpoint, Job, checkpoint, with_checkpoint
from hotswap.training.jobs.reports import Done

# The result file's columns, and those of a run's curve.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_token_accuracy",
    "valid_loss": "validation_loss",
    "valid_mean_token_accuracy": "validation_token_accuracy",
}


class Publication:
    """Invariant: publishing the same run twice gives the same version and the same file."""

    def __init__(self, registry: AdapterRegistry, runs: Path, files: Files) -> None:
        self._registry = registry
        self._runs = runs
        self._files = files

    def run(self, job: Job) -> Path:
        return self._runs / job.id

    def publish(self, job: Job, done: Done) -> dict[str, Any]:
        """Push the adapter and keep the curve; gives the job's fields that follow from them.

        No alias moves: the job's model is the version itself. Raises what `push` raises.
        """
        curve = _read_curve(self.run(job) / "curve.csv")
        bundle = Bundle.read(self.run(job) / "adapter")
        version = push(
            self._registry,
            job.name,
            bundle,
            bundle.manifest(lineage=Lineage(run=job.id)),
            by=job.created_by,
            why=f"fine-tuning job {job.id}",
        )
        result = self._files.create(
            io.BytesIO(_csv(curve)),
            "step_metrics.csv",
            "fine-tune-results",
            job.owner,
            file_id=f"file-{job.id.removeprefix('ftjob-')}-result",
        )
        model = str(version.ref)
        return {
            "fine_tuned_model": model,
            "result_files": (result.id,),
            "checkpoints": _checkpoints(job, model, done.best_step, curve, result.created_at),
            "trained_tokens": done.num_tokens,
        }


def _read_curve(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {ours: row[theirs] for ours, theirs in COLUMNS.items()} for row in csv.DictReader(file)
        ]


def _csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _checkpoints(
    job: Job, model: str, best_step: int, curve: Sequence[Mapping[str, str]], now: int
) -> tuple[Checkpoint, ...]:
    """Every validated step and the best one, which alone has a model."""
    known = {each["step_number"]: each["created_at"] for each in job.checkpoints}
    listed: tuple[Checkpoint, ...] = ()
    for row in ({"step": str(best_step)}, *curve):  # step 0 is on no curve
        values = {name: float(text) for name, text in row.items() if text}
        step = int(values["step"])
        if step == best_step or "valid_loss" in values:
            named = model if step == best_step else None
            new = checkpoint(job.id, values, known.get(step, now), named)
            listed = with_checkpoint(listed, new)
    return listed
