"""A data report as one HTML page: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from training.data.report import DataReport
from training.data.statistics import Lengths, Share

_MAX_BARS = 100
_MAX_FINDINGS = 1000

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Data report: {{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h2 { margin-top: 2rem; } table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .5rem; text-align: left; }
.error { color: #b00020; } .warning { color: #8a5a00; } svg { width: 100%; height: auto; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
</style></head><body>
<h1>Data report</h1>
<table>{% for role, (name, num_rows) in report.files.items() %}
<tr><th>{{ role }}</th><td>{{ name }}</td><td class="num">{{ num_rows }} rows</td></tr>{% endfor %}
</table>
<p><strong class="error">{{ report.num_errors }} errors</strong>,
<strong class="warning">{{ report.num_warnings }} warnings</strong></p>
<h2>Figures of the training rows</h2>
<table>{% for name, value in figures %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% for chart in charts %}<h2>{{ chart.title }}</h2>
{% with bars = chart.bars, height = chart.height %}{% include "bars" %}{% endwith %}{% endfor %}
<h2>Findings</h2>
{% if not findings %}<p>None.</p>{% else %}<table>
<tr><th>kind</th><th>where</th><th>what</th></tr>{% for f in findings %}
<tr><td class="{{ f.severity }}">{{ f.code }}</td><td>{{ f.where }}</td><td>{{ f.text }}</td></tr>
{%- endfor %}</table>{% endif %}
{% if num_left %}<p>and {{ num_left }} more</p>{% endif %}
</body></html>
"""

_BARS = """<svg viewBox="0 0 960 {{ height }}" role="img">
{% for bar in bars -%}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"
 fill="{{ bar.fill }}"><title>{{ bar.label }}: {{ bar.count }}</title></rect>
{% if bar.is_labelled %}<text x="{{ bar.text_x }}" y="{{ bar.text_y }}" font-size="11"
 text-anchor="{{ bar.anchor }}">{{ bar.label }}</text>{% endif %}
{%- endfor %}</svg>"""

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.DictLoader({"page": _PAGE, "bars": _BARS}),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    count: int
    x: float
    y: float
    width: float
    height: float
    text_x: float
    text_y: float
    anchor: str
    fill: str = "#3b6ea5"
    is_labelled: bool = True


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    bars: Sequence[_Bar]
    height: int


def as_html(report: DataReport) -> str:
    """The page's text."""
    found = report.statistics
    charts = []
    if found.lengths is not None:
        charts.append(_Chart("Tokens a row", _histogram(found.lengths), 220))
    if found.classes is not None:
        charts.append(_across("Rows of each class", found.classes.counts))
    else:
        charts.append(_across("Most frequent answers", found.top_answers))
        charts.append(_across("What answers begin with", found.top_prefixes))
    return _ENVIRONMENT.get_template("page").render(
        title=report.files["train"][0],
        report=report,
        figures=_figures(report),
        charts=charts,
        findings=report.findings[:_MAX_FINDINGS],
        num_left=max(0, len(report.findings) - _MAX_FINDINGS),
    )


def _figures(report: DataReport) -> list[tuple[str, str]]:
    found = report.statistics
    rows = [("answers that are learnt", str(found.num_answers))]
    if found.lengths is not None:
        lengths = found.lengths
        rows.append(
            ("tokens a row: median, 95 %, longest", f"{lengths.p50}, {lengths.p95}, {lengths.max}")
        )
        rows.append((f"rows over {lengths.max_length} tokens", str(lengths.num_over)))
    if found.classes is not None:
        rows.append(("classes", str(len(found.classes.counts))))
        rows.append(("balance of the classes (1: even)", f"{found.classes.balance:.3f}"))
    rows.append(("distinct words of all", f"{found.distinct_1:.3f}"))
    rows.append(("distinct pairs of words of all", f"{found.distinct_2:.3f}"))
    return rows


def _histogram(lengths: Lengths) -> list[_Bar]:
    """A bar a bin, upright; bins that are wholly over the allowed length are red."""
    top = max(lengths.histogram)
    step = 960 / len(lengths.histogram)
    bars = []
    for index, count in enumerate(lengths.histogram):
        tall = 180 * count / top
        start, end = lengths.edges[index], lengths.edges[index + 1]
        bars.append(
            _Bar(
                label=str(start) if index % 4 == 0 else f"{start} to {end - 1}",
                count=count,
                x=round(index * step, 1),
                y=round(195 - tall, 1),
                width=round(step - 2, 1),
                height=round(tall, 1),
                text_x=round(index * step, 1),
                text_y=212,
                anchor="start",
                fill="#b00020" if start > lengths.max_length else "#3b6ea5",
                is_labelled=index % 4 == 0,
            )
        )
    return bars


def _across(title: str, shares: Sequence[Share]) -> _Chart:
    """A bar a text, from left to right."""
    shown = shares[:_MAX_BARS]
    bars = [
        _Bar(
            label=share.text[:60],
            count=share.count,
            x=400,
            y=18 * index + 2,
            width=round(540 * share.count / shown[0].count, 1),
            height=14,
            text_x=394,
            text_y=18 * index + 13,
            anchor="end",
        )
        for index, share in enumerate(shown)
    ]
    return _Chart(title, bars, 18 * len(shown) + 4)
