"""A grid of learning rates and ranks, one run for each pair on the same rows, and the best of them.

What is done is kept in the grid's directory, so that an interrupted one goes on where it was:
`trials.json` has an entry for each run that has finished, `running.json` names the one that has
not, `best.json` is the spec with the lowest validation loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.durable import write_file
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.loop.outcome import Outcome
from hotswap.training.loop.progress import Progress
from hotswap.training.prepare import Prepared
from hotswap.training.runs.record import RECORD_FILE
from hotswap.training.runs.run import Run
from hotswap.training.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """What one run of the grid gave. Losses are means over supervised tokens, in nats."""

    learning_rate: float
    r: int
    run: str
    num_trainable: int
    best_step: int
    validation_loss: float
    validation_token_accuracy: float
    tokens_per_s: float

    @property
    def pair(self) -> tuple[float, int]:
        return self.learning_rate, self.r


@dataclass(frozen=True)
class Grid:
    """Invariant: `directory` belongs to one spec and one set of files, whatever rates and ranks are
    asked for; a trial is written only when its run has finished."""

    runs: Path
    directory: Path
    spec: TrainingSpec
    rates: Sequence[float]
    ranks: Sequence[int]

    @classmethod
    def of(
        cls,
        runs: Path,
        spec: TrainingSpec,
        prepared: Prepared,
        rates: Sequence[float],
        ranks: Sequence[int],
    ) -> Grid:
        """The grid's directory below `runs` is named by all that its runs have in common, so a
        command finds what one with other rates or ranks has done.

        Raises InvalidSettings when there is nothing to compare the runs by.
        """
        if not prepared.validation:
            raise InvalidSettings(
                "tuning compares validation losses, and no rows are held back; give --validation"
                " FILE or a --validation-fraction above 0"
            )
        rates, ranks = sorted(set(rates)), sorted(set(ranks))
        data = [file.provenance() for file in prepared.files]
        common = json.dumps({"spec": spec.portable(), "data": data}, sort_keys=True)
        digest = Digest.of(common.encode())
        directory = runs / f"grid-{digest.hex[:12]}"
        directory.mkdir(parents=True, exist_ok=True)
        return cls(runs, directory, spec, rates, ranks)

    def specs(self) -> Iterator[TrainingSpec]:
        """Every pair; the scale of the update, lora_alpha / r, stays that of the spec."""
        scale = self.spec.lora_alpha / self.spec.r
        for r in self.ranks:
            for rate in self.rates:
                changed = {"r": r, "lora_alpha": max(1, round(scale * r)), "learning_rate": rate}
                yield TrainingSpec.parse({**self.spec.model_dump(), **changed})

    def carry_out(
        self,
        base: BaseDirectory,
        prepared: Prepared,
        make_progress: Callable[[TrainingSpec], Progress],
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Trial]:
        """Make the runs that are missing, one after the other; the grid's trials, the best first.

        Raises TrainingInterrupted when `stop` says so; the run it was in goes on the next time.
        """
        trials = {trial.pair: trial for trial in self._trials()}
        pairs = [(spec.learning_rate, spec.r) for spec in self.specs()]
        for pair, spec in zip(pairs, self.specs(), strict=True):
            if pair not in trials:
                run = self._run_of(pair)
                outcome, _ = run.carry_out(spec, base, prepared, make_progress(spec), stop)
                trials[pair] = _trial(pair, run, outcome)
                self._write("trials.json", [asdict(trial) for trial in trials.values()])
        ordered = sorted(
            (trials[pair] for pair in pairs),
            key=lambda trial: (trial.validation_loss, trial.num_trainable),
        )
        self._write("best.json", self._spec_of(ordered[0]).model_dump(mode="json"))
        return ordered

    def _trials(self) -> list[Trial]:
        return [Trial(**entry) for entry in self._read("trials.json", [])]

    def _run_of(self, pair: tuple[float, int]) -> Run:
        """The run of this pair that was interrupted, or a new one, noted before it starts."""
        known = self._read("running.json", {})
        if known.get("pair") == [*pair] and (self.runs / known["run"] / RECORD_FILE).exists():
            run = Run.find(self.runs, known["run"])
            if run.record.state != "finished":
                return run
        run = Run.create(self.runs)
        self._write("running.json", {"pair": pair, "run": run.id})
        return run

    def _spec_of(self, trial: Trial) -> TrainingSpec:
        return next(spec for spec in self.specs() if (spec.learning_rate, spec.r) == trial.pair)

    def _read(self, name: str, otherwise: Any) -> Any:
        path = self.directory / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise

    def _write(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        write_file(self.directory / name, f"{text}\n".encode())


def _trial(pair: tuple[float, int], run: Run, outcome: Outcome) -> Trial:
    best = outcome.best.validation
    assert best is not None, "a grid has validation rows"
    return Trial(
        learning_rate=pair[0],
        r=pair[1],
        run=run.id,
        num_trainable=outcome.num_trainable,
        best_step=outcome.best.step,
        validation_loss=best.loss,
        validation_token_accuracy=best.token_accuracy,
        tokens_per_s=round(outcome.timing.tokens_per_s, 1),
    )
