"""A LadderReport as one HTML page that needs nothing else: no script, no link, no network."""

from __future__ import annotations

from collections.abc import Mapping

import jinja2

from hotswap.training.ladder.report import LadderReport

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Ladder of {{ file_name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border-bottom: 1px solid #ddd; padding: .3em .7em; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.note { color: #666 }
</style></head><body>
<h1>Ladder of {{ file_name }}</h1>
<p class="note">{{ report.num_rows }} rows{% for key, value in about.items() %} · {{ key }}:
{{ value }}{% endfor %}</p>
<p><strong>{{ report.verdict.text }}</strong></p>
<svg role="img" width="640" height="{{ 26 * report.rungs|length + 20 }}">
<title>{{ report.metric }} of each rung, with its interval</title>
{% for rung in report.rungs %}
{% set e = rung.metrics[report.metric] %}{% set y = 26 * loop.index0 %}
<text x="0" y="{{ y + 17 }}" font-size="12">{{ rung.label }}</text>
<rect x="220" y="{{ y + 6 }}" width="{{ "%.1f"|format(400 * e.value) }}" height="14" fill="#9cf"/>
<line x1="{{ "%.1f"|format(220 + 400 * e.low) }}" x2="{{ "%.1f"|format(220 + 400 * e.high) }}"
 y1="{{ y + 13 }}" y2="{{ y + 13 }}" stroke="#036" stroke-width="2"/>{% endfor %}
<text x="220" y="{{ 26 * report.rungs|length + 14 }}" font-size="11">0</text>
<text x="614" y="{{ 26 * report.rungs|length + 14 }}" font-size="11">1</text></svg>
<table><tr><th>Rung<th class="number">{{ report.metric }}<th class="number">loss
<th class="number">adapter's difference<th class="number">p<th class="number">prompt tokens
<th class="number">answer tokens<th class="number">median ms<th class="number">p95 ms</tr>
{% for rung in report.rungs %}<tr><td>{{ rung.label }}{% if rung.num_trimmed %}<br>
<span class="note">{{ rung.num_trimmed }} prompts show fewer, at least {{ rung.min_examples }}
</span>
{% endif %}<td class="number">{{ interval(rung.metrics[report.metric]) }}
<td class="number">{{ "%.3f"|format(rung.metrics["loss"].value) }}
<td class="number">{{ interval(rung.difference.estimate) if rung.difference else "–" }}
<td class="number">{{ "%.3g"|format(rung.difference.p_value) if rung.difference else "–" }}
<td class="number">{{ "%.0f"|format(rung.prompt_tokens) }}
<td class="number">{{ "%.1f"|format(rung.answer_tokens) }}
<td class="number">{{ "%.0f"|format(1000 * rung.median_latency_s) }}
<td class="number">{{ "%.0f"|format(1000 * rung.p95_latency_s) }}</tr>{% endfor %}</table>
<p class="note">{{ report.metric }}: {{ report.formula }} Intervals are the middle 95 % of the
bootstrap; p is a permutation test's over the same rows. Latency of {{ concurrency }} request{{
"" if concurrency == 1 else "s" }} at a time.</p>
<ul>{% for cost in report.costs %}<li>{{ cost }}</li>{% endfor %}</ul>
</body></html>
"""


def page(
    report: LadderReport, file_name: str, about: Mapping[str, object], concurrency: int
) -> str:
    """The whole page. What users wrote is text: Jinja escapes every value."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        report=report,
        file_name=file_name,
        about={key: value for key, value in about.items() if value is not None},
        concurrency=concurrency,
        interval=lambda e: f"{e.value:.3f} ({e.low:.3f} – {e.high:.3f})",
    )
