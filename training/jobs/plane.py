"""Builds the parts of the jobs in order and returns them as a plane of the serving process."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event, Thread

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from hotswap.registry.connect import signing
from hotswap.registry.http.app import Plane
from hotswap.registry.http.planes import PlaneHost
from hotswap.registry.http.rules import rule
from hotswap.registry.settings import read_section
from hotswap.serving.errors import BaseMismatch
from hotswap.training.jobs.api import files_router, jobs_router
from hotswap.training.jobs.files import Files
from hotswap.training.jobs.job import Job
from hotswap.training.jobs.publication import Publication
from hotswap.training.jobs.queue import JobQueue
from hotswap.training.jobs.reports import Order
from hotswap.training.jobs.store import JobStore, admit
from hotswap.training.settings import TrainingHome, TrainingSettings

LOOK_S = 0.05
LINGER_S = 1.0
"""Requests that follow one another are one busy time."""

_MB = 1_000_000
_FORM_BYTES = 64 << 10  # what a multipart form adds to its file

# A file belongs to the token that sent it; a job asks for `push` on the name that it makes.
JOBS_RULES = (
    rule("GET POST", "/v1/files", "push"),
    rule("GET DELETE", "/v1/files/[^/]+(/content)?", "push"),
    rule("GET POST", "/v1/fine_tuning/jobs(/[^/]+(/[a-z]+)?)?", "push"),
)


def jobs_plane(host: PlaneHost, settings: TrainingSettings | None = None) -> Plane | None:
    """None when the operator has switched jobs off, or training is not installed.

    Raises StoreTooNew for jobs that a newer release keeps.
    """
    settings = settings or read_section("training", TrainingSettings)
    if not settings.jobs or importlib.util.find_spec("peft") is None:
        return None
    home = TrainingHome(host.home.root)
    admit(home.jobs)
    files = Files(home.jobs / "files")
    store = JobStore(home.jobs / "jobs")
    publication = Publication(signing(host.registry), home.runs, files)
    orders = _Orders(host, settings, store, publication)
    queue = JobQueue(store, orders, publication, settings.max_running_jobs)
    watch = BusyWatch(host.is_busy, queue.stand_back)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await run_in_threadpool(queue.start)
        watch.start()
        try:
            yield
        finally:
            watch.stop()
            await run_in_threadpool(queue.stop)

    router = APIRouter()
    router.include_router(files_router(files))
    router.include_router(jobs_router(host.base_id, files, store, queue))
    max_bytes = settings.max_file_mb * _MB + _FORM_BYTES
    return Plane(
        "jobs",
        router,
        lifespan,
        queue.health,
        max_body_bytes={"/v1/files": max_bytes},
        rules=JOBS_RULES,
    )


class _Orders:
    """Says what a job's process must know; the same job gets the same order after a restart, or a
    BaseMismatch when the server has another base now."""

    def __init__(
        self,
        host: PlaneHost,
        settings: TrainingSettings,
        store: JobStore,
        publication: Publication,
    ) -> None:
        self._host = host
        self._settings = settings
        self._store = store
        self._publication = publication

    def __call__(self, job: Job, only_check: bool) -> Order:
        host, settings = self._host, self._settings
        if job.model != host.base_id:
            raise BaseMismatch(
                f"job {job.id} trains an adapter of the base {job.model!r}, but this server's base"
                f" is {host.base_id!r}; serve {job.model!r}, or create a job of the base that is"
                " served"
            )
        validation = self._store.rows(job.id, "validation")
        spec = {
            **job.spec,
            "base": str(host.base_path),
            "data": str(self._store.rows(job.id, "train")),
            "validation": None if validation is None else str(validation),
        }
        return Order(
            spec=spec,
            base_path=host.base_path,
            base_id=host.base_id,
            base_revision=host.base_revision,
            run=self._publication.run(job),
            num_threads=settings.job_threads,
            niceness=settings.job_niceness,
            share=settings.job_share,
            only_check=only_check,
        )


class BusyWatch:
    """Calls `notify` at every look, from a thread of its own, with whether requests are answered.

    A process that starts between two looks learns it at the second. `stop` notifies that none are.
    """

    def __init__(self, is_busy: Callable[[], bool], notify: Callable[[bool], None]) -> None:
        self._is_busy = is_busy
        self._notify = notify
        self._is_ending = Event()
        self._thread = Thread(target=self._watch, name="hotswap-busy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_ending.set()
        self._thread.join()
        self._notify(False)

    def _watch(self) -> None:
        until = 0.0
        while not self._is_ending.wait(LOOK_S):
            now = time.monotonic()
            if self._is_busy():
                until = now + LINGER_S
            self._notify(now < until)
