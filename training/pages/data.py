"""A DataReport as one HTML page that needs nothing else: no script, no link, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hotswap.training.data.classes import Share
from hotswap.training.data.reports.rows import DataReport
from hotswap.training.data.reports.statistics import Lengths
from hotswap.training.pages.rendering import render

_MAX_BARS = 100
_MAX_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class _Column:
    """One bin of the histogram, in units of its 960 by 220."""

    label: str
    count: int
    x: float
    y: float
    width: float
    height: float
    is_over: bool
    is_labelled: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """One text with how often it came; `width` is in percent of the most frequent one's."""

    label: str
    count: int
    width: float


def as_html(report: DataReport) -> str:
    """The page's text."""
    statistics = report.statistics
    if statistics.classes is not None:
        lists = [("Rows of each class", statistics.classes.counts)]
    else:
        lists = [
            ("Most frequent answers", statistics.top_answers),
            ("What answers begin with", statistics.top_prefixes),
        ]
    return render(
        "data.html",
        title=report.files["train"][0],
        report=report,
        figures=_figures(report),
        histogram=[] if statistics.lengths is None else _histogram(statistics.lengths),
        lists=[(title, _lines(shares)) for title, shares in lists],
        findings=report.findings[:_MAX_FINDINGS],
        num_left=max(0, len(report.findings) - _MAX_FINDINGS),
    )


def _figures(report: DataReport) -> list[tuple[str, str]]:
    statistics = report.statistics
    rows = [("answers that are learnt", str(statistics.num_answers))]
    if statistics.lengths is not None:
        lengths = statistics.lengths
        rows.append(
            ("tokens a row: median, 95 %, longest", f"{lengths.p50}, {lengths.p95}, {lengths.max}")
        )
        rows.append((f"rows over {lengths.max_length} tokens", str(lengths.num_over)))
    if statistics.classes is not None:
        rows.append(("classes", str(len(statistics.classes.counts))))
        rows.append(("balance of the classes (1: even)", f"{statistics.classes.balance:.3f}"))
    rows.append(("distinct words of all", f"{statistics.distinct_1:.3f}"))
    rows.append(("distinct pairs of words of all", f"{statistics.distinct_2:.3f}"))
    return rows


def _histogram(lengths: Lengths) -> list[_Column]:
    """A bar a bin, upright; bins that are wholly over the allowed length are red."""
    top = max(lengths.histogram)
    step = 960 / len(lengths.histogram)
    bars = []
    for index, count in enumerate(lengths.histogram):
        tall = 180 * count / top
        start, end = lengths.edges[index], lengths.edges[index + 1]
        bars.append(
            _Column(
                label=str(start) if index % 4 == 0 else f"{start} to {end - 1}",
                count=count,
                x=round(index * step, 1),
                y=round(195 - tall, 1),
                width=round(step - 2, 1),
                height=round(tall, 1),
                is_over=start > lengths.max_length,
                is_labelled=index % 4 == 0,
            )
        )
    return bars


def _lines(shares: Sequence[Share]) -> list[_Line]:
    return [
        _Line(share.text[:60], share.count, round(100 * share.count / shares[0].count, 1))
        for share in shares[:_MAX_BARS]
    ]
