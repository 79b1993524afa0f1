"""A run's figures for TensorBoard, MLflow or Weights & Biases, each through its own package.

The packages are imported only when asked for. Where the figures go is up to the package's own
settings (`MLFLOW_TRACKING_URI`, `WANDB_MODE`, …); TensorBoard's files are in the run's directory.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.loop.progress import Ending, Progress, Timing
from hotswap.training.loss import Tally

PROJECT = "hotswap"
_MLFLOW_STATUSES = {
    Ending.FINISHED: "FINISHED",
    Ending.FAILED: "FAILED",
    Ending.INTERRUPTED: "KILLED",
}
# 255 is what wandb itself says after Ctrl-C.
_WANDB_EXIT_CODES = {Ending.FINISHED: 0, Ending.FAILED: 1, Ending.INTERRUPTED: 255}


class Tracker(StrEnum):
    """Who keeps the figures."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


class Broadcast:
    """Passes every event on to each of its listeners, in their order."""

    def __init__(self, listeners: Sequence[Progress]) -> None:
        self._listeners = listeners

    def started(self, num_steps: int) -> None:
        for each in self._listeners:
            each.started(num_steps)

    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        for each in self._listeners:
            each.stepped(step, train, timing)

    def validated(self, step: int, validation: Tally) -> None:
        for each in self._listeners:
            each.validated(step, validation)

    def ended(self, how: Ending) -> None:
        for each in self._listeners:
            each.ended(how)


class Tracked:
    """A Progress that hands every event's figures to `_log` and names them alike everywhere."""

    def started(self, num_steps: int) -> None: ...

    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        figures = _figures("train", train)
        self._log(step, {**figures, "train/tokens_per_s": timing.tokens_per_s})

    def validated(self, step: int, validation: Tally) -> None:
        self._log(step, _figures("validation", validation))

    def ended(self, how: Ending) -> None:
        raise NotImplementedError

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        raise NotImplementedError


class TensorBoard(Tracked):
    """Event files in the run's directory: `tensorboard --logdir RUN`."""

    def __init__(self, directory: Path, spec: Mapping[str, Any]) -> None:
        writer = _package("tensorboard", "torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(directory / "tensorboard"))
        rows = "".join(f"| {name} | {value} |\n" for name, value in spec.items())
        self._writer.add_text("spec", f"| option | value |\n|---|---|\n{rows}")

    def ended(self, how: Ending) -> None:
        del how  # event files do not say
        self._writer.close()

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)


class MLflow(Tracked):
    """A run of MLflow's, named like ours, in the experiment PROJECT."""

    def __init__(self, directory: Path, spec: Mapping[str, Any]) -> None:
        self._mlflow = _package("mlflow")
        self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(run_name=directory.name)
        self._mlflow.log_params(spec)

    def ended(self, how: Ending) -> None:
        self._mlflow.end_run(_MLFLOW_STATUSES[how])

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=step)


class WeightsAndBiases(Tracked):
    """A run of the project PROJECT, named like ours."""

    def __init__(self, directory: Path, spec: Mapping[str, Any]) -> None:
        wandb = _package("wandb")
        self._run = wandb.init(
            project=PROJECT, name=directory.name, dir=str(directory), config=dict(spec)
        )

    def ended(self, how: Ending) -> None:
        self._run.finish(_WANDB_EXIT_CODES[how])

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        # A step has two entries when it is validated; theirs must not be joined by a counter.
        self._run.log({**figures, "step": step})


_TRACKERS = {
    Tracker.TENSORBOARD: TensorBoard,
    Tracker.MLFLOW: MLflow,
    Tracker.WANDB: WeightsAndBiases,
}


def require_packages(trackers: Sequence[Tracker]) -> None:
    """Raises InvalidRequest when one's package is not installed; to be asked before any compute."""
    for tracker in trackers:
        _package(tracker.value)


def tracked(
    progress: Progress, trackers: Sequence[Tracker], directory: Path, spec: Mapping[str, Any]
) -> Progress:
    """`progress`, and the trackers with it, for the run in `directory` of this spec."""
    if not trackers:
        return progress
    return Broadcast([progress, *(_TRACKERS[tracker](directory, spec) for tracker in trackers)])


def _figures(kind: str, tally: Tally) -> dict[str, float]:
    return {f"{kind}/loss": tally.loss, f"{kind}/token_accuracy": tally.token_accuracy}


def _package(name: str, module: str | None = None) -> ModuleType:
    try:
        importlib.import_module(name)
        return importlib.import_module(module or name)
    except ImportError as error:
        raise InvalidRequest(
            f"--track {name} needs the package {name}, which cannot be imported ({error});"
            f" pip install {name}"
        ) from None
