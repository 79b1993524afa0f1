"""`hotswap runs`: a record that cannot be read is named and keeps none of the others away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hotswap.training.commands.runs import runs
from hotswap.training.runs.record import FORMAT, RECORD_FILE, RunRecord, stamp


def write_record(home: Path, run_id: str, started_at: str) -> None:
    directory = home / "runs" / run_id
    directory.mkdir(parents=True)
    RunRecord(
        **stamp(),
        id=run_id,
        started_at=started_at,
        spec={"data": f"/data/{run_id}.jsonl", "base": "tiny"},
        data=(),
        base={},
        environment={},
        state="finished",
        metrics={"em": 0.5},
    ).write(directory)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTSWAP_HOME", str(tmp_path))
    write_record(tmp_path, "later", "2026-11-02T00:00:00+00:00")
    write_record(tmp_path, "first", "2026-11-01T00:00:00+00:00")
    return tmp_path


def test_runs_stand_in_order_of_start(home: Path) -> None:
    result = CliRunner().invoke(runs)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["RUN", "first", "later"]
    records = json.loads(CliRunner().invoke(runs, ["--json"]).stdout)
    assert [(r["id"], r["metrics"]) for r in records] == [
        ("first", {"em": 0.5}),
        ("later", {"em": 0.5}),
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}', json.dumps({"format": FORMAT + 1})])
def test_a_record_that_cannot_be_read_is_named_beside_the_others(home: Path, text: str) -> None:
    (home / "runs/damaged").mkdir()
    (home / "runs/damaged" / RECORD_FILE).write_text(text)
    result = CliRunner().invoke(runs)
    assert result.exit_code == 0
    assert "damaged" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["RUN", "first", "later"]
