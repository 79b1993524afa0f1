"""The rows of a ladder: those that are asked, and those that prompts may show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.example import Example
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.splitting import split
from hotswap.training.errors import InvalidData
from hotswap.training.evaluation.evaluate import sampled
from hotswap.training.ladder.pool import without_leaks
from hotswap.training.prepare import gather
from hotswap.training.runs.run import Run
from hotswap.training.spec import TrainingSpec

_MAX_SHARE = 0.5  # of a single file that is asked; the rest is shown
Columns = Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class LadderRows:
    """Invariant: no row of `asked` is a duplicate or near-duplicate of one of `train`;
    `num_left_out` were."""

    asked: tuple[Example, ...]
    train: tuple[Example, ...]
    num_left_out: int

    @classmethod
    def read(
        cls,
        data: Path,
        train: Path | None,
        run: Run | None,
        *,
        columns: Columns = None,
        num_rows: int,
        seed: int = 0,
    ) -> LadderRows:
        """At most `num_rows` are asked, a seeded sample. Training rows are those of `train`, else
        those that `run` was trained on, else what a seeded split of `data` does not ask.

        Raises InvalidData when rows cannot be read, when the run's file has changed, or when each
        row of `data` is nearly a training row.
        """
        given = _read(data, columns)
        if train is not None:
            trained = _read(train, columns)
        elif run is not None:
            trained = rows_of(run)
        else:
            share = min(_MAX_SHARE, num_rows / len(given))
            trained, given = split(given, (share,), seed)
        kept = without_leaks(given, trained)
        if not kept:
            raise InvalidData(
                f"{data.name}: each of the {len(given)} rows is a duplicate or near-duplicate of a"
                " training row, so that none tells what an adapter or a prompt can do; give rows"
                " that were not trained on",
                file=data.name,
            )
        asked = sampled(kept, num_rows, seed)
        return cls(tuple(asked), tuple(trained), len(given) - len(kept))


def rows_of(run: Run) -> Sequence[Example]:
    """What the run was trained on, read and fixed again. Raises InvalidRequest when the files are
    gone, InvalidData when they have changed."""
    record = run.record
    spec = TrainingSpec.parse(record.spec)
    for path in (spec.data, spec.validation):
        if path is not None and not path.is_file():
            raise InvalidRequest(
                f"run {run.id} was trained on {path}, which is not there any more; give its"
                " training rows with --train FILE"
            )
    rows, _, files, _ = gather(spec)
    before = {file["role"]: file["digest"] for file in record.data}
    for file in files:
        if before[file.role] != str(file.digest):
            raise InvalidData(
                f"{file.file_name} is not what run {run.id} was trained on: its digest was"
                f" {before[file.role]}, now it is {file.digest}; give the run's training rows with"
                " --train FILE",
                file=file.file_name,
            )
    return rows


def _read(path: Path, columns: Columns) -> Sequence[Example]:
    examples = read_examples(path, columns=columns)
    if not examples:
        raise InvalidData(f"{path.name} has no rows", file=path.name)
    return examples
