from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.errors import ResumeRefused, TrainingInterrupted
from hotswap.training.loop.processes import ALONE, Processes
from hotswap.training.loop.progress import Silence
from hotswap.training.prepare import prepare
from hotswap.training.runs.run import Run
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.conftest import WriteRows
from tests.training.rows import counting, tokenized

OPTIONS = {"r": 4, "learning_rate": 0.01, "num_epochs": 2, "batch_size": 8, "dtype": "float32"}


def curve_of(run: Path) -> list[dict[str, str]]:
    with (run / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_make_the_steps_of_one(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec = TrainingSpec.parse({"data": write_rows(counting(40)), "base": str(base.path), **OPTIONS})
    alone = Run.create(tmp_path / "alone")
    alone.carry_out(spec, base, prepare(spec, base), Silence())
    options = ["--base", str(base.path), "--r", "4", "--learning-rate", "0.01", "--epochs", "2"]
    options += ["--batch-size", "8", "--dtype", "float32"]

    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--local-ranks-filter", "0", "-m", "--", "hotswap.training"),
            *(str(spec.data), *options),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOTSWAP_HOME": str(tmp_path / "home")},
    )

    assert done.returncode == 0, done.stderr
    (together,) = (tmp_path / "home" / "runs").iterdir()  # process 1 has written nothing
    record = Run(together).record
    assert (record.num_processes, record.state) == (2, "finished")
    expected, found = curve_of(alone.directory), curve_of(together)
    assert len(found) == len(expected) == 10
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            assert float(ours[name] or 0) == pytest.approx(float(value or 0), rel=1e-3), name
    # Before any step has added its own rounding, the summed gradient's norm is one process's.
    assert float(found[0]["gradient_norm"]) == pytest.approx(
        float(expected[0]["gradient_norm"]), rel=1e-5
    )
    weights = load_file(alone.adapter / "adapter_model.safetensors")
    for name, tensor in load_file(together / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=2e-4)


def test_shares_are_all_rows_once_and_alike_in_length(base: BaseDirectory) -> None:
    prompt = base.prompt_format(system_prompt="Count.")
    rows = tokenized(11, prompt, base)

    shares = [Processes(rank, 3).share(rows) for rank in range(3)]

    assert sorted(row.place.line for share in shares for row in share) == list(range(1, 12))
    assert [len(share) for share in shares] == [4, 4, 3]
    lengths = [sum(len(row.ids) for row in share) / len(share) for share in shares]
    longest = max(len(row.ids) for row in rows) - min(len(row.ids) for row in rows)
    assert max(lengths) - min(lengths) < longest
    assert ALONE.share(rows) == rows
    assert Processes(2, 3).share(rows[:2]) == []


def test_another_number_of_processes_does_not_go_on_with_a_run(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec = TrainingSpec.parse({"data": write_rows(counting(40)), "base": str(base.path), **OPTIONS})
    prepared = prepare(spec, base)
    run = Run.create(tmp_path)
    with pytest.raises(TrainingInterrupted):
        run.carry_out(spec, base, prepared, Silence(), lambda: True)

    with refused(ResumeRefused, 1, 2, field="num_processes"):
        run.carry_out(spec, base, prepared, Silence(), processes=replace(ALONE, num=2))
