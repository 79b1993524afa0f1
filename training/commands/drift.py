"""`hotswap data drift`: recent requests against the rows that were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hotswap.registry.commands.parts import example, json_option
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.training.commands.reports import give_report
from hotswap.training.commands.rows import columns_option
from hotswap.training.data.formats.files import read_examples

if TYPE_CHECKING:
    from hotswap.training.data.reports.drift import Drift


@click.command(
    epilog=example("hotswap data drift --traffic recent.jsonl train.jsonl --report drift.json"),
    cls=RenamedOptions,
    json_was_file=True,
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--traffic",
    required=True,
    type=click.Path(path_type=Path),
    help="Recent requests: a server's request log (file or directory), or rows in any format.",
)
@columns_option
@click.option("--seed", default=0, show_default=True, help="Of the rows that are held back.")
@json_option
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path),
    help="Write the figures here, as JSON.",
)
def drift(
    data: Path,
    traffic: Path,
    columns: dict[str, str] | None,
    seed: int,
    as_json: bool,
    report_file: Path | None,
) -> None:
    """Compare the requests of production with DATA, the training rows.

    Each figure is 0 to 1, beside its median for as many training rows that are held back, drawn 20
    times, and the threshold that these draws set: above it the requests are drifting, or foreign
    when they are 0.3 above the median. The requests least like any training row are listed.
    """
    from hotswap.training.data.reports.drift import measure_drift
    from hotswap.training.data.traffic import requests_in

    requests, train = requests_in(traffic), read_examples(data, columns=columns)
    measured = measure_drift(requests, train, seed=seed)
    if not as_json:
        _print(measured, traffic.name)
    give_report(measured.as_json(), as_json=as_json, report_file=report_file)


def _print(drift: Drift, traffic_name: str) -> None:
    for figure in drift.figures:
        click.echo(
            f"{figure.name:<14} {figure.requests:6.3f}  held back {figure.held_back:6.3f}"
            f"  threshold {figure.threshold:6.3f}  {figure.verdict}"
        )
    for finding in drift.findings(traffic_name):
        click.echo(str(finding), err=True)
    click.echo("least like the training rows:")
    for request in drift.most_foreign:
        click.echo(
            f"  {request.cosine:.2f}  {request.where}  {' '.join(request.text.split())[:80]}"
        )
    click.echo(f"verdict: {drift.verdict}")
