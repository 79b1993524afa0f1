"""OpenAI's fine-tuning jobs over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from hotswap.registry.http.auth import principal_of
from hotswap.training.jobs.files import Files
from hotswap.training.jobs.job import Job, Status
from hotswap.training.jobs.pages import page
from hotswap.training.jobs.queue import JobQueue
from hotswap.training.jobs.requests import JobRequest
from hotswap.training.jobs.store import JobStore

_Limit = Annotated[int, Query(ge=1, le=1000)]
_VERBS = {"pause": Status.PAUSED, "resume": Status.QUEUED, "cancel": Status.CANCELLED}


def jobs_router(base_id: str, files: Files, store: JobStore, queue: JobQueue) -> APIRouter:
    router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

    @router.post("")
    def create(body: JobRequest, request: Request) -> dict[str, Any]:
        principal = principal_of(request)
        principal.require("push", body.name(base_id))
        job = body.job(base_id, principal)
        train = files.get(body.training_file, principal)
        validation = None
        if body.validation_file is not None:
            validation = files.get(body.validation_file, principal)
        return queue.create(job, files, train, validation).wire()

    @router.get("")
    def list_jobs(request: Request, after: str | None = None, limit: _Limit = 20) -> dict[str, Any]:
        principal, wanted = principal_of(request), _metadata(request)
        found = [
            job.wire()
            for job in reversed(store.all())
            if principal.allows("push", job.name) and _has(job, wanted)
        ]
        return page(found, after, limit)

    @router.get("/{job_id}")
    def retrieve(job_id: str, request: Request) -> dict[str, Any]:
        return store.visible(job_id, principal_of(request)).wire()

    for verb, status in _VERBS.items():
        _add_verb(router, store, queue, verb, status)

    @router.get("/{job_id}/events")
    def events(
        job_id: str, request: Request, after: str | None = None, limit: _Limit = 20
    ) -> dict[str, Any]:
        job = store.visible(job_id, principal_of(request))
        return page(store.events(job.id).newest_first(), after, limit)

    @router.get("/{job_id}/checkpoints")
    def checkpoints(
        job_id: str, request: Request, after: str | None = None, limit: _Limit = 10
    ) -> dict[str, Any]:
        return page(store.visible(job_id, principal_of(request)).checkpoints, after, limit)

    return router


def _add_verb(
    router: APIRouter, store: JobStore, queue: JobQueue, verb: str, status: Status
) -> None:
    @router.post(f"/{{job_id}}/{verb}", name=verb)
    def act(job_id: str, request: Request) -> dict[str, Any]:
        job = store.visible(job_id, principal_of(request))
        return queue.ask(job.id, status).wire()


def _metadata(request: Request) -> dict[str, str] | None:
    """The query's `metadata[key]=value` pairs; None for `metadata=null`: jobs without any."""
    query = request.query_params
    if query.get("metadata") == "null":
        return None
    return {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }


def _has(job: Job, wanted: dict[str, str] | None) -> bool:
    if wanted is None:
        return not job.metadata
    return wanted.items() <= (job.metadata or {}).items()
