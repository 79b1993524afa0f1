"""OpenAI's files over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.http.auth import principal_of
from hotswap.training.jobs.files import Files
from hotswap.training.jobs.pages import page

_MAX_FIELDS = 8


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
        found = files.all(
            lambda file: file.is_visible_to(principal) and purpose in (None, file.purpose)
        )
        newest_first = [file.wire() for file in found]
        return page(newest_first if order == "desc" else newest_first[::-1], after, limit)

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
