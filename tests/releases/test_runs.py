"""Run directories that earlier releases made: they are read, and interrupted ones go on.

`runs-<release>.tar.xz` holds a finished and an interrupted run and their rows; their base is in
`store-<release>.tar.xz`.
"""

from __future__ import annotations

import csv
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.training.loop.progress import Silence
from hotswap.training.prepare import prepare
from hotswap.training.runs.record import FORMAT, RECORD_FILE, RunRecord
from hotswap.training.runs.run import Run

HERE = Path(__file__).parent
ARCHIVES = sorted(HERE.glob("runs-*.tar.xz"))


@dataclass(frozen=True)
class Release:
    """The runs that a release left, and the base they were trained on."""

    root: Path
    base: BaseDirectory

    def run(self, state: str) -> Run:
        names = json.loads((self.root / "facts.json").read_text())
        return Run.find(self.root / "runs", names[state])


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    for name in (request.param.name, request.param.name.replace("runs-", "store-")):
        with tarfile.open(HERE / name) as archive:
            archive.extractall(tmp_path / name, filter="data")
    (root,) = (tmp_path / request.param.name).iterdir()
    (store,) = (tmp_path / request.param.name.replace("runs-", "store-")).iterdir()
    return Release(root, provide_base(str(store / "base"), tmp_path / "bases"))


def curve_of(run: Run) -> list[dict[str, Any]]:
    with (run.directory / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_finished_run_states_what_it_made(release: Release) -> None:
    run = release.run("finished")
    assert run.record.state == "finished"
    digest = Bundle.read(run.adapter).manifest(lineage=run.lineage).digest
    assert run.record.manifest_digest == str(digest)


def test_an_interrupted_run_goes_on_from_its_step(release: Release) -> None:
    run = release.run("interrupted")
    before = curve_of(run)
    spec = run.resumed_spec({"data": release.root / "rows.jsonl", "base": str(release.base.path)})

    run.carry_out(spec, release.base, prepare(spec, release.base), Silence())

    assert (run.record.state, run.record.format) == ("finished", FORMAT)
    assert 0 < len(before) < len(curve_of(run))
    assert curve_of(run)[: len(before)] == before


def test_a_record_of_a_newer_format_is_refused_in_one_line(release: Release) -> None:
    run = release.run("finished")
    file = run.directory / RECORD_FILE
    document = {**json.loads(file.read_text()), "format": FORMAT + 1, "release": "9.0.0"}
    file.write_text(json.dumps(document))
    with pytest.raises(InvalidRequest) as refused:
        RunRecord.read(run.directory)
    assert f"format {FORMAT + 1}" in refused.value.message
    assert "9.0.0" in refused.value.message
    assert "\n" not in refused.value.message
