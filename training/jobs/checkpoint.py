"""A validated step of a job as OpenAI's `fine_tuning.job.checkpoint`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Checkpoint = dict[str, Any]


def checkpoint(
    job_id: str, values: Mapping[str, float], created_at: int, model: str | None = None
) -> Checkpoint:
    """`values` are a line of the result file, without its empty cells; `valid_*` is over all
    validation rows. `model` is None where the step's weights are not kept."""
    step = int(values["step"])
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt-{job_id.removeprefix('ftjob-')}-{step}",
        "created_at": created_at,
        "fine_tuning_job_id": job_id,
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


def with_checkpoint(known: Sequence[Checkpoint], new: Checkpoint) -> tuple[Checkpoint, ...]:
    """The newest step first; a step that is validated again after a restart is listed once."""
    others = [each for each in known if each["step_number"] != new["step_number"]]
    return tuple(sorted([*others, new], key=lambda each: -each["step_number"]))
