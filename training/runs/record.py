"""`run.json`: what a run was asked to do, from what, and how far it came. Knows no tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.values import ValueObject, first_problem
from hotswap.registry.durable import write_file

RECORD_FILE = "run.json"
FORMAT = 1
"""What this release writes, and the newest that it reads. Release 0.1.0 wrote no number."""

RunState = Literal["running", "interrupted", "failed", "finished"]


class RunTiming(ValueObject):
    """How long the training took; `num_tokens` counts prompts and answers."""

    num_tokens: int
    train_s: float
    validation_s: float
    tokens_per_s: float


class RunRecord(ValueObject):
    """Invariant: what stands in `identity` never changes while a run goes on.

    The fields from `ended_at` on are there once the run has come so far; what is not known yet is
    left out of the file.
    """

    format: int = FORMAT
    release: str = "0.1.0"
    """The release of hotswap that wrote the record last."""
    id: str
    started_at: str
    spec: dict[str, Any]
    """A TrainingSpec, its paths absolute."""
    data: tuple[dict[str, Any], ...]
    """Role, name, digest and rows of each file."""
    num_processes: int = 1
    base: dict[str, Any]
    """The base's fingerprint."""
    fixes: tuple[dict[str, Any], ...] = ()
    findings: tuple[str, ...] = ()
    environment: dict[str, Any]
    state: RunState
    ended_at: str | None = None
    error: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    verdict: str | None = None
    num_trainable: int | None = None
    manifest_digest: str | None = None
    timing: RunTiming | None = None

    @classmethod
    def read(cls, run: Path) -> RunRecord:
        """The record in a run's directory.

        Raises InvalidRequest when a newer release wrote it, or when it is no record.
        """
        try:
            document = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
            _require_known_format(document, run)
            return cls.model_validate(document)
        except ValidationError as error:
            problem = first_problem(error)
        except (ValueError, AttributeError) as error:
            problem = str(error)
        raise InvalidRequest(
            f"{run / RECORD_FILE} is not the record of a run: {problem}; restore the file, or "
            "start a new run"
        )

    def write(self, run: Path) -> None:
        """Put it into a run's directory, whole or not at all: a killed run must be readable."""
        text = json.dumps(self.model_dump(exclude_unset=True), indent=2, ensure_ascii=False)
        write_file(run / RECORD_FILE, f"{text}\n".encode())

    def with_changes(self, **changes: Any) -> RunRecord:
        """The record with some fields set, written by this release."""
        return self.model_copy(update={**stamp(), **changes})


def stamp() -> dict[str, Any]:
    """The fields that say who writes a record."""
    return {"format": FORMAT, "release": version("hotswap")}


def _require_known_format(document: Mapping[str, Any], run: Path) -> None:
    number = document.get("format", FORMAT)
    if not isinstance(number, int) or number > FORMAT:
        raise InvalidRequest(
            f"run {run.name} has format {number}, written by hotswap {document.get('release')}; "
            f"hotswap {version('hotswap')} reads up to format {FORMAT}; use the release that wrote "
            "it, or a later one"
        )
