"""Makes what a finished run left into what a client sees: a version, a result file, checkpoints."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from registry.bundles.bundle import Bundle
from registry.bundles.transfer import push
from registry.manifest import Lineage
from registry.protocol import AdapterRegistry
from registry.release.signing import SigningKey
from training.jobs.files import Files
from training.jobs.job import Job
from training.jobs.reports import Done

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

    def __init__(
        self, registry: AdapterRegistry, runs: Path, files: Files, key: SigningKey | None
    ) -> None:
        self._registry = registry
        self._runs = runs
        self._files = files
        self._key = key

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
            key=self._key,
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
            "checkpoints": (_checkpoint(job, model, done.best_step, curve, result.created_at),),
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


def _checkpoint(
    job: Job, model: str, step: int, curve: list[dict[str, str]], created_at: int
) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job.checkpoint`; `valid_*` is over all validation rows."""
    row = next((row for row in curve if int(row["step"]) == step), dict.fromkeys(COLUMNS, ""))
    values = {name: float(text) for name, text in row.items() if text}
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt-{job.id.removeprefix('ftjob-')}-{step}",
        "created_at": created_at,
        "fine_tuning_job_id": job.id,
        "fine_tuned_model_checkpoint": model,
        "step_number": step,
        "metrics": {
            "step": step,
            "train_loss": values.get("train_loss"),
            "train_mean_token_accuracy": values.get("train_accuracy"),
            "valid_loss": values.get("valid_loss"),
            "valid_mean_token_accuracy": values.get("valid_mean_token_accuracy"),
            "full_valid_loss": values.get("valid_loss"),
            "full_valid_mean_token_accuracy": values.get("valid_mean_token_accuracy"),
        },
    }
