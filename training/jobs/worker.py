"""The process of one job: reads an Order, checks the data, trains, and reports line by line.

It knows neither the registry nor HTTP: what it makes lies in the run's directory, and the server
does the rest. It works under a `guard`. Started as `python -m hotswap.training.jobs.worker`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hotswap.registry.domain.errors import HotswapError
from hotswap.serving.errors import BaseMismatch
from hotswap.training.jobs.guard import run_guarded
from hotswap.training.jobs.reports import (
    Checked,
    Done,
    Failed,
    Order,
    Report,
    Started,
    Stepped,
    Validated,
)
from hotswap.training.runs.record import RECORD_FILE, RunRecord

if TYPE_CHECKING:
    from hotswap.training.loop.progress import Ending, Timing
    from hotswap.training.loss import Tally
    from hotswap.training.prepare import Prepared

_MAX_WARNINGS = 20


class Line:
    """Reports to the server. Takes standard output for itself: what libraries print goes to
    standard error, and so into the job's log."""

    def __init__(self) -> None:
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, report: Report) -> None:
        self._file.write(report.model_dump_json().encode() + b"\n")
        self._file.flush()


class Reports:
    """A Progress that reports every step."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._num_steps = 0

    def started(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._line.send(Started(num_steps=num_steps))

    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        pace_s = (timing.train_s + timing.validation_s) / step
        self._line.send(
            Stepped(
                step=step,
                loss=train.loss,
                token_accuracy=train.token_accuracy,
                num_tokens=timing.num_tokens,
                left_s=pace_s * (self._num_steps - step),
            )
        )

    def validated(self, step: int, validation: Tally) -> None:
        if validation.num_supervised:
            self._line.send(
                Validated(step=step, loss=validation.loss, token_accuracy=validation.token_accuracy)
            )

    def ended(self, how: Ending) -> None: ...


def main() -> None:
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    run_guarded(partial(_work, order), sys.stdin.buffer, order.share)


def _work(order: Order) -> None:
    line = Line()
    os.nice(order.niceness)
    try:
        _carry_out(order, line)
    except HotswapError as error:
        line.send(Failed(code=error.code, message=error.message, param=error.fields.get("param")))
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}; the server's directory of the job has the log"
        line.send(Failed(code=HotswapError.code, message=text))


def _carry_out(order: Order, line: Line) -> None:
    from hotswap.training.data.formats.files import iter_examples
    from hotswap.training.spec import TrainingSpec

    spec = TrainingSpec.parse(order.spec)
    for path in filter(None, (spec.data, spec.validation)):
        for _ in iter_examples(path):  # what cannot be read is found before torch is loaded
            pass

    import torch

    from hotswap.serving.base_model import BaseDirectory, quiet_libraries
    from hotswap.training.data.checks.findings import refuse
    from hotswap.training.prepare import prepare
    from hotswap.training.runs.interruption import StopSignals
    from hotswap.training.runs.run import Run

    torch.set_num_threads(order.num_threads)
    quiet_libraries()
    base = BaseDirectory(order.base_path, order.base_id, order.base_revision)
    prepared = prepare(spec, base)
    refuse(prepared.findings)
    line.send(_checked(prepared))
    if order.only_check:
        return
    if not _is_finished(order.run):
        order.run.mkdir(parents=True, exist_ok=True)
        with StopSignals() as stop, _base_mismatch_named():
            Run(order.run).carry_out(spec, base, prepared, Reports(line), stop)
    line.send(_done(order.run))


@contextmanager
def _base_mismatch_named() -> Iterator[None]:
    """A run that was begun on other weights of the base is refused as serving refuses adapters."""
    from hotswap.training.errors import ResumeRefused

    try:
        yield
    except ResumeRefused as error:
        if error.fields["field"].startswith("base."):
            raise BaseMismatch(error.message) from None
        raise


def _is_finished(run: Path) -> bool:
    """A server may have ended between the end of a run and what it does with it."""
    return (run / RECORD_FILE).exists() and RunRecord.read(run).state == "finished"


def _done(run: Path) -> Done:
    record = RunRecord.read(run)
    assert record.timing is not None, "the run is finished"
    return Done(best_step=int(record.metrics["best_step"]), num_tokens=record.timing.num_tokens)


def _checked(prepared: Prepared) -> Checked:
    warnings = [str(finding) for finding in prepared.findings]
    return Checked(
        num_train_rows=len(prepared.train),
        num_validation_rows=len(prepared.validation),
        warnings=tuple(warnings[:_MAX_WARNINGS]),
        num_warnings=len(warnings),
    )


if __name__ == "__main__":
    main()
