"""A run's directory: its spec, its curve, its timing and environment, and the adapter it made.

<runs>/<id>/run.json                spec, data, base, findings, state, metrics, timing, environment
<runs>/<id>/curve.csv, curve.png    one line for every step; the same as a picture
<runs>/<id>/checkpoint.safetensors  while it is not finished: what it goes on from
<runs>/<id>/adapter/                the PEFT directory, ready to be pushed
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.domain.errors import Conflict, InvalidRequest
from hotswap.registry.domain.manifest import Lineage
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.errors import ResumeRefused, TrainingInterrupted
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.outcome import Outcome
from hotswap.training.loop.processes import ALONE, Processes
from hotswap.training.loop.progress import Ending, Progress, Silence
from hotswap.training.loop.state import State
from hotswap.training.prepare import Prepared
from hotswap.training.runs.checkpoints import CheckpointFile, difference
from hotswap.training.runs.curves import write_csv, write_png
from hotswap.training.runs.publish import library_versions, publish, state_metrics
from hotswap.training.runs.record import RECORD_FILE, RunRecord, RunTiming, stamp
from hotswap.training.spec import TrainingSpec

_PATHS = ("data", "validation")  # what is in the files counts, not where they are


@dataclass(frozen=True)
class Run:
    """Invariant: the directory alone is enough to push what the run made, and with the data
    files to go on with a run that was interrupted."""

    directory: Path
    started_at: str = field(default_factory=lambda: _now())

    @classmethod
    def create(cls, runs: Path) -> Run:
        """A fresh directory below `runs`, named by time and chance."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        directory = runs / name
        directory.mkdir(parents=True)
        return cls(directory)

    @classmethod
    def find(cls, runs: Path, name: str) -> Run:
        """The run with this id below `runs`, or in the directory of this name."""
        for directory in (runs / name, Path(name)):
            if (directory / RECORD_FILE).is_file():
                return cls(directory, RunRecord.read(directory).started_at)
        raise InvalidRequest(f"there is no run {name!r}, neither below {runs} nor at this path")

    @property
    def id(self) -> str:
        return self.directory.name

    @property
    def adapter(self) -> Path:
        return self.directory / "adapter"

    @property
    def record(self) -> RunRecord:
        return RunRecord.read(self.directory)

    @property
    def lineage(self) -> Lineage:
        """What a push of the adapter states besides what `hotswap.json` does."""
        return Lineage(run=self.id)

    def resumed_spec(self, changes: Mapping[str, Any]) -> TrainingSpec:
        """The spec of a run that is not finished. Raises ResumeRefused for `changes` that would
        change it."""
        record = self.record
        if record.state == "finished":
            raise InvalidRequest(f"run {self.id} is finished; its adapter is {self.adapter}")
        spec = TrainingSpec.parse({**record.spec, **changes})
        _refuse(self.id, _settings(record.spec), _settings(spec.model_dump(mode="json")))
        return spec

    def changes_of_environment(self) -> list[str]:
        """Where the last attempt's libraries, machine and threads differ from this process's: the
        last bits of the weights may then differ from those of an uninterrupted run."""
        differing = difference(self.record.environment, _environment())
        return [f"{name}: {before} before, {now} now" for name, (before, now) in differing.items()]

    def state_metrics(
        self, metrics: Mapping[str, float], provenance: Mapping[str, Any] = MappingProxyType({})
    ) -> Bundle:
        """Let the adapter and the record of a finished run state what an evaluation measured, and
        the adapter what `provenance` adds to its own."""
        bundle = state_metrics(self.adapter, metrics, provenance)
        known = self.record
        digest = str(bundle.manifest(lineage=self.lineage).digest)
        all_metrics = {**known.metrics, **metrics}
        known.with_changes(metrics=all_metrics, manifest_digest=digest).write(self.directory)
        return bundle

    def carry_out(
        self,
        spec: TrainingSpec,
        base: BaseDirectory,
        prepared: Prepared,
        progress: Progress,
        stop: Callable[[], bool] = lambda: False,
        processes: Processes = ALONE,
    ) -> tuple[Outcome, Bundle]:
        """Train, publish into `adapter`, and keep a record of both, of a failure too.

        A run that was interrupted goes on from its checkpoint. Raises TrainingInterrupted when
        `stop` says so, ResumeRefused when spec, data, base or the number of processes are not those
        it was started with. Only process 0 calls this, the others `take_part`.
        """
        with _ending_reported(progress), self._alone():
            about = self._about(spec, base, prepared, processes)
            identity = _identity(about)
            if (self.directory / RECORD_FILE).exists():
                _refuse(self.id, _identity(self.record), identity)
                shutil.rmtree(self.adapter, ignore_errors=True)  # published, but never recorded
            about.write(self.directory)
            try:
                outcome = self._train(spec, base, prepared, progress, identity, stop, processes)
                bundle = publish(self.adapter, outcome, spec, base, prepared)
            except TrainingInterrupted as error:
                about.with_changes(state="interrupted", error=error.message).write(self.directory)
                raise TrainingInterrupted(
                    f"{error.message}; go on with: hotswap train --resume {self.id}"
                ) from None
            except BaseException as error:
                ended = about.with_changes(state="failed", ended_at=_now(), error=str(error))
                ended.write(self.directory)
                raise
            self._finish(about, outcome, bundle)
        return outcome, bundle

    def _about(
        self,
        spec: TrainingSpec,
        base: BaseDirectory,
        prepared: Prepared,
        processes: Processes,
    ) -> RunRecord:
        values = spec.model_dump(mode="json")
        for name in _PATHS:
            if values[name] is not None:
                values[name] = str(Path(values[name]).absolute())
        return RunRecord(
            **stamp(),
            id=self.id,
            started_at=self.started_at,
            spec=values,
            data=tuple(file.provenance() for file in prepared.files),
            num_processes=processes.num,
            base=base.fingerprint().model_dump(mode="json"),
            fixes=tuple(prepared.fixes),
            findings=tuple(str(finding) for finding in prepared.findings),
            environment=_environment(),
            state="running",
        )

    def _train(
        self,
        spec: TrainingSpec,
        base: BaseDirectory,
        prepared: Prepared,
        progress: Progress,
        identity: Mapping[str, Any],
        stop: Callable[[], bool],
        processes: Processes,
    ) -> Outcome:
        return finetune(
            spec,
            base,
            prepared.train,
            prepared.validation,
            progress,
            prepared.probes,
            _KeptStates(self.directory, identity),
            stop,
            processes,
        )

    def _finish(self, about: RunRecord, outcome: Outcome, bundle: Bundle) -> None:
        write_csv(self.directory / "curve.csv", outcome.curve)
        write_png(
            self.directory / "curve.png",
            outcome.curve,
            outcome.first_validation,
            outcome.best.step,
        )
        result = self._result(outcome, bundle)
        finished = about.with_changes(state="finished", ended_at=_now(), **result)
        finished.write(self.directory)
        _checkpoint_path(self.directory).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes that train into one directory would overwrite each other's state."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process is working on run {self.id}") from None

    def _result(self, outcome: Outcome, bundle: Bundle) -> dict[str, Any]:
        timing = outcome.timing
        return {
            "metrics": outcome.metrics(),
            "verdict": outcome.verdict(),
            "num_trainable": outcome.num_trainable,
            "manifest_digest": str(bundle.manifest(lineage=self.lineage).digest),
            "timing": RunTiming(
                num_tokens=timing.num_tokens,
                train_s=round(timing.train_s, 3),
                validation_s=round(timing.validation_s, 3),
                tokens_per_s=round(timing.tokens_per_s, 1),
            ),
        }


def take_part(
    known: Run | None,
    spec: TrainingSpec,
    base: BaseDirectory,
    prepared: Prepared,
    stop: Callable[[], bool],
    processes: Processes,
) -> None:
    """Compute beside process 0, from the checkpoint of the run that is `known` when one is resumed,
    and write nothing."""
    states = None
    if known is not None:
        identity = _identity(known._about(spec, base, prepared, processes))
        states = _ReadStates(known.directory, identity)
    rows = (prepared.train, prepared.validation)
    finetune(spec, base, *rows, Silence(), (), states, stop, processes)


class _ReadStates:
    """A run's checkpoint for a process that does not write it."""

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        self._file = CheckpointFile(_checkpoint_path(directory), identity)

    def latest(self) -> State | None:
        return self._file.latest()

    def save(self, state: State) -> None: ...


class _KeptStates:
    """A run's checkpoint, with the curve up to it beside it for who looks at a running training."""

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        self._directory = directory
        self._file = CheckpointFile(_checkpoint_path(directory), identity)

    def latest(self) -> State | None:
        return self._file.latest()

    def save(self, state: State) -> None:
        self._file.save(state)
        write_csv(self._directory / "curve.csv", state.curve)


@contextlib.contextmanager
def _ending_reported(progress: Progress) -> Iterator[None]:
    how = Ending.FAILED
    try:
        yield
        how = Ending.FINISHED
    except (TrainingInterrupted, KeyboardInterrupt):
        how = Ending.INTERRUPTED
        raise
    finally:
        progress.ended(how)


def _checkpoint_path(directory: Path) -> Path:
    return directory / "checkpoint.safetensors"


def _identity(record: RunRecord) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {
        "spec": _settings(record.spec),
        "data": {file["role"]: file["digest"] for file in record.data},
        "base": record.base,
        "num_processes": record.num_processes,
    }


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in (*_PATHS, "base")}


def _refuse(run: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, (old, new) in difference(before, now).items():
        raise ResumeRefused(
            f"run {run} was started with {name} = {old!r}, now it is {new!r};"
            " give back what it was started with, or start a new run",
            field=name,
        )


def _environment() -> dict[str, Any]:
    return {
        "libraries": library_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_threads": torch.get_num_threads(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
