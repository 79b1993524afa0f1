"""Table, plot and the README's section from the figures that benchmarks.serving measured."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLOT = ROOT / "benchmarks" / "figures" / "serving.svg"
OURS = "Hotswap"
BASE_CASE = "base only"
BUSY = 0.5
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
    peers = [name for name in found if name != OURS]
    head = ["output tokens/s", OURS, "of base only", *peers]
    lines = [head + (["to the best peer"] if peers else [])]
    lines.append(["---"] * len(lines[0]))
    for case, rate in found[OURS].items():
        share = f"{rate / found[OURS][BASE_CASE]:.2f}" if _is_comparable(case) else ""
        line = [case, f"{rate:.0f}", share, *(f"{found[name][case]:.0f}" for name in peers)]
        if peers:
            best = max(found[name][case] for name in peers)
            line.append(f"{rate / best:.1f} ×")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_comparable(case: str) -> bool:
    return "adapter" in case and not case.startswith(("one request", "prompts"))


def notes(figures: Figures) -> str:
    """The machine, everyone's settings, and what must be known about the run."""
    lines = [f"Measured on {figures['machine']}; medians of {figures['rounds']}."]
    if figures["load_before"] > BUSY:
        lines.append(
            f"Preliminary: the machine was busy otherwise (load {figures['load_before']:.1f})."
        )
    settings = [f"{text}" for name, text in figures["settings"].items() if name in figures["rates"]]
    lines.append(f"Settings: {'; '.join(settings)}.")
    for name, reason in figures["failed"].items():
        lines.append(f"{name} could not take part: {reason}.")
    return "\n".join(lines)


def write_readme(figures: Figures) -> None:
    readme = ROOT / "README.md"
    section = (
        f"\n{table(figures)}\n\n![{PLOT.stem}]({PLOT.relative_to(ROOT)})\n\n{notes(figures)}\n\n"
    )
    text, count = SECTION.subn(lambda _: section, readme.read_text())
    assert count == 1, "README.md has no place for the table"
    readme.write_text(text)


def draw(figures: Figures) -> None:
    """Bars of every engine, case by case."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "hotswap"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    found = medians(figures)
    shown = list(found[OURS])
    figure, axes = pyplot.subplots(1, len(shown), figsize=(2.3 * len(shown), 2.8))
    for axis, case in zip(axes, shown, strict=True):
        names = list(found)
        bars = axis.bar(names, [found[name][case] for name in names])
        for bar, name in zip(bars, names, strict=True):
            bar.set_color("#d1495b" if name == OURS else "#8d99ae")
        axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set_title(case.replace(", ", ",\n"), fontsize=8)
        axis.tick_params("x", labelrotation=60, labelsize=7)
        axis.tick_params("y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("tokens per second", fontsize=8)
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})
