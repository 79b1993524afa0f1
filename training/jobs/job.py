"""A fine-tuning job as a value: what was asked, how it stands, and OpenAI's object for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from hotswap.registry.domain.values import ValueObject
from hotswap.training.errors import JobNotActive


class Status(StrEnum):
    """OpenAI's names."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}


# From which states a user's verb leads to the state.
_ASKED = {
    Status.PAUSED: {Status.VALIDATING, Status.QUEUED, Status.RUNNING},
    Status.QUEUED: {Status.PAUSED},
    Status.CANCELLED: {Status.VALIDATING, Status.QUEUED, Status.RUNNING, Status.PAUSED},
}


class JobError(ValueObject):
    """Why a job failed: the code and the message of the error."""

    code: str
    message: str
    param: str | None = None


class Job(ValueObject):
    """Invariant: `spec` and `name` never change, so that a job that is started again does the
    same. `order` grows with every job; a job runs when those with lower numbers have been taken.
    """

    id: str
    order: int
    created_at: int
    created_by: str
    owner: str | None
    """The name of the token that asked; None on a server without tokens."""
    name: str
    """What the adapter will be called."""
    model: str
    training_file: str
    validation_file: str | None
    spec: dict[str, Any]
    """A TrainingSpec without its files, which lie in the job's directory."""
    method: dict[str, Any]
    metadata: dict[str, str] | None

    status: Status = Status.VALIDATING
    is_checked: bool = False
    error: JobError | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    trained_tokens: int | None = None
    fine_tuned_model: str | None = None
    result_files: tuple[str, ...] = ()
    checkpoints: tuple[dict[str, Any], ...] = ()

    def after(self, **changes: Any) -> Job:
        return self.model_copy(update=changes)

    def asked_to_be(self, status: Status) -> Job:
        """The job once a user has paused, resumed or cancelled it; raises JobNotActive."""
        if self.status not in _ASKED[status]:
            raise JobNotActive(
                f"job {self.id} is {self.status}, so it cannot become {status}; "
                f"a job can that is {' or '.join(sorted(_ASKED[status]))}",
                status=self.status.value,
            )
        return self.after(status=status, estimated_finish=None)

    def wire(self) -> dict[str, Any]:
        """OpenAI's `fine_tuning.job` object."""
        return {
            "object": "fine_tuning.job",
            "id": self.id,
            "created_at": self.created_at,
            "model": self.model,
            "fine_tuned_model": self.fine_tuned_model,
            "organization_id": "hotswap",
            "status": self.status.value,
            "error": None if self.error is None else self.error.model_dump(),
            "finished_at": self.finished_at,
            "estimated_finish": self.estimated_finish,
            "trained_tokens": self.trained_tokens,
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "result_files": list(self.result_files),
            "hyperparameters": self.method[self.method["type"]]["hyperparameters"],
            "method": self.method,
            "seed": self.spec["seed"],
            "integrations": [],
            "metadata": self.metadata,
            "user_provided_suffix": self.name.removeprefix("ft/"),
        }


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
