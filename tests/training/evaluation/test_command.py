"""`hotswap evaluate`, and `hotswap train` with --evaluate and --require, on the tiny base."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.connect import open_registry
from hotswap.registry.domain.errors import AliasNotFound, InvalidRequest
from hotswap.registry.settings import RegistrySettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.evaluate import evaluate
from hotswap.training.commands.train import train
from hotswap.training.errors import RequirementNotMet
from hotswap.training.runs import run as run_module
from hotswap.training.settings import TrainingHome
from tests.training.conftest import WriteRows
from tests.training.help import help_without_torch
from tests.training.rows import counting

# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingHome:
    found = TrainingHome(tmp_path / "home")
    for module in ("train", "evaluate"):
        monkeypatch.setattr(f"hotswap.training.commands.{module}.read_home", lambda _: found)
    return found


@pytest.fixture
def data(write_rows: WriteRows) -> Path:
    return write_rows(counting(24))


def invoke_evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


def invoke_train(base: BaseDirectory, data: Path, *arguments: object) -> Result:
    known = (data, "--base", base.path, "--r", 2, "--epochs", 1, "--batch-size", 8)
    return CliRunner().invoke(train, [str(argument) for argument in (*known, *arguments)])


def test_an_adapter_is_measured_beside_the_base_and_the_report_is_written(
    base: BaseDirectory, adapter: Path, data: Path, tmp_path: Path
) -> None:
    files = (tmp_path / "report.json", tmp_path / "report.html")

    result = invoke_evaluate(
        data, "--adapter", adapter, "--base", base.path, "--against", "base", "--max-tokens", 6,
        "--report", files[0], "--html", files[1],
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    report = json.loads(files[0].read_text())
    loss, tokens = (report["metrics"][name]["value"] for name in ("loss", "total_loss"))
    assert loss > 0
    assert report["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(loss))
    assert tokens > loss
    (beside,) = report["comparisons"]
    assert beside["name"] == "base"
    assert beside["metrics"]["loss"]["value"] != loss
    difference = beside["differences"]["loss"]["estimate"]["value"]
    assert difference == pytest.approx(loss - beside["metrics"]["loss"]["value"])
    assert report["data"]["num_rows"] == report["num_rows"] == 24
    assert "<h2>Metrics</h2>" in files[1].read_text()
    assert "class_f1_macro" in result.stdout


def test_a_version_is_measured_against_its_own_prod(
    base: BaseDirectory, adapter: Path, data: Path, tmp_path: Path, home: TrainingHome
) -> None:
    store = tmp_path / "store"
    bundle = Bundle.read(adapter)
    with open_registry(RegistrySettings(), home, store=str(store)) as registry:
        push(registry, "team/x", bundle, bundle.manifest(), by="tests", alias="prod")
    options = (data, "--adapter", "team/x@prod", "--base", base.path, "--max-tokens", 2)

    same = invoke_evaluate(*options, "--registry", store, "--require", "loss <= prod.loss")
    less = invoke_evaluate(*options, "--registry", store, "--require", "loss < prod.loss")
    absent = invoke_evaluate(*options, "--registry", store, "--against", "team/x@canary")

    assert same.exit_code == 0, same.output
    assert "it holds" in same.stdout
    assert isinstance(less.exception, RequirementNotMet)
    assert "prod.loss=" in less.exception.message
    assert isinstance(absent.exception, AliasNotFound)


def test_an_unknown_metric_is_an_error_before_any_training(
    base: BaseDirectory, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(run_module, "finetune", never)

    unknown = invoke_train(base, data, "--evaluate", data, "--require", "accuracy > 0.5")
    nameless = invoke_train(base, data, "--evaluate", data, "--require", "em >= prod.em")
    unasked = invoke_train(base, data, "--require", "em > 0.5")

    for result, problem in (
        (unknown, "accuracy is not measured"),
        (nameless, "--push NAME"),
        (unasked, "--evaluate"),
    ):
        assert isinstance(result.exception, InvalidRequest)
        assert problem in result.exception.message


def test_the_version_states_its_metrics_and_candidate_moves_when_the_requirement_holds(
    base: BaseDirectory, data: Path, tmp_path: Path, home: TrainingHome
) -> None:
    store = tmp_path / "store"
    options = ("--evaluate", data, "--push", "team/x", "--registry", store)

    moved = invoke_train(
        base, data, *options, "--require", "loss < base.loss + 9 and em >= prod.em"
    )
    stayed = invoke_train(base, data, *options, "--seed", 1, "--require", "em > 1")

    assert moved.exit_code == 0, moved.output
    assert "prod.em: there is no prod yet" in moved.stdout
    assert isinstance(stayed.exception, RequirementNotMet)
    assert "pushed team/x:2" in stayed.stdout
    with open_registry(RegistrySettings(), home, store=str(store)) as registry:
        (listed,) = registry.adapters.all()
        first, second = (
            registry.versions.manifest(v.manifest_digest)
            for v in sorted(registry.adapters.versions("team/x"), key=lambda v: v.number)
        )
    assert dict(listed.aliases) == {"candidate": 1}
    runs = {run.name: run for run in home.runs.iterdir()}
    for manifest in (first, second):
        assert {"em", "loss", "stop_rate", "train_loss"} <= manifest.metrics.keys()
        assert manifest.lineage is not None
        run = runs[str(manifest.lineage.run)]
        report = json.loads((run / "evaluation.json").read_text())
        assert report["metrics"]["loss"]["value"] == manifest.metrics["loss"]
        record = json.loads((run / "run.json").read_text())
        assert record["manifest_digest"] == str(manifest.digest)
        assert "<polyline" in (run / "evaluation.html").read_text()


def test_help_shows_an_example_and_imports_no_torch() -> None:
    text = help_without_torch("evaluate")

    assert "hotswap evaluate test.jsonl" in text
