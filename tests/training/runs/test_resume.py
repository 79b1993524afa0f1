from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from hotswap.registry.domain.errors import Conflict, InvalidRequest
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.train import train
from hotswap.training.errors import InvalidData, ResumeRefused, TrainingInterrupted
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.outcome import Outcome
from hotswap.training.loop.progress import Silence, Timing
from hotswap.training.loop.state import Checkpoint, Point, State
from hotswap.training.loss import Tally
from hotswap.training.runs.checkpoints import CheckpointFile, difference
from hotswap.training.runs.run import Run
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.conftest import WriteRows
from tests.training.rows import counting, tokenized

NUM_STEPS = 12  # 32 rows in batches of 8, three epochs
# What a child process runs: each attempt is a process of its own that kills itself, without any
# handler, when it has made the step it is told.
KILLED_RUNS = """
import os, signal, sys
from pathlib import Path
import torch
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.prepare import prepare
from hotswap.training.loop.progress import Silence
from hotswap.training.runs.run import Run
from hotswap.training.spec import TrainingSpec

class KilledAfter(Silence):
    def __init__(self, step): self._step = step
    def stepped(self, step, train, timing):
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)  # as here: float32 sums depend on it
runs, spec_json, *steps = sys.argv[1:]
spec = TrainingSpec.model_validate_json(spec_json)
base = BaseDirectory(Path(spec.base), "tiny")
prepared = prepare(spec, base)
run = Run.create(Path(runs))
for step in map(int, steps):
    if (child := os.fork()) == 0:
        run.carry_out(spec, base, prepared, KilledAfter(step))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if step else 0), status
print(run.directory)
"""


class Memory:
    """Keeps every state, as bytes that later steps cannot change."""

    def __init__(self, directory: Path, known: State | None = None) -> None:
        self._directory = directory
        self._known = known
        self.states: list[State] = []

    def latest(self) -> State | None:
        return self._known

    def save(self, state: State) -> None:
        file = CheckpointFile(self._directory / f"{state.step}.safetensors", {})
        file.save(state)
        stored = file.latest()
        assert stored is not None
        self.states.append(stored)


def spec_of(**values: Any) -> TrainingSpec:
    known = {"data": Path("rows.jsonl"), "r": 4, "learning_rate": 0.01, "batch_size": 8}
    return TrainingSpec.parse({**known, **values})


def assert_equal(found: Outcome, expected: Outcome) -> None:
    assert found.curve == expected.curve
    assert found.metrics() == expected.metrics()
    assert found.best.tensors.keys() == expected.best.tensors.keys()
    for name, tensor in expected.best.tensors.items():
        assert torch.equal(found.best.tensors[name], tensor), name


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "float32", "lora_dropout": 0.2, "weight_decay": 0.1},
        {"dtype": "bfloat16", "lora_plus_ratio": 4.0},
        {"method": "pissa"},
        {"method": "full", "r": 8},
    ],
    ids=["dropout and decay", "bfloat16 and LoRA+", "pissa", "full"],
)
def test_a_run_resumed_from_any_step_equals_one_without_a_break(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path, values: dict[str, Any]
) -> None:
    rows = tokenized(40, prompt, base)
    spec = spec_of(checkpoint_every_steps=1, **values)
    data = (base, rows[:32], rows[32:], Silence())
    memory = Memory(tmp_path)
    whole = finetune(spec, *data, states=memory)
    assert [state.step for state in memory.states] == list(range(1, NUM_STEPS))

    for state in memory.states[1::4]:
        assert_equal(finetune(spec, *data, states=Memory(tmp_path, state)), whole)


def test_dropout_goes_on_with_the_numbers_that_would_have_come(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path
) -> None:
    rows = tokenized(40, prompt, base)
    spec = spec_of(checkpoint_every_steps=4, lora_dropout=0.5)
    data = (base, rows[:32], rows[32:], Silence())
    memory = Memory(tmp_path)
    whole = finetune(spec, *data, states=memory)
    other = replace(memory.states[0], generators=[torch.Generator().manual_seed(9).get_state()])

    found = finetune(spec, *data, states=Memory(tmp_path, other))

    assert found.curve[:4] == whole.curve[:4]
    assert found.curve[5].train != whole.curve[5].train  # so that the test above means something


def adapter_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "adapter").iterdir())}


@pytest.fixture
def task(base: BaseDirectory, write_rows: WriteRows) -> TrainingSpec:
    data = write_rows(counting(40))
    return spec_of(data=data, base=str(base.path), checkpoint_every_steps=2, batch_size=12)


def carry_out(
    spec: TrainingSpec, base: BaseDirectory, run: Run, stop: Callable[[], bool] = lambda: False
) -> Path:
    from hotswap.training.prepare import prepare

    run.carry_out(spec, base, prepare(spec, base), Silence(), stop)
    return run.directory


def test_a_run_that_is_killed_again_and_again_makes_the_same_adapter(
    base: BaseDirectory, task: TrainingSpec, tmp_path: Path
) -> None:
    whole = carry_out(task, base, Run.create(tmp_path / "whole"))

    # Killed before any checkpoint, between two of them, right behind one; 0: not killed.
    arguments = [str(tmp_path / "killed"), task.model_dump_json(), "1", "3", "5", "8", "0"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED_RUNS, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path.cwd(),
    )

    assert done.returncode == 0, done.stderr
    killed = Path(done.stdout.strip())
    assert adapter_bytes(killed) == adapter_bytes(whole)
    assert (killed / "curve.csv").read_bytes() == (whole / "curve.csv").read_bytes()
    assert not list(killed.glob("*.safetensors")), "a finished run needs no checkpoint"


def interrupted(spec: TrainingSpec, base: BaseDirectory, runs: Path) -> Run:
    run = Run.create(runs)
    asked = iter([False, False, True])
    with refused(TrainingInterrupted, f"hotswap train --resume {run.id}"):
        carry_out(spec, base, run, lambda: next(asked))
    assert run.record.state == "interrupted"
    return run


def test_changed_settings_data_and_base_are_refused_by_name(
    base: BaseDirectory, task: TrainingSpec, tmp_path: Path
) -> None:
    run = interrupted(task, base, tmp_path / "runs")

    with refused(ResumeRefused, "learning_rate", "0.01", "0.5"):
        run.resumed_spec({"learning_rate": 0.5})
    with refused(ResumeRefused, 0, 1, field="spec.seed"):
        carry_out(task.model_copy(update={"seed": 1}), base, run)
    with task.data.open("a") as file:
        file.write(json.dumps(counting(1)[0]) + "\n")
    with refused(ResumeRefused, "sha256:", field="data.train"):
        carry_out(run.resumed_spec({}), base, run)


def test_a_moved_file_with_the_same_rows_is_accepted(
    base: BaseDirectory, task: TrainingSpec, tmp_path: Path
) -> None:
    whole = carry_out(task, base, Run.create(tmp_path / "whole"))
    run = interrupted(task, base, tmp_path / "runs")
    moved = tmp_path / "elsewhere" / task.data.name
    moved.parent.mkdir()
    task.data.rename(moved)

    carry_out(run.resumed_spec({"data": moved}), base, run)

    assert adapter_bytes(run.directory) == adapter_bytes(whole)


def test_an_edited_record_does_not_fit_the_checkpoint(
    base: BaseDirectory, task: TrainingSpec, tmp_path: Path
) -> None:
    run = interrupted(task, base, tmp_path / "runs")
    record = run.record
    record.with_changes(spec={**record.spec, "learning_rate": 0.3}).write(run.directory)

    with refused(ResumeRefused, "checkpoint.safetensors", "learning_rate"):
        carry_out(run.resumed_spec({}), base, run)


def test_two_processes_cannot_work_on_one_run(
    base: BaseDirectory, task: TrainingSpec, tmp_path: Path
) -> None:
    run = Run.create(tmp_path)
    met: list[str] = []

    def stop() -> bool:
        with refused(Conflict, run.id) as refusal:
            carry_out(task, base, run)
        met.append(refusal.value.message)
        return True

    with pytest.raises(TrainingInterrupted):
        carry_out(task, base, run, stop)
    assert met


@pytest.mark.usefixtures("names_are_synced")
def test_a_state_is_read_back_exactly(tmp_path: Path) -> None:
    curve = (
        Point(1, 0.1 + 0.2, float("inf"), Tally(1 / 3, 1, 3)),
        Point(2, 1e-300, 0.5, Tally(2.0, 2, 4), Tally(7.0, 1, 9)),
    )
    state = State(
        weights={"0.master": torch.randn(3, 4), "0.step": torch.tensor(7.0)},
        generators=[torch.get_rng_state()],
        curve=curve,
        best=Checkpoint(2, {"a.lora_A.weight": torch.randn(2).bfloat16()}, Tally(7.0, 1, 9)),
        first_validation=Tally(8.0, 0, 9),
        timing=Timing(5, 0.1, 0.7),
    )
    file = CheckpointFile(tmp_path / "state.safetensors", {"spec": {"r": 4}})
    assert file.latest() is None
    (tmp_path / ".state.safetensors.part").write_bytes(b"left by a crash")

    file.save(state)

    found = file.latest()
    assert found is not None
    assert (found.curve, found.timing, found.step) == (curve, state.timing, 2)
    assert found.first_validation == state.first_validation
    assert found.best is not None
    assert state.best is not None
    assert found.best.validation == state.best.validation
    assert torch.equal(found.generators[0], state.generators[0])
    for name, tensor in {**state.weights, **state.best.tensors}.items():
        assert torch.equal({**found.weights, **found.best.tensors}[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_checkpoint_cut_short_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "state.safetensors", {})
    file.save(State({}, [torch.get_rng_state()]))
    file.path.write_bytes(file.path.read_bytes()[:-100])

    with refused(InvalidData, file.path):
        file.latest()


def test_a_difference_names_nested_missing_and_new_fields() -> None:
    found = difference({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 5}, "c": 4})

    assert found == {"a.y": (2, 5), "b": (3, None), "c": (None, 4)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingHome:
    monkeypatch.setattr(
        "hotswap.training.commands.train.read_home", lambda _: TrainingHome(tmp_path / "home")
    )
    return TrainingHome(tmp_path / "home")


class SignalsItself(Silence):
    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


def test_a_signal_ends_the_command_after_the_step_and_resume_finishes_it(
    base: BaseDirectory, task: TrainingSpec, home: TrainingHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--base", base.path, "--r", 4, "--batch-size", 12, "--learning-rate", 0.01)
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(
            "hotswap.training.loop.progress.progress_for", lambda _stream: SignalsItself()
        )
        stopped = invoke(task.data, *options)
    assert isinstance(stopped.exception, TrainingInterrupted)
    assert signal.getsignal(signal.SIGTERM) is handler
    (directory,) = home.runs.iterdir()
    assert "stopped after step 4 of 9" in str(stopped.exception)

    refused = invoke("--resume", directory.name, "--r", 8)
    resumed = invoke("--resume", directory.name)
    again = invoke("--resume", directory.name)

    assert isinstance(refused.exception, ResumeRefused)
    assert resumed.exit_code == 0, resumed.output
    assert "step 5/9  loss" in resumed.stderr
    assert "step 4/9" not in resumed.stderr
    assert isinstance(again.exception, InvalidRequest)
    assert "is finished" in str(again.exception)
    whole = invoke(task.data, *options)
    assert whole.exit_code == 0, whole.output
    (other,) = (path for path in home.runs.iterdir() if path != directory)
    assert adapter_bytes(other) == adapter_bytes(directory)


def test_neither_data_nor_a_run_is_an_error() -> None:
    assert isinstance(invoke().exception, InvalidRequest)
    assert isinstance(invoke("--resume", "no-such-run").exception, InvalidRequest)
