from __future__ import annotations

import csv
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hotswap.registry.domain.errors import HotswapError, InvalidRequest
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.train import train
from hotswap.training.errors import TrainingInterrupted
from hotswap.training.loop.progress import Ending, Silence, Timing
from hotswap.training.loss import Tally
from hotswap.training.prepare import prepare
from hotswap.training.runs.run import Run
from hotswap.training.runs.trackers import Tracker, require_packages, tracked
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.conftest import WriteRows
from tests.training.rows import counting

SPEC = {"r": 4, "learning_rate": 0.001}
TRAIN, VALIDATION = Tally(6.0, 3, 4), Tally(2.0, 3, 4)


class Heard(Silence):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        self.steps.append(step)


def play(tracker: Tracker, directory: Path, how: Ending = Ending.FINISHED) -> Heard:
    """Two steps, the second one validated."""
    heard = Heard()
    progress = tracked(heard, [tracker], directory, SPEC)
    progress.started(2)
    progress.stepped(1, TRAIN, Timing(100, 2.0))
    progress.stepped(2, TRAIN, Timing(100, 2.0))
    progress.validated(2, VALIDATION)
    progress.ended(how)
    return heard


def test_tensorboard_can_read_what_a_run_wrote(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard: pip install tensorboard",
    )

    heard = play(Tracker.TENSORBOARD, tmp_path)

    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.5), (2, 1.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation/loss")] == [(2, 0.5)]
    assert [e.value for e in events.Scalars("validation/token_accuracy")] == [0.75]
    assert [e.value for e in events.Scalars("train/tokens_per_s")] == [50.0, 50.0]
    assert heard.steps == [1, 2]


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with a store in the test's directory."""
    package = pytest.importorskip("mlflow", reason="needs mlflow-skinny: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    package.set_tracking_uri((tmp_path / "store").as_uri())
    return package


quiet_mlflow = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@quiet_mlflow
def test_mlflow_keeps_the_spec_and_every_figure(mlflow: Any, tmp_path: Path) -> None:
    play(Tracker.MLFLOW, tmp_path / "my-run")

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("hotswap")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my-run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"r": "4", "learning_rate": "0.001"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 1.5), (2, 1.5)]
    assert run.data.metrics["validation/loss"] == 0.5


@quiet_mlflow
def test_mlflow_is_told_how_a_run_ended(
    mlflow: Any, base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    data = write_rows(counting(20))

    def statuses(
        spec: TrainingSpec, stop: Callable[[], bool], error: type[BaseException]
    ) -> list[str]:
        """Of all runs, the oldest first, after one more that ends with `error`."""
        run = Run.create(tmp_path / "runs")
        progress = tracked(Silence(), [Tracker.MLFLOW], run.directory, spec.portable())
        with pytest.raises(error):
            run.carry_out(spec, base, prepare(spec, base), progress, stop)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("hotswap")
        found = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
        assert mlflow.active_run() is None
        return [run.info.status for run in found]

    diverging = TrainingSpec(data=data, num_epochs=20, learning_rate=1e30, max_grad_norm=1e30)
    asked = iter([False, True])
    assert statuses(diverging, lambda: False, HotswapError) == ["FAILED"]
    usual = TrainingSpec(data=data, num_epochs=2)
    assert statuses(usual, lambda: next(asked), TrainingInterrupted) == ["FAILED", "KILLED"]

    def interrupt() -> bool:
        raise KeyboardInterrupt  # a second Ctrl-C, in the middle of a step

    assert statuses(usual, interrupt, KeyboardInterrupt) == ["FAILED", "KILLED", "KILLED"]


@pytest.mark.parametrize(
    ("how", "exit_code"), [(Ending.FINISHED, 0), (Ending.FAILED, 1), (Ending.INTERRUPTED, 255)]
)
def test_weights_and_biases_is_told_how_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Ending, exit_code: int
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    play(Tracker.WANDB, tmp_path, how)
    wandb.teardown()

    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    codes = [r.exit.exit_code for r in wandb_records(record) if r.HasField("exit")]
    assert codes == [exit_code]


def wandb_records(path: Path) -> list[Any]:
    """Behind a header of 7 bytes LevelDB's log format: blocks of 32 KiB with chunks of checksum,
    length and type; type 1 is a whole record, 2, 3 and 4 are its first, middle and last part."""
    from wandb.proto.wandb_internal_pb2 import Record

    stored, at, found, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(stored):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", stored, at)
        parts += stored[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def test_weights_and_biases_keeps_a_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    heard = play(Tracker.WANDB, tmp_path)
    wandb.teardown()  # what a process does at its end: wait until all is written

    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    stored = record.read_bytes()
    for name in (b"train/loss", b"validation/token_accuracy", b"learning_rate"):
        assert name in stored, name
    assert heard.steps == [1, 2]


def test_train_sends_its_figures_where_it_is_told(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard: pip install tensorboard",
    )
    monkeypatch.setattr(
        "hotswap.training.commands.train.read_home", lambda _: TrainingHome(tmp_path)
    )
    options = ["--base", str(base.path), "--r", "2", "--epochs", "1", "--track", "tensorboard"]

    result = CliRunner().invoke(train, [str(write_rows(counting(40))), *options])

    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "runs").iterdir()
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    with (run / "curve.csv").open(newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx(losses)


def test_train_offers_every_tracker() -> None:
    (option,) = (parameter for parameter in train.params if parameter.name == "trackers")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(Tracker)


def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refused(InvalidRequest, "--track wandb", "pip install wandb"):
        require_packages([Tracker.WANDB])
