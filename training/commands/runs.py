"""`hotswap runs`: the training runs below the home, read from their records without torch."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.commands.times import time_text
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import read_home
from hotswap.training.runs.record import RECORD_FILE, RunRecord
from hotswap.training.settings import TrainingHome


@click.command(epilog=example("hotswap runs", "hotswap runs --json"))
@json_option
def runs(as_json: bool) -> None:
    """List the training runs, newest last: what each was trained on and what came of it."""
    records = _records(read_home(TrainingHome).runs)
    if as_json:
        print_json([record.model_dump(exclude_unset=True) for record in records])
        return
    print_table(
        ("RUN", "STATE", "STARTED", "DATA", "BASE", "METRICS"),
        [
            (
                record.id,
                record.state,
                time_text(datetime.fromisoformat(record.started_at)),
                Path(record.spec["data"]).name,
                record.spec["base"],
                ", ".join(f"{k}={v:.4g}" for k, v in record.metrics.items()) or "-",
            )
            for record in records
        ],
    )


def _records(runs: Path) -> list[RunRecord]:
    """In order of start. What cannot be read is named, and keeps none of the others away."""
    records: list[RunRecord] = []
    for file in runs.glob(f"*/{RECORD_FILE}"):
        try:
            records.append(RunRecord.read(file.parent))
        except InvalidRequest as error:
            say(f"note: {error.message}", err=True)
    return sorted(records, key=lambda record: (record.started_at, record.id))
