"""Which jobs run, and what becomes of them. Knows neither HTTP nor tensors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from hotswap.registry.domain.errors import HotswapError, Unavailable
from hotswap.training.jobs.files import Files, StoredFile
from hotswap.training.jobs.job import Job, JobError, Status, checkpoint, with_checkpoint
from hotswap.training.jobs.process import JobProcess
from hotswap.training.jobs.publication import Publication
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
from hotswap.training.jobs.store import JobEvents, JobStore

_log = logging.getLogger(__name__)

OrderOf = Callable[[Job, bool], Order]
"""Gives the order for a job; the flag says to check its data only."""

_PUBLISH_PAUSES_S = (1.0, 5.0, 30.0, 60.0, 60.0)
_VERBS = {Status.PAUSED: "paused", Status.QUEUED: "resumed", Status.CANCELLED: "cancelled"}
_WANTS_TO_RUN = (Status.RUNNING, Status.QUEUED, Status.VALIDATING)


class JobQueue:
    """Runs the jobs of a store, `max_running` at a time, in the order of their creation.

    Invariant: how a job stands is on disk before a client sees it. A job has at most one process;
    one that a server left running is run again by the next, from where its run was kept.
    """

    def __init__(
        self, store: JobStore, order_of: OrderOf, publication: Publication, max_running: int
    ) -> None:
        self._store = store
        self._order_of = order_of
        self._publication = publication
        self._max_running = max_running
        self._lock = threading.RLock()
        self._processes: dict[str, JobProcess] = {}
        self._only_checked: set[str] = set()
        self._stopped: set[str] = set()
        self._last: dict[str, Report] = {}
        self._leaving = threading.Event()

    def start(self) -> None:
        with self._lock:
            for job in self._store.all():
                if job.status is Status.RUNNING:
                    self._store.events(job.id).append("The server was restarted; the job goes on")
            self._start_next()

    def stop(self) -> None:
        """End all processes. Jobs that ran stay `running`: the next start goes on with them."""
        self._leaving.set()
        with self._lock:
            processes = dict(self._processes)
            self._stopped.update(processes)
            for process in processes.values():
                process.stop()
        for process in processes.values():
            process.join()

    def create(
        self, job: Job, files: Files, train: StoredFile, validation: StoredFile | None
    ) -> Job:
        self._store.create(job, files, train, validation)
        events = self._store.events(job.id)
        events.append(f"Created fine-tuning job: {job.id}")
        for file in filter(None, (train, validation)):
            events.append(f"Validating file: {file.id} ({file.filename})")
        with self._lock:
            self._start_next()
            return self._store.get(job.id)

    def ask(self, job_id: str, status: Status) -> Job:
        """Pause, resume (QUEUED) or cancel the job; raises JobNotActive.

        It stands so at once. The process ends after the step that it is in.
        """
        with self._lock:
            job = self._store.get(job_id).asked_to_be(status)
            if status is Status.QUEUED and not job.is_checked:
                job = job.after(status=Status.VALIDATING)
            if status is Status.CANCELLED:
                job = job.after(finished_at=int(time.time()))
            self._store.put(job)
            self._store.events(job_id).append(f"The job was {_VERBS[status]}")
            if job.status not in _WANTS_TO_RUN and job_id in self._processes:
                self._stopped.add(job_id)
                self._processes[job_id].stop()
            self._start_next()
            return job

    def stand_back(self, is_busy: bool) -> None:
        """Let every process know whether requests are answered."""
        with self._lock:
            for process in self._processes.values():
                process.stand_back(is_busy)

    def health(self) -> dict[str, Any]:
        statuses = [job.status for job in self._store.all()]
        return {
            "running": len(self._processes),
            "queued": sum(s in (Status.QUEUED, Status.VALIDATING) for s in statuses),
        }

    def _start_next(self) -> None:
        """Jobs that ran go first. A new one's data is checked although it must wait."""
        waiting = [
            job
            for job in self._store.all()
            if job.status in _WANTS_TO_RUN and job.id not in self._processes
        ]
        for job in sorted(waiting, key=lambda job: job.status is not Status.RUNNING):
            if self._leaving.is_set():
                return
            if len(self._processes) - len(self._only_checked) < self._max_running:
                self._start_process(job, only_check=False)
            elif not job.is_checked and not self._only_checked:
                self._start_process(job, only_check=True)

    def _start_process(self, job: Job, *, only_check: bool) -> None:
        if only_check:
            self._only_checked.add(job.id)
        try:
            self._processes[job.id] = JobProcess(
                self._order_of(job, only_check),
                self._store.log(job.id),
                partial(self._on_report, job.id),
                partial(self._on_end, job.id),
            )
        except Exception as error:
            self._only_checked.discard(job.id)
            self._fail(job.id, _job_error(error))

    def _on_report(self, job_id: str, report: Report) -> None:
        with self._lock:
            if job_id in self._stopped:
                return
            before = self._last.get(job_id)
            self._last[job_id] = report
            job = self._store.get(job_id)
            _narrate(report, self._store.events(job_id))
            if isinstance(report, Checked):
                self._store.put(job.after(status=Status.QUEUED, is_checked=True))
            elif isinstance(report, Started):
                self._store.put(job.after(status=Status.RUNNING))
            elif isinstance(report, Stepped):
                self._store.remember(job.after(estimated_finish=int(time.time() + report.left_s)))
            elif isinstance(report, Validated) and isinstance(before, Stepped):
                new = checkpoint(job_id, report.line(before), int(time.time()))
                self._store.put(job.after(checkpoints=with_checkpoint(job.checkpoints, new)))

    def _on_end(self, job_id: str, status: int, problem: Exception | None) -> None:
        """Called in the process's own thread, so the next job may wait for a publication."""
        with self._lock:
            report = self._last.pop(job_id, None)
            is_stopped = job_id in self._stopped
        if not is_stopped and not self._leaving.is_set():
            try:
                if problem is not None:
                    raise problem
                self._conclude(job_id, report, status)
            except Exception as error:
                _log.warning("job %s failed", job_id, exc_info=error)
                self._fail(job_id, _job_error(error))
        with self._lock:
            del self._processes[job_id]
            self._only_checked.discard(job_id)
            self._stopped.discard(job_id)
            self._start_next()

    def _conclude(self, job_id: str, report: Report | None, status: int) -> None:
        if isinstance(report, Done):
            self._publish(job_id, report)
        elif isinstance(report, Failed):
            error = JobError(code=report.code, message=report.message, param=report.param)
            self._fail(job_id, error)
        elif job_id not in self._only_checked or status != 0:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            text = f"the job's process ended with {how}; see {self._store.log(job_id)}"
            self._fail(job_id, JobError(code="job_process_ended", message=text))

    def _publish(self, job_id: str, done: Done) -> None:
        """While the registry or its store cannot be reached it is tried again, for minutes."""
        for pause_s in (*_PUBLISH_PAUSES_S, None):
            try:
                changes = self._publication.publish(self._store.get(job_id), done)
            except Unavailable as error:
                if pause_s is None:
                    raise
                self._store.events(job_id).append(f"Not yet published: {error.message}", "warn")
                if self._leaving.wait(pause_s):
                    return
            else:
                self._succeed(job_id, changes)
                return

    def _succeed(self, job_id: str, changes: dict[str, Any]) -> None:
        with self._lock:
            job = self._store.get(job_id)
            if job.status not in _WANTS_TO_RUN:  # cancelled or paused while it was published
                return
            now = int(time.time())
            self._store.put(job.after(status=Status.SUCCEEDED, finished_at=now, **changes))
            events = self._store.events(job_id)
            events.append(f"New fine-tuned model created: {changes['fine_tuned_model']}")
            events.append("The job has successfully completed")

    def _fail(self, job_id: str, error: JobError) -> None:
        with self._lock:
            job = self._store.get(job_id)
            if job.status.is_final:
                return
            now = int(time.time())
            failed = job.after(status=Status.FAILED, error=error, finished_at=now)
            failed = failed.after(estimated_finish=None)
            try:
                self._store.put(failed)
                self._store.events(job_id).append(error.message, "error")
            except OSError as problem:  # a next server tries the job again
                _log.warning("job %s failed, which cannot be kept: %s", job_id, problem)
                self._store.remember(failed)


def _job_error(error: Exception) -> JobError:
    if isinstance(error, HotswapError):
        return JobError(code=error.code, message=error.message)
    text = f"{type(error).__name__}: {error}; the server's log has more"
    return JobError(code=HotswapError.code, message=text)


def _narrate(report: Report, events: JobEvents) -> None:
    """Append what the report means to a person, and as figures that a program can plot."""
    match report:
        case Checked():
            rows = f"{report.num_train_rows} rows to train on"
            events.append(f"Files validated: {rows}, {report.num_validation_rows} to validate")
            for text in report.warnings:
                events.append(text, "warn")
            if more := report.num_warnings - len(report.warnings):
                events.append(f"{more} more warnings about the data", "warn")
        case Started():
            events.append(f"Fine-tuning job started: {report.num_steps} steps in all")
        case Stepped():
            events.append(
                f"Step {report.step}: training loss={report.loss:.4f}",
                step=report.step,
                train_loss=report.loss,
                train_mean_token_accuracy=report.token_accuracy,
            )
        case Validated():
            events.append(
                f"Step {report.step}: validation loss={report.loss:.4f}",
                step=report.step,
                valid_loss=report.loss,
                valid_mean_token_accuracy=report.token_accuracy,
            )
