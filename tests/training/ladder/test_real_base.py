"""The ladder of the orders example on the real 135M base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hotswap.registry.settings import read_home
from hotswap.serving.base_model import provide_base
from hotswap.serving.errors import BaseNotFound
from hotswap.training.commands.ladder import ladder
from hotswap.training.commands.train import train
from hotswap.training.settings import TrainingHome
from tests.training.rows import orders

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def test_orders_are_worth_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        base = provide_base("smollm2-135m", read_home(TrainingHome).bases)
    except BaseNotFound as error:
        pytest.skip(error.message)
    monkeypatch.setenv("HOTSWAP_HOME", str(tmp_path / "home"))
    files = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, rows in zip(files, orders(160, 24, seed=7), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--base", base.path, "--epochs", 1, "--batch-size", 8)
    trained = CliRunner().invoke(train, [str(a) for a in (files[0], *options)])
    assert trained.exit_code == 0, trained.output
    (run,) = (tmp_path / "home" / "runs").iterdir()

    result = CliRunner().invoke(
        ladder,
        [str(a) for a in (files[1], "--run", run, "--base", base.path, "--k", 8,
                          "--system-prompt", "Turn the order into JSON.", "--concurrency", 24,
                          "--max-tokens", 64)],
    )  # fmt: skip

    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads((run / "ladder.json").read_text())
    print(result.output)
    scores, losses = (
        {rung["name"]: rung["metrics"][metric]["value"] for rung in found["rungs"]}
        for metric in ("json_f1", "loss")
    )
    assert found["metric"] == "json_f1"
    assert scores["zero_shot"] < 0.05
    assert scores["zero_shot"] < scores["few_shot"] < scores["retrieved"] < scores["adapter"]
    assert losses["zero_shot"] > losses["few_shot"] > losses["retrieved"] > losses["adapter"]
    assert found["verdict"]["outcome"] == "adapter_is_worth_it"
