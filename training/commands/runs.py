"""`hotswap runs`: the training runs below the home, read from their records without torch."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hotswap.registry.commands.parts import example, json_option
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.commands.times import time_text
from hotswap.registry.settings import read_home
from hotswap.training.settings import TrainingHome


@click.command(epilog=example("hotswap runs", "hotswap runs --json"))
@json_option
def runs(as_json: bool) -> None:
    """List the training runs, newest last: what each was trained on and what came of it."""
    records = list(_records(read_home(TrainingHome).runs))
    if as_json:
        print_json(records)
        return
    print_table(
        ("RUN", "STATE", "STARTED", "DATA", "BASE", "METRICS"),
        [
            (
                record["id"],
                record["state"],
                time_text(datetime.fromisoformat(record["started_at"])),
                Path(record["spec"]["data"]).name,
                record["spec"]["base"],
                ", ".join(f"{k}={v:.4g}" for k, v in record.get("metrics", {}).items()) or "-",
            )
            for record in records
        ],
    )


def _records(runs: Path) -> list[dict[str, Any]]:
    """Each run's record with its id, in order of start."""
    files = runs.glob("*/run.json")
    records = [{"id": file.parent.name, **json.loads(file.read_bytes())} for file in files]
    return sorted(records, key=lambda record: (record["started_at"], record["id"]))
