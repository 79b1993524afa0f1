"""OpenAI's files and fine-tuning jobs over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.http.auth import principal_of
from hotswap.training.jobs.files import Files
from hotswap.training.jobs.job import Job, Status
from hotswap.training.jobs.queue import JobQueue
from hotswap.training.jobs.requests import JobRequest
from hotswap.training.jobs.store import JobStore

_Limit = Annotated[int, Query(ge=1, le=1000)]
_MAX_FIELDS = 8  # of the form that uploads a file
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
        jobs = [
            job.wire()
            for job in reversed(store.all())
            if principal.allows("push", job.name) and _has(job, wanted)
        ]
        return _page(jobs, after, limit)

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
        return _page(store.events(job.id).newest_first(), after, limit)

    @router.get("/{job_id}/checkpoints")
    def checkpoints(
        job_id: str, request: Request, after: str | None = None, limit: _Limit = 10
    ) -> dict[str, Any]:
        return _page(store.visible(job_id, principal_of(request)).checkpoints, after, limit)

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


def files_router(files: Files) -> APIRouter:
    router = APIRouter(prefix="/v1/files", tags=["files"])

    @router.post("")
    async def upload(request: Request) -> dict[str, Any]:
        """The body goes to disk while it arrives; its size is bounded before it gets here."""
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            source = form.get("file")
            if not isinstance(source, UploadFile):
                raise InvalidRequest("file: expected a file of a multipart form", param="file")
            if form.get("purpose") != "fine-tune":
                raise InvalidRequest(
                    f"purpose: expected 'fine-tune', found {str(form.get('purpose'))[:80]!r}",
                    param="purpose",
                )
            owner = principal_of(request).name
            name = source.filename or "file"
            stored = await run_in_threadpool(files.create, source.file, name, "fine-tune", owner)
        return stored.wire()

    @router.get("")
    def list_files(
        request: Request,
        purpose: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    ) -> dict[str, Any]:
        principal = principal_of(request)
        visible = files.all(
            lambda file: file.is_visible_to(principal) and purpose in (None, file.purpose)
        )
        newest_first = [file.wire() for file in visible]
        return _page(newest_first if order == "desc" else newest_first[::-1], after, limit)

    @router.get("/{file_id}")
    def retrieve(file_id: str, request: Request) -> dict[str, Any]:
        return files.get(file_id, principal_of(request)).wire()

    @router.get("/{file_id}/content")
    def content(file_id: str, request: Request) -> FileResponse:
        file = files.get(file_id, principal_of(request))
        return FileResponse(files.content(file), media_type="application/octet-stream")

    @router.delete("/{file_id}")
    def delete(file_id: str, request: Request) -> dict[str, Any]:
        files.delete(files.get(file_id, principal_of(request)))
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def _page(objects: Sequence[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """A list as OpenAI pages it: the `limit` objects behind the one whose id is `after`.

    Raises InvalidRequest when no object has that id.
    """
    start = 0 if after is None else _index(objects, after) + 1
    shown = objects[start : start + limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(objects),
    }


def _index(objects: Sequence[dict[str, Any]], after: str) -> int:
    for index, each in enumerate(objects):
        if each["id"] == after:
            return index
    raise InvalidRequest(
        f"after: there is no {after[:80]!r} in this list; give an id that the list has shown",
        param="after",
    )
