"""An EvalReport as one HTML page that needs nothing else: no script, no link, no network.

Whatever rows hold is text: Jinja escapes every value.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hotswap.training.evaluation.report import EvalReport

_WIDTH, _HEIGHT, _MARGIN = 560, 200, 36
_CURVES = ("train_loss", "validation_loss", "train_token_accuracy", "validation_token_accuracy")

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ report.name }} on {{ file_name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border-bottom: 1px solid #ddd; padding: .3em .7em; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 24em }
.note { color: #666 } .cell { text-align: right; padding: .1em .4em } svg { margin: 0 1em 1em 0 }
</style></head><body>
<h1>{{ report.name }}</h1>
<p>{{ report.num_rows }} rows of {{ file_name }}{% if report.digest %} · {{ report.digest }}
{% endif %}<br><span class="note">{% for key, value in about.items() %}{{ key }}: {{ value }}
{{ "· " if not loop.last }}{% endfor %}</span></p>
{% if verdict %}<p><strong>{{ "holds" if verdict.holds else "does not hold" }}:</strong>
{{ verdict.asked }} ({{ verdict.found }})</p>{% endif %}
<h2>Metrics</h2>
<p class="note">With the middle 95 % of the bootstrap; p is a permutation test's over the same rows.
</p>
<table><tr><th>Metric<th class="number">{{ report.name }}
{% for other in report.comparisons %}<th class="number">{{ other.name }}
<th class="number">difference<th class="number">p{% endfor %}<th>What it is</tr>
{% for name, found in report.metrics.items() %}<tr><td>{{ name }}
<td class="number">{{ interval(found) }}
{% for other in report.comparisons %}
<td class="number">{{ interval(other.metrics[name]) if name in other.metrics else "–" }}
{% set difference = other.differences.get(name) %}
<td class="number">{{ interval(difference.estimate) if difference else "–" }}
<td class="number">{{ "%.3g"|format(difference.p_value) if difference else "–" }}{% endfor %}
<td class="note">{{ report.formulas[name] }}</tr>{% endfor %}</table>
{% if curves %}<h2>Training</h2>{% for curve in curves %}
<svg role="img" width="{{ width }}" height="{{ height }}" viewBox="0 0 {{ width }} {{ height }}">
<title>{{ curve.name }}</title>
<rect x="{{ margin }}" y="8" width="{{ width - margin - 8 }}" height="{{ height - margin - 8 }}"
 fill="none" stroke="#ccc"/><polyline fill="none" stroke="#06c" stroke-width="1.5"
 points="{{ curve.points }}"/>
<text x="2" y="16" font-size="11">{{ "%.3g"|format(curve.high) }}</text>
<text x="2" y="{{ height - margin }}" font-size="11">{{ "%.3g"|format(curve.low) }}</text>
<text x="{{ margin }}" y="{{ height - 10 }}" font-size="12">{{ curve.name }}, steps
{{ curve.first }} to {{ curve.last }}</text></svg>{% endfor %}{% endif %}
{% if report.classes %}<h2>Classes</h2>
<table><tr><th>Class<th class="number">Rows<th class="number">Precision<th class="number">Recall
<th class="number">F1</tr>{% for c in report.classes %}<tr><td>{{ c.name }}
<td class="number">{{ c.support }}<td class="number">{{ "%.3f"|format(c.precision) }}
<td class="number">{{ "%.3f"|format(c.recall) }}<td class="number">{{ "%.3f"|format(c.f1) }}</tr>
{% endfor %}</table>
<h2>Confusion</h2><p class="note">Rows: expected; columns: answered, in the same order; the last
column is any other answer.</p>
<table>{% for counts in report.confusion %}{% set expected = report.classes[loop.index0].name %}
<tr><th>{{ expected }}{% for count in counts %}<td class="cell" title="{{ expected }} answered as
 {{ report.classes[loop.index0].name if not loop.last else "another" }}"
 style="background: rgba(0,102,204,{{ "%.2f"|format(count / (counts|sum) if count else 0) }})">
{{ count or "" }}{% endfor %}</tr>{% endfor %}</table>{% endif %}
{% if report.worst %}<h2>Worst answers</h2>
<table><tr><th>Row<th>Question<th>Expected<th>Answered</tr>{% for row in report.worst %}
<tr><td>{{ row.place }}<td class="text">{% for m in row.question %}{{ m.role }}: {{ m.content }}
{% endfor %}<td class="text">{{ row.reference }}<td class="text">{{ row.answer
}}{{ "" if row.is_ended else " … (cut off)" }}</tr>{% endfor %}</table>{% endif %}
</body></html>
"""


def page(
    report: EvalReport,
    file_name: str,
    about: Mapping[str, object],
    *,
    curve: Path | None = None,
    verdict: object = None,
) -> str:
    """The whole page; `curve` is a run's curve.csv, `verdict` a Condition that was judged."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        report=report,
        file_name=file_name,
        about=about,
        verdict=verdict,
        curves=[] if curve is None else _curves(curve),
        interval=lambda e: f"{e.value:.4g} ({e.low:.4g} – {e.high:.4g})",
        width=_WIDTH,
        height=_HEIGHT,
        margin=_MARGIN,
    )


def _curves(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found = []
    for name in _CURVES:
        points = [(int(line["step"]), float(line[name])) for line in lines if line.get(name)]
        if len(points) > 1:
            found.append({"name": name, **_drawn(points)})
    return found


def _drawn(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    first, last = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    wide, tall = _WIDTH - _MARGIN - 8, _HEIGHT - _MARGIN - 8
    placed = (
        (
            _MARGIN + wide * (x - first) / max(last - first, 1),
            8 + tall * (high - y) / ((high - low) or 1),
        )
        for x, y in points
    )
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return {"points": text, "first": first, "last": last, "low": low, "high": high}
