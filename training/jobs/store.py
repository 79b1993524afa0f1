"""Jobs on disk. Knows what is written, not when.

<root>/format.json                  the number of this form, and the release that wrote it
<root>/files/                       see `files`
<root>/jobs/                        here `jobs`
<jobs>/<id>/job.json                what was asked and how it stands
<jobs>/<id>/events.jsonl            what happened
<jobs>/<id>/train/<file name>       the rows, kept although the file is deleted
<jobs>/<id>/validation/<file name>
<jobs>/<id>/log.txt                 what the job's process wrote to standard error
"""

from __future__ import annotations

import json
import os
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hotswap.registry.domain.access import Principal
from hotswap.registry.domain.errors import StoreTooNew
from hotswap.registry.durable import (
    make_directory,
    new_directory,
    open_directory,
    sync,
    write_file,
)
from hotswap.training.errors import JobNotFound
from hotswap.training.jobs.files import Files, StoredFile
from hotswap.training.jobs.job import Job

FORMAT = 1
"""What this release writes, and the newest that it reads. Release 0.1.0 wrote no number."""

Level = Literal["info", "warn", "error"]

_RECORD, _EVENTS, _FORMAT_FILE = "job.json", "events.jsonl", "format.json"
_OWNER_ONLY = 0o700


class JobEvents:
    """What happened to a job, in order: one JSON line an event, only ever appended.

    Invariant: every line but the last is whole; a last one that a crash cut is overwritten.
    One process appends, one call at a time; any thread may read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = _repaired(path)

    def append(self, message: str, level: Level = "info", **data: Any) -> None:
        """With `data` it is an event of metrics, which need not outlive a power cut."""
        event = {
            "id": f"ftevent-{self._count + 1:09d}",
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": "metrics" if data else "message",
            "data": data,
        }
        with self._path.open("ab") as file:
            file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        if not data:
            sync(self._path)
        self._count += 1

    def newest_first(self) -> list[dict[str, Any]]:
        lines = self._path.read_bytes().split(b"\n")[:-1]  # behind the last line end is nothing
        return [json.loads(line) for line in reversed(lines)]


def admit(directory: Path) -> None:
    """Make the directory of files and jobs, and write down its format.

    Raises StoreTooNew, before anything is written, when a newer release has taken it over. The
    number stands beside the jobs, so that release 0.1.0 reads them, too.
    """
    path = directory / _FORMAT_FILE
    known = json.loads(path.read_bytes()) if path.exists() else {"format": FORMAT}
    if known["format"] > FORMAT:
        raise StoreTooNew(
            f"{directory} has format {known['format']}, written by hotswap {known.get('release')};"
            f" hotswap {version('hotswap')} reads up to format {FORMAT}; use the release that wrote"
            " it, or a later one",
            found=known["format"],
            known=FORMAT,
        )
    make_directory(directory)
    write_file(path, json.dumps({"format": FORMAT, "release": version("hotswap")}).encode())


class JobStore:
    """Invariant: a job that `create` made is on disk with its rows; what `put` was given, too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        entries = open_directory(directory)
        self._jobs = {
            entry.name: Job.model_validate_json((entry / _RECORD).read_bytes()) for entry in entries
        }
        self._events = {entry.name: JobEvents(entry / _EVENTS) for entry in entries}

    def create(
        self, job: Job, files: Files, train: StoredFile, validation: StoredFile | None
    ) -> None:
        directory = self._directory / job.id
        with new_directory(directory, _OWNER_ONLY) as part:
            files.lend(train, part / "train")
            if validation is not None:
                files.lend(validation, part / "validation")
            (part / _RECORD).write_bytes(job.model_dump_json().encode())
            (part / _EVENTS).touch()
        with self._lock:
            self._events[job.id] = JobEvents(directory / _EVENTS)
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

    def events(self, job_id: str) -> JobEvents:
        return self._events[job_id]

    def log(self, job_id: str) -> Path:
        return self._directory / job_id / "log.txt"

    def rows(self, job_id: str, role: str) -> Path | None:
        """The file of `train` or `validation` rows."""
        directory = self._directory / job_id / role
        return next(directory.iterdir(), None) if directory.exists() else None


def _repaired(path: Path) -> int:
    """Cut off what is behind the last line end, and count the lines."""
    if not path.exists():
        path.touch()
        sync(path.parent)
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    return data.count(b"\n")
