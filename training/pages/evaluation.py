"""An EvalReport as one HTML page that needs nothing else: no script, no link, no network."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotswap.training.evaluation.report import EvalReport
from hotswap.training.pages.rendering import render

# Where a curve lies in its picture, as `plots.html` frames it.
_LEFT, _TOP, _WIDE, _TALL = 36, 8, 516, 156
_CURVES = ("train_loss", "validation_loss", "train_token_accuracy", "validation_token_accuracy")


def page(
    report: EvalReport,
    file_name: str,
    about: Mapping[str, object],
    *,
    curve: Path | None = None,
    verdict: object = None,
) -> str:
    """The whole page; `curve` is a run's curve.csv, `verdict` a Condition that was judged."""
    return render(
        "evaluation.html",
        report=report,
        file_name=file_name,
        about=about,
        verdict=verdict,
        curves=[] if curve is None else _curves(curve),
        interval=lambda e: f"{e.value:.4g} ({e.low:.4g} – {e.high:.4g})",
    )


def _curves(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    curves = []
    for name in _CURVES:
        points = [(int(line["step"]), float(line[name])) for line in lines if line.get(name)]
        if len(points) > 1:
            curves.append({"name": name, **_drawn(points)})
    return curves


def _drawn(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    first, last = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    placed = (
        (
            _LEFT + _WIDE * (x - first) / max(last - first, 1),
            _TOP + _TALL * (high - y) / ((high - low) or 1),
        )
        for x, y in points
    )
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return {"points": text, "first": first, "last": last, "low": low, "high": high}
