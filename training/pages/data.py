"""A data report as one HTML page: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from hotswap.training.data.report import DataReport
from hotswap.training.data.statistics import Lengths, Share

_MAX_BARS = 100
_MAX_FINDINGS = 1000

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Data report: {{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --line: #ddd; --bar: #3b6ea5;
 --error: #b00020; --warning: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e4e4; --line: #3a3d44;
 --bar: #7aa7d9; --error: #ff8a94; --warning: #e0b050; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
 background: var(--paper); color: var(--ink); overflow-wrap: anywhere; }
h2 { margin-top: 2rem; } table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .5rem; text-align: left;
 vertical-align: top; }
.files th, .num, .findings .error, .findings .warning { white-space: nowrap; }
.error { color: var(--error); } .warning { color: var(--warning); }
svg { width: 100%; height: auto; overflow: visible; }
rect { fill: var(--bar); } rect.over { fill: var(--error); }
svg text { fill: var(--ink); font-size: 11px; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.bars { table-layout: fixed; } .bars td { border: 0; padding: .1rem .5rem .1rem 0; }
.bars td:first-child { width: 40%; } .bars .num { width: 15%; }
.bars svg { height: .9rem; display: block; }
@media (max-width: 40rem) {
 body { margin: 1rem auto; padding: 0 .75rem; }
 svg text { font-size: 28px; transform: translateY(14px); }
 .findings tr, .findings td { display: block; border: 0; padding: 0; }
 .findings .head { display: none; }
 .findings tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
}
</style></head><body>
<h1>Data report</h1>
<table class="files">{% for role, (name, num_rows) in report.files.items() %}
<tr><th>{{ role }}</th><td>{{ name }}</td><td class="num">{{ num_rows }} rows</td></tr>{% endfor %}
</table>
<p><strong class="error">{{ report.num_errors }} errors</strong>,
<strong class="warning">{{ report.num_warnings }} warnings</strong></p>
<h2>Figures of the training rows</h2>
<table>{% for name, value in figures %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% if histogram %}<h2>Tokens a row</h2>
<svg viewBox="0 0 960 220" role="img">
{% for bar in histogram -%}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"
{% if bar.is_over %} class="over"{% endif %}><title>{{ bar.label }}: {{ bar.count }}</title></rect>
{% if bar.is_labelled %}<text x="{{ bar.x }}" y="212">{{ bar.label }}</text>{% endif %}
{%- endfor %}</svg>{% endif %}
{% for title, bars in lists %}<h2>{{ title }}</h2>
<table class="bars">{% for bar in bars %}
<tr><td>{{ bar.label }}</td><td><svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img">
<rect width="{{ bar.width }}" height="10"></rect></svg></td>
<td class="num">{{ bar.count }}</td></tr>
{%- endfor %}</table>{% endfor %}
<h2>Findings</h2>
{% if not findings %}<p>None.</p>{% else %}<table class="findings">
<tr class="head"><th>kind</th><th>where</th><th>what</th></tr>{% for f in findings %}
<tr><td class="{{ f.severity }}">{{ f.code }}</td><td>{{ f.where }}</td><td>{{ f.text }}</td></tr>
{%- endfor %}</table>{% endif %}
{% if num_left %}<p>and {{ num_left }} more</p>{% endif %}
</body></html>
"""

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.DictLoader({"page": _PAGE}),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


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
    found = report.statistics
    if found.classes is not None:
        lists = [("Rows of each class", found.classes.counts)]
    else:
        lists = [
            ("Most frequent answers", found.top_answers),
            ("What answers begin with", found.top_prefixes),
        ]
    return _ENVIRONMENT.get_template("page").render(
        title=report.files["train"][0],
        report=report,
        figures=_figures(report),
        histogram=[] if found.lengths is None else _histogram(found.lengths),
        lists=[(title, _lines(shares)) for title, shares in lists],
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
