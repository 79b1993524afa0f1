"""Jobs on disk.

<jobs>/<id>/job.json                what was asked and how it stands
<jobs>/<id>/events.jsonl            what happened
<jobs>/<id>/train/<file name>       the rows, kept although the file is deleted
<jobs>/<id>/validation/<file name>
<jobs>/<id>/log.txt                 what the job's process wrote to standard error
"""

from __future__ import annotations

import threading
from pathlib import Path

from hotswap.registry.domain.access import Principal
from hotswap.registry.durable import new_directory, open_directory, write_file
from hotswap.training.errors import JobNotFound
from hotswap.training.jobs.events import EventLog
from hotswap.training.jobs.files import Files, StoredFile
from hotswap.training.jobs.job import Job

_RECORD = "job.json"
_OWNER_ONLY = 0o700


class JobStore:
    """Invariant: a job that was told of is on disk with its rows; what `put` was given, too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        found = open_directory(directory)
        self._jobs = {
            entry.name: Job.model_validate_json((entry / _RECORD).read_bytes()) for entry in found
        }
        self._events = {entry.name: EventLog(entry / "events.jsonl") for entry in found}

    def create(
        self, job: Job, files: Files, train: StoredFile, validation: StoredFile | None
    ) -> None:
        directory = self._directory / job.id
        with new_directory(directory, _OWNER_ONLY) as part:
            files.lend(train, part / "train")
            if validation is not None:
                files.lend(validation, part / "validation")
            (part / _RECORD).write_bytes(job.model_dump_json().encode())
        with self._lock:
            self._events[job.id] = EventLog(directory / "events.jsonl")
            self._jobs[job.id] = job

    def put(self, job: Job) -> Job:
        """Keep how the job stands now."""
        write_file(self._directory / job.id / _RECORD, job.model_dump_json().encode())
        return self.remember(job)

    def remember(self, job: Job) -> Job:
        """Keep it in memory only: what a server that starts again finds out anew."""
        with self._lock:
            self._jobs[job.id] = job
        return job

    def get(self, job_id: str) -> Job:
        with self._lock:
            return self._jobs[job_id]

    def visible(self, job_id: str, principal: Principal) -> Job:
        """Raises JobNotFound, also for a job whose adapter the principal may not push."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or not principal.allows("push", job.name):
            raise JobNotFound(
                f"there is no job {job_id[:80]!r}; /v1/fine_tuning/jobs lists what there is"
            )
        return job

    def all(self) -> list[Job]:
        """The oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.order)

    def events(self, job_id: str) -> EventLog:
        return self._events[job_id]

    def log(self, job_id: str) -> Path:
        return self._directory / job_id / "log.txt"

    def rows(self, job_id: str, role: str) -> Path | None:
        """The file of `train` or `validation` rows."""
        directory = self._directory / job_id / role
        return next(directory.iterdir(), None) if directory.exists() else None
