from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.connect import open_registry
from hotswap.registry.domain.digests import hash_file
from hotswap.registry.domain.errors import InvalidRequest, InvalidSettings
from hotswap.registry.domain.manifest import Lineage
from hotswap.registry.settings import Home, RegistrySettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.runs import runs
from hotswap.training.commands.train import train
from hotswap.training.errors import InvalidData
from hotswap.training.runs import run as run_module
from hotswap.training.settings import TrainingHome
from tests.training.conftest import WriteRows
from tests.training.help import help_without_torch
from tests.training.rows import counting


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "hotswap.training.commands.train.read_home", lambda _: TrainingHome(tmp_path / "home")
    )
    return tmp_path / "home"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


def test_a_file_becomes_an_adapter_directory(
    base: BaseDirectory, home: Path, write_rows: WriteRows, tmp_path: Path
) -> None:
    data = write_rows([*counting(40), counting(1)[0]])
    out = tmp_path / "adapter"

    result = invoke(
        data, "--out", out, "--base", base.path, "--r", 4, "--epochs", 2, "--batch-size", 8
    )

    assert result.exit_code == 0, result.output
    bundle = Bundle.read(out)
    assert bundle.lora.r == 4
    assert "warning: rows.jsonl:41: the same row as rows.jsonl:1 [duplicate]" in result.stderr
    assert "step 5/10  loss" in result.stderr
    assert "tokens/s" in result.stderr
    assert f"hotswap push {out} NAME" in result.stdout
    (run,) = (home / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["manifest_digest"] == str(bundle.manifest(lineage=Lineage(run=run.name)).digest)


def test_a_trained_adapter_can_be_pushed_at_once(
    base: BaseDirectory, home: Path, write_rows: WriteRows, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    options = ("--base", base.path, "--r", 2, "--epochs", 1, "--validation-fraction", 0)
    data = write_rows(counting(8))

    result = invoke(
        data,
        *options,
        "--push",
        "demo/count",
        "--alias",
        "prod",
        "--registry",
        store,
    )

    assert result.exit_code == 0, result.output
    assert "pushed demo/count:1 sha256:" in result.stdout
    assert "demo/count@prod points to version 1" in result.stdout
    (run,) = (home / "runs").iterdir()
    with open_registry(RegistrySettings(), Home(home), store=str(store)) as registry:
        lineage = registry.versions.manifest(
            registry.adapters.versions("demo/count")[0].manifest_digest
        ).lineage
    assert lineage is not None
    assert (lineage.run, lineage.dataset_digest) == (run.name, hash_file(data).digest)


def test_runs_lists_what_was_trained(
    base: BaseDirectory,
    home: Path,
    write_rows: WriteRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOTSWAP_HOME", str(home))
    data = write_rows(counting(8))
    options = ("--r", 2, "--epochs", 1, "--validation-fraction", 0, "--out", tmp_path / "out")
    assert invoke(data, "--base", base.path, *options).exit_code == 0

    done = CliRunner().invoke(runs, [])

    (run,) = (home / "runs").iterdir()
    line = done.stdout.splitlines()[1]
    assert line.split()[:2] == [run.name, "finished"]
    assert data.name in line
    assert json.loads(CliRunner().invoke(runs, ["--json"]).stdout)[0]["id"] == run.name


@pytest.mark.usefixtures("home")
def test_rows_that_are_too_long_are_refused_before_any_compute(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(run_module, "finetune", never)
    data = write_rows([*counting(3), {"question": "fox " * 200, "answer": "x"}])

    result = invoke(data, "--base", base.path, "--max-length", 100, "--out", tmp_path / "out")

    assert isinstance(result.exception, InvalidData)
    assert "rows.jsonl:4" in result.exception.message
    assert "too_long" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("home")
def test_a_taken_directory_is_refused_before_any_compute(
    write_rows: WriteRows, tmp_path: Path
) -> None:
    result = invoke(write_rows(counting(3)), "--base", "no-such-base", "--out", tmp_path)

    assert isinstance(result.exception, InvalidRequest)
    assert "exists already" in str(result.exception)


def test_an_option_that_does_not_fit_is_named(write_rows: WriteRows) -> None:
    result = invoke(write_rows(counting(3)), "--r", 0)

    assert isinstance(result.exception, InvalidSettings)
    assert "r: " in str(result.exception)


def test_an_alias_needs_a_push(write_rows: WriteRows) -> None:
    result = invoke(write_rows(counting(3)), "--alias", "prod")

    assert isinstance(result.exception, InvalidRequest)


def test_help_shows_an_example_and_imports_no_torch() -> None:
    text = help_without_torch("train")

    assert "hotswap train orders.jsonl" in text
    assert "--learning-rate" in text
