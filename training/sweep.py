"""A grid of learning rates and ranks, one run for each pair on the same rows, and the best of them.

What has finished is kept in the sweep's directory, so an interrupted sweep goes on where it was:
`sweep.json` has one entry for each run, `best.json` the spec with the lowest validation loss.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry.digests import Digest
from registry.errors import InvalidSettings
from serving.base_model import BaseDirectory
from training.prepare import Prepared
from training.progress import Progress
from training.run import Run
from training.spec import TrainingSpec


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


@dataclass(frozen=True)
class Sweep:
    """Invariant: `directory` belongs to one spec, one set of files and one grid; an entry is
    written only when its run has finished."""

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
    ) -> Sweep:
        """The sweep's directory below `runs` is named by all that decides its results, so the same
        command finds what it has done before.

        Raises InvalidSettings when there is nothing to compare the runs by.
        """
        if not prepared.validation:
            raise InvalidSettings(
                "a sweep compares validation losses, and no rows are held back; give --validation"
                " FILE or a --validation-fraction above 0"
            )
        rates, ranks = sorted(set(rates)), sorted(set(ranks))
        decides = {
            "spec": spec.portable(),
            "data": [file.provenance() for file in prepared.files],
            "rates": rates,
            "ranks": ranks,
        }
        digest = Digest.of(json.dumps(decides, sort_keys=True).encode())
        directory = runs / f"sweep-{digest.hex[:12]}"
        directory.mkdir(parents=True, exist_ok=True)
        return cls(directory, spec, rates, ranks)

    def specs(self) -> Iterator[TrainingSpec]:
        """Every pair; the scale of the update, lora_alpha / r, stays that of the spec."""
        scale = self.spec.lora_alpha / self.spec.r
        for r in self.ranks:
            for rate in self.rates:
                changed = {"r": r, "lora_alpha": max(1, round(scale * r)), "learning_rate": rate}
                yield TrainingSpec.parse({**self.spec.model_dump(), **changed})

    def finished(self) -> list[Trial]:
        path = self.directory / "sweep.json"
        if not path.exists():
            return []
        return [Trial(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]

    def carry_out(
        self,
        runs: Path,
        base: BaseDirectory,
        prepared: Prepared,
        make_progress: Callable[[TrainingSpec], Progress],
    ) -> list[Trial]:
        """Make the runs that are missing, one after the other; all trials, the best first."""
        trials = self.finished()
        known = {(trial.learning_rate, trial.r) for trial in trials}
        for spec in self.specs():
            if (spec.learning_rate, spec.r) in known:
                continue
            run = Run.create(runs)
            outcome, _ = run.carry_out(spec, base, prepared, make_progress(spec))
            best = outcome.best.validation
            assert best is not None, "a sweep has validation rows"
            trials.append(
                Trial(
                    learning_rate=spec.learning_rate,
                    r=spec.r,
                    run=run.id,
                    num_trainable=outcome.num_trainable,
                    best_step=outcome.best.step,
                    validation_loss=best.loss,
                    validation_token_accuracy=best.token_accuracy,
                    tokens_per_s=round(outcome.timing.tokens_per_s, 1),
                )
            )
            self._write("sweep.json", [asdict(trial) for trial in trials])
        ordered = sorted(trials, key=lambda trial: (trial.validation_loss, trial.num_trainable))
        self._write("best.json", self._spec_of(ordered[0]).model_dump(mode="json"))
        return ordered

    def _spec_of(self, trial: Trial) -> TrainingSpec:
        pair = (trial.learning_rate, trial.r)
        return next(spec for spec in self.specs() if (spec.learning_rate, spec.r) == pair)

    def _write(self, name: str, value: Any) -> None:
        """The file appears whole, and is on disk when this returns."""
        path = self.directory / name
        work = path.with_suffix(".part")
        with work.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
