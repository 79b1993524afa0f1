"""`hotswap data drift`: recent requests against the rows that were trained on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hotswap.registry.commands.parts import example
from hotswap.training.commands.rows import columns_option
from hotswap.training.data.formats import read_examples


@click.command(
    epilog=example("hotswap data drift --traffic recent.jsonl train.jsonl --json drift.json")
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
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the figures here."
)
def drift(
    data: Path, traffic: Path, columns: dict[str, str] | None, seed: int, json_file: Path | None
) -> None:
    """Compare the requests of production with DATA, the training rows.

    Each figure is 0 to 1, beside its median for as many training rows that are held back, drawn 20
    times, and the threshold that these draws set: above it the requests are drifting, or foreign
    when they are 0.3 above the median. The requests least like any training row are listed.
    """
    from hotswap.training.data.drift import measure_drift
    from hotswap.training.data.traffic import requests_in

    requests, train = requests_in(traffic), read_examples(data, columns=columns)
    found = measure_drift(requests, train, seed=seed)
    for figure in found.figures:
        click.echo(
            f"{figure.name:<14} {figure.requests:6.3f}  held back {figure.held_back:6.3f}"
            f"  threshold {figure.threshold:6.3f}  {figure.verdict}"
        )
    for finding in found.findings(traffic.name):
        click.echo(str(finding), err=True)
    click.echo("least like the training rows:")
    for request in found.most_foreign:
        click.echo(
            f"  {request.cosine:.2f}  {request.where}  {' '.join(request.text.split())[:80]}"
        )
    if json_file is not None:
        text = json.dumps(found.as_json(), indent=2, ensure_ascii=False)
        json_file.write_text(text + "\n", encoding="utf-8")
    click.echo(f"verdict: {found.verdict}")
