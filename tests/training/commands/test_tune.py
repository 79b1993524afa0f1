from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.tune import tune
from hotswap.training.runs import run as run_module
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec
from tests.training.conftest import WriteRows
from tests.training.rows import counting


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "hotswap.training.commands.tune.read_home", lambda _: TrainingHome(tmp_path / "home")
    )
    return tmp_path / "home"


def invoke(data: Path, base: BaseDirectory, *options: str) -> Result:
    fixed = ["--base", str(base.path), "--epochs", "1", "--batch-size", "8", "--lora-alpha", "8"]
    return CliRunner().invoke(tune, [str(data), *fixed, *options])


def test_every_pair_is_trained_once_and_the_lowest_validation_loss_wins(
    base: BaseDirectory, home: Path, write_rows: WriteRows
) -> None:
    data = write_rows(counting(40))

    result = invoke(data, base, "--rates", "1e-5,1e-2", "--ranks", "2,4")

    assert result.exit_code == 0, result.output
    (directory,) = (home / "runs").glob("grid-*")
    trials = json.loads((directory / "trials.json").read_text())
    assert {(t["learning_rate"], t["r"]) for t in trials} == {
        (rate, r) for rate in (1e-5, 1e-2) for r in (2, 4)
    }
    lowest = min(trials, key=lambda trial: trial["validation_loss"])
    best = TrainingSpec.parse(json.loads((directory / "best.json").read_text()))
    assert (best.learning_rate, best.r) == (lowest["learning_rate"], lowest["r"])
    assert best.learning_rate == 1e-2, "a rate near 0 learns nothing in five steps"
    for trial in trials:
        record = json.loads((home / "runs" / trial["run"] / "run.json").read_text())
        assert record["metrics"]["validation_loss"] == trial["validation_loss"]
        assert record["spec"]["lora_alpha"] == trial["r"] / 2  # 8 / 16, the spec's scale
    assert str(home / "runs" / lowest["run"] / "adapter") in result.stdout


def test_an_interrupted_grid_goes_on_with_what_is_missing(
    base: BaseDirectory, home: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(counting(40))
    finetune = run_module.finetune
    ranks: list[int] = []

    def interrupted_at_the_second(spec: TrainingSpec, *rest: object) -> object:
        ranks.append(spec.r)
        if len(ranks) == 2:
            raise KeyboardInterrupt
        return finetune(spec, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "finetune", interrupted_at_the_second)
    assert invoke(data, base, "--rates", "1e-3", "--ranks", "2,4,8").exit_code != 0

    result = invoke(data, base, "--rates", "1e-3", "--ranks", "2,4,8")

    assert result.exit_code == 0, result.output
    assert ranks == [2, 4, 4, 8]
    assert len(list((home / "runs").glob("*/run.json"))) == 3, (
        "the interrupted run was gone on with"
    )

    wider = invoke(data, base, "--rates", "1e-3,2e-3", "--ranks", "2,4")

    assert wider.exit_code == 0, wider.output
    assert ranks == [2, 4, 4, 8, 2, 4], "only pairs with the new rate"
    assert len(wider.stdout.splitlines()) == 7, "four pairs of this grid, a header, two results"


def test_rows_to_compare_by_are_needed(
    base: BaseDirectory, home: Path, write_rows: WriteRows
) -> None:
    data = write_rows(counting(8))
    options = ("--validation-fraction", "0", "--rates", "1e-3", "--ranks", "2")
    result = invoke(data, base, *options)
    assert isinstance(result.exception, InvalidSettings)
    assert "--validation FILE" in str(result.exception)


def test_what_is_no_number_is_named(base: BaseDirectory, home: Path, write_rows: WriteRows) -> None:
    result = invoke(write_rows(counting(8)), base, "--rates", "fast", "--ranks", "2")
    assert isinstance(result.exception, InvalidSettings)
    assert "--rates is 'fast'" in str(result.exception)
