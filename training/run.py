"""A run's directory: its spec, its curve, its timing and environment, and the adapter it made.

<runs>/<id>/run.json    spec, data, findings, state, metrics, timing, environment
<runs>/<id>/curve.csv   one line for every step
<runs>/<id>/adapter/    the PEFT directory, ready to be pushed
"""

from __future__ import annotations

import csv
import json
import platform
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from registry.bundles.bundle import Bundle
from registry.manifest import Lineage
from serving.base_model import BaseDirectory
from training.finetune import Outcome, Point, finetune
from training.model import Tally
from training.prepare import Prepared
from training.progress import Progress
from training.publish import library_versions, publish
from training.spec import TrainingSpec

_COLUMNS = (
    "step",
    "learning_rate",
    "gradient_norm",
    "train_loss",
    "train_token_accuracy",
    "validation_loss",
    "validation_token_accuracy",
)


@dataclass(frozen=True)
class Run:
    """Invariant: the directory alone is enough to push what the run made."""

    directory: Path
    started_at: str = field(default_factory=lambda: _now())

    @classmethod
    def create(cls, runs: Path) -> Run:
        """A fresh directory below `runs`, named by time and chance."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        directory = runs / name
        directory.mkdir(parents=True)
        return cls(directory)

    @property
    def id(self) -> str:
        return self.directory.name

    @property
    def adapter(self) -> Path:
        return self.directory / "adapter"

    @property
    def lineage(self) -> Lineage:
        """What a push of the adapter states besides what `hotswap.json` does."""
        return Lineage(run=self.id)

    def carry_out(
        self, spec: TrainingSpec, base: BaseDirectory, prepared: Prepared, progress: Progress
    ) -> tuple[Outcome, Bundle]:
        """Train, publish into `adapter`, and keep a record of both, of a failure too."""
        about = {
            "id": self.id,
            "started_at": self.started_at,
            "spec": spec.model_dump(mode="json"),
            "data": [file.provenance() for file in prepared.files],
            "findings": [str(finding) for finding in prepared.findings],
            "environment": _environment(),
        }
        self._record({**about, "state": "running"})
        try:
            outcome = finetune(
                spec, base, prepared.train, prepared.validation, progress, prepared.probes
            )
            bundle = publish(self.adapter, outcome, spec, base, prepared)
        except BaseException as error:
            self._record({**about, "state": "failed", "ended_at": _now(), "error": str(error)})
            raise
        finally:
            progress.finished()
        self._write_curve(outcome.curve)
        result = self._result(outcome, bundle)
        self._record({**about, "state": "finished", "ended_at": _now(), **result})
        return outcome, bundle

    def _record(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        (self.directory / "run.json").write_text(text + "\n", encoding="utf-8")

    def _result(self, outcome: Outcome, bundle: Bundle) -> dict[str, Any]:
        timing = outcome.timing
        return {
            "metrics": outcome.metrics(),
            "num_trainable": outcome.num_trainable,
            "manifest_digest": str(bundle.manifest(lineage=self.lineage).digest),
            "timing": {
                "num_tokens": timing.num_tokens,
                "train_s": round(timing.train_s, 3),
                "validation_s": round(timing.validation_s, 3),
                "tokens_per_s": round(timing.tokens_per_s, 1),
            },
        }

    def _write_curve(self, curve: tuple[Point, ...]) -> None:
        with (self.directory / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for p in curve:
                about = (p.step, p.learning_rate, p.gradient_norm)
                writer.writerow([*about, *_pair(p.train), *_pair(p.validation)])


def _pair(tally: Tally | None) -> list[float | str]:
    return ["", ""] if tally is None else [tally.loss, tally.token_accuracy]


def _environment() -> dict[str, Any]:
    return {
        "libraries": library_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_threads": torch.get_num_threads(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
