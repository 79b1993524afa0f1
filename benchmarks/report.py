"""Table, plot and the pages' section from the figures that benchmarks.serving measured."""

from __future__ import annotations

import os
import re
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLOT = ROOT / "benchmarks" / "figures" / "serving.svg"
SCALING_PLOT = PLOT.with_name("scaling.svg")
OURS = "Hotswap"
OURS_INT4 = "Hotswap int4"
BASE_CASE = "base only"
BUSY = 0.1
SECTION = re.compile(
    r"(?<=<!-- serving: written by benchmarks.serving -->\n).*?(?=<!-- end -->)", re.S
)

Figures = dict[str, Any]


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    """Tokens per second by engine and case."""
    return {
        name: {case: statistics.median(found) for case, found in rates.items() if found}
        for name, rates in figures["rates"].items()
    }


def table(figures: Figures) -> str:
    """Markdown: a row a case, a column an engine, and ours against the best of the others."""
    found = medians(figures)
    ours = [name for name in (OURS, OURS_INT4) if name in found]
    peers = [name for name in found if name not in ours]
    head = ["output tokens/s", OURS, "of base only", *ours[1:], *peers]
    lines = [head + (["to the best peer"] if peers else [])]
    lines.append(["---"] * len(lines[0]))
    for case, rate in found[OURS].items():
        line = [case, f"{rate:.0f}", _share(figures, case)]
        line += [f"{found[name][case]:.0f}" for name in (*ours[1:], *peers)]
        if peers:
            best = max(found[name][case] for name in peers)
            line.append(f"{rate / best:.1f} ×")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _share(figures: Figures, case: str) -> str:
    """Of our throughput without adapters, round by round: the machine's pace changes between."""
    if not _is_comparable(case):
        return ""
    rates = figures["rates"][OURS]
    pairs = zip(rates[case], rates[BASE_CASE], strict=True)
    return f"{statistics.median(rate / base for rate, base in pairs):.2f}"


def _is_comparable(case: str) -> bool:
    return "adapter" in case and not case.startswith(("one request", "prompts"))


def notes(figures: Figures) -> str:
    """The machine, what must be known about the run, and everyone's settings."""
    lines = [f"Measured on {figures['machine']}; medians of {figures['rounds']}."]
    if (in_use := figures["cores_in_use"]) > BUSY:
        lines.append(f"Preliminary: others kept {in_use:.1f} cores busy when it began.")
    for name, reason in figures["failed"].items():
        lines.append(f"{name} could not take part: {reason}.")
    used = [(name, text) for name, text in figures["settings"].items() if name in figures["rates"]]
    rows = ["| engine | settings |", "| --- | --- |", *(f"| {n} | {text} |" for n, text in used)]
    return "\n".join([*lines, "", *rows])


def write_pages(figures: Figures) -> None:
    """The table and the plot in the README; the same with the settings among the benchmarks."""
    short = f"{table(figures)}\n\n![{PLOT.stem}]({{plot}})"
    _write(ROOT / "README.md", short)
    _write(ROOT / "docs" / "benchmarks.md", f"{short}\n\n{notes(figures)}")


def _write(page: Path, section: str) -> None:
    plot = Path(os.path.relpath(PLOT, page.parent)).as_posix()
    filled = f"\n{section.format(plot=plot)}\n\n"
    text, count = SECTION.subn(lambda _: filled, page.read_text())
    assert count == 1, f"{page} has no place for the table"
    page.write_text(text)


def draw(figures: Figures) -> None:
    """Bars of every engine, case by case."""
    pyplot = _pyplot()
    found = medians(figures)
    shown = list(found[OURS])
    figure, axes = pyplot.subplots(1, len(shown), figsize=(2.3 * len(shown), 2.8))
    for axis, case in zip(axes, shown, strict=True):
        names = list(found)
        bars = axis.bar(names, [found[name][case] for name in names])
        for bar, name in zip(bars, names, strict=True):
            bar.set_color("#d1495b" if name in (OURS, OURS_INT4) else "#8d99ae")
        axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set_title(case.replace(", ", ",\n"), fontsize=8)
        axis.tick_params("x", labelrotation=60, labelsize=7)
        axis.tick_params("y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("tokens per second", fontsize=8)
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def draw_series(series: dict[str, list[dict[str, Any]]]) -> None:
    """Throughput and the 95th percentile of latency, a panel a series."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(series), figsize=(3.0 * len(series), 2.8), squeeze=False)
    for axis, (name, points) in zip(axes[0], series.items(), strict=True):
        at = [point["at"] for point in points]
        axis.plot(at, [point["tokens_per_s"] for point in points], "o-", color="#d1495b")
        axis.set_ylim(bottom=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(at, [str(number) for number in at])
        axis.tick_params(labelsize=7)
        axis.tick_params("x", labelrotation=45)
        axis.set_xlabel(name, fontsize=8)
        latency = axis.twinx()
        latency.plot(at, [point["p95_s"] for point in points], "s--", color="#8d99ae")
        latency.set_ylim(bottom=0)
        latency.tick_params(labelsize=7)
    axes[0][0].set_ylabel("output tokens/s (line)", fontsize=8)
    latency.set_ylabel("95th percentile of latency, s (dashed)", fontsize=8)
    figure.tight_layout()
    SCALING_PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(SCALING_PLOT, metadata={"Date": None})


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "hotswap"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    return pyplot
