"""Routes for tokens and the audit log. All but `/v1/whoami` need `admin`, which no rule softens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from hotswap.registry.domain.access import AccessControl, NewToken, Principal, TokenInfo
from hotswap.registry.domain.values import ValueObject
from hotswap.registry.http.auth import principal_of


class _Body(ValueObject):
    by: str


class TokenBody(_Body):
    name: str
    scopes: list[str]
    expires_at: datetime | None = None


def add_access_routes(router: APIRouter, access: AccessControl) -> None:
    @router.get("/whoami")
    def whoami(request: Request) -> Principal:
        return principal_of(request)

    @router.post("/tokens", status_code=201)
    def create_token(body: TokenBody, request: Request) -> NewToken:
        by = principal_of(request).actor(body.by)
        return access.create(body.name, body.scopes, by=by, expires_at=body.expires_at)

    @router.get("/tokens")
    def list_tokens() -> dict[str, Any]:
        return {"tokens": access.all()}

    @router.post("/tokens/{name}/revoke")
    def revoke_token(name: str, body: _Body, request: Request) -> TokenInfo:
        return access.revoke(name, by=principal_of(request).actor(body.by))

    @router.get("/audit")
    def audit(since: datetime | None = None) -> StreamingResponse:
        """One JSON entry a line, in order of time."""
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)

        def lines() -> Iterator[str]:
            for entry in access.entries(since):
                yield entry.model_dump_json() + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")
