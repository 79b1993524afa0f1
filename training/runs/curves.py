"""A run's curve as files: CSV for programs, PNG for people."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotswap.registry.durable import replaced_file
from hotswap.training.loop.state import Point
from hotswap.training.loss import Tally

_COLUMNS = (
    "step",
    "learning_rate",
    "gradient_norm",
    "train_loss",
    "train_token_accuracy",
    "validation_loss",
    "validation_token_accuracy",
)
_INCHES = (8.0, 6.0)


def write_csv(path: Path, curve: Sequence[Point]) -> None:
    """One line for every step; validation columns are empty where nothing was measured."""
    with replaced_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for p in curve:
            about = (p.step, p.learning_rate, p.gradient_norm)
            writer.writerow([*about, *_pair(p.train), *_pair(p.validation)])


def write_png(
    path: Path, curve: Sequence[Point], first_validation: Tally | None, best_step: int
) -> None:
    """Loss and token accuracy over steps, above the learning rate; the kept step is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 0.5 s that `--help` need not pay
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    measured = [(0, first_validation), *((p.step, p.validation) for p in curve)]
    kept = [(step, tally) for step, tally in measured if tally is not None]
    for axes, name in ((loss, "loss"), (accuracy, "token_accuracy")):
        steps = [p.step for p in curve]
        axes.plot(steps, [getattr(p.train, name) for p in curve], label="training", linewidth=1)
        axes.plot(
            [step for step, _ in kept],
            [getattr(tally, name) for _, tally in kept],
            label="validation",
            marker="o",
        )
        axes.axvline(best_step, color="grey", linestyle=":", label=f"kept: step {best_step}")
        axes.set_ylabel(name.replace("_", " "))
    loss.set_ylabel("loss, nats a token")
    loss.legend()
    rate.plot([p.step for p in curve], [p.learning_rate for p in curve], linewidth=1)
    _label(rate)
    with replaced_file(path) as part:
        figure.savefig(part, dpi=120, format="png")


def _label(axes: Any) -> None:
    axes.set_ylabel("rate")
    axes.set_xlabel("step")


def _pair(tally: Tally | None) -> list[float | str]:
    return ["", ""] if tally is None else [tally.loss, tally.token_accuracy]
