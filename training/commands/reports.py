"""Evaluation reports on the terminal and in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hotswap.registry.commands.parts import json_option
from hotswap.registry.commands.tables import print_json
from hotswap.registry.domain.policy import Condition
from hotswap.training.errors import RequirementNotMet
from hotswap.training.evaluation.report import EvalReport

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def report_options(function: CommandT) -> CommandT:
    """`--json` prints the report, `--report` and `--html` write it, as JSON and as a page."""
    for option in (
        click.option(
            "--html", "html_file", type=click.Path(path_type=Path), help="Write it as a page."
        ),
        click.option(
            "--report",
            "report_file",
            type=click.Path(path_type=Path),
            help="Write the report here, as JSON.",
        ),
        json_option,
    ):
        function = option(function)
    return function


def give_report(value: dict[str, Any], *, as_json: bool, report_file: Path | None) -> None:
    """The whole report where it is asked for: on the terminal, in a file, in both or in none."""
    if as_json:
        print_json(value)
    if report_file is not None:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        report_file.write_text(text + "\n", encoding="utf-8")


def print_report(report: EvalReport) -> None:
    click.echo(f"{report.name}: {report.num_rows} rows")
    for name, e in report.metrics.items():
        click.echo(f"  {name:<16} {e.value:9.4g}  ({e.low:.4g} to {e.high:.4g})")
    for other in report.comparisons:
        click.echo(f"beside {other.name}")
        for name, difference in other.differences.items():
            e = difference.estimate
            click.echo(
                f"  {name:<16} {other.metrics[name].value:9.4g}  {e.value:+.4g}"
                f" ({e.low:+.4g} to {e.high:+.4g}), p = {difference.p_value:.3g}"
            )


def write_report(
    report: EvalReport,
    about: dict[str, Any],
    verdict: Condition | None,
    *,
    report_file: Path | None,
    html_file: Path | None,
    as_json: bool = False,
    curve: Path | None = None,
) -> None:
    from hotswap.training.pages.evaluation import page

    judged = None if verdict is None else verdict.model_dump(mode="json")
    value = report.as_json({**about, "requirement": judged})
    give_report(value, as_json=as_json, report_file=report_file)
    if html_file is not None:
        facts = {"base": about["base"], **about["data"], "seed": about["seed"]}
        text = page(report, facts.pop("file_name"), facts, curve=curve, verdict=verdict)
        html_file.write_text(text, encoding="utf-8")


def require_met(verdict: Condition, *, quiet: bool = False) -> None:
    """Says what a requirement came to; raises RequirementNotMet when it does not hold."""
    if not verdict.holds:
        raise RequirementNotMet(
            f"required: {verdict.asked}; found: {verdict.found}; {verdict.to_do}",
            condition=verdict.model_dump(mode="json"),
        )
    if not quiet:
        click.echo(f"required: {verdict.asked}; found: {verdict.found}; it holds")


def print_status(text: str) -> None:
    """A line about what is being done, beside the output."""
    click.echo(text, err=True)
