"""A LadderReport as one HTML page that needs nothing else: no script, no link, no network."""

from __future__ import annotations

from collections.abc import Mapping

from hotswap.training.ladder.report import LadderReport
from hotswap.training.pages.rendering import render


def page(
    report: LadderReport, file_name: str, about: Mapping[str, object], concurrency: int
) -> str:
    """The whole page."""
    return render(
        "ladder.html",
        report=report,
        file_name=file_name,
        about={key: value for key, value in about.items() if value is not None},
        concurrency=concurrency,
        estimates=[(rung.label, rung.metrics[report.metric]) for rung in report.rungs],
        interval=lambda e: f"{e.value:.3f} ({e.low:.3f} – {e.high:.3f})",
    )
