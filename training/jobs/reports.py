"""What a job's process reports to the server, one JSON object a line; and the order it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from hotswap.registry.domain.values import ValueObject, first_problem
from hotswap.training.errors import ReportUnreadable


class Order(ValueObject):
    """All that the process needs to know; the first line of its standard input."""

    spec: dict[str, Any]
    base_path: Path
    base_id: str
    base_revision: str | None
    run: Path
    """The run's directory: made when it is not there, gone on with when it is."""
    num_threads: int
    niceness: int
    share: float
    """The part of the time that it runs while the server answers requests."""
    only_check: bool
    """Whether to end when the data has been checked."""


class Checked(ValueObject):
    kind: Literal["checked"] = "checked"
    num_train_rows: int
    num_validation_rows: int
    warnings: tuple[str, ...] = ()
    num_warnings: int = 0


class Started(ValueObject):
    kind: Literal["started"] = "started"
    num_steps: int


class Stepped(ValueObject):
    """`left_s` is how long the steps to come take at the pace so far."""

    kind: Literal["stepped"] = "stepped"
    step: int
    loss: float
    token_accuracy: float
    num_tokens: int
    left_s: float


class Validated(ValueObject):
    kind: Literal["validated"] = "validated"
    step: int
    loss: float
    token_accuracy: float

    def line(self, stepped: Stepped) -> dict[str, float]:
        """The step's line of the result file, with what its training measured."""
        return {
            "step": self.step,
            "train_loss": stepped.loss,
            "train_accuracy": stepped.token_accuracy,
            "valid_loss": self.loss,
            "valid_mean_token_accuracy": self.token_accuracy,
        }


class Done(ValueObject):
    """The run's directory holds its curve and the adapter."""

    kind: Literal["done"] = "done"
    best_step: int
    num_tokens: int


class Failed(ValueObject):
    kind: Literal["failed"] = "failed"
    code: str
    message: str
    param: str | None = None


Report = Checked | Started | Stepped | Validated | Done | Failed
_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def parse_report(line: bytes) -> Report:
    """Raises ReportUnreadable."""
    try:
        return _REPORT.validate_json(line)
    except ValidationError as error:
        raise ReportUnreadable(
            f"the job's process wrote {line[:80]!r} where a report was expected"
            f" ({first_problem(error)}); nothing else may write to its standard output"
        ) from None
