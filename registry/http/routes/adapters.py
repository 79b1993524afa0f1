"""The registry's HTTP API: AdapterRegistry as routes. It decides nothing; errors pass through to
the one handler in `registry.http.app`."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from hotswap.registry.bundles.card import make_card
from hotswap.registry.domain.access import Principal, Verb
from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterSummary,
    AdapterVersion,
    AliasMove,
    AliasTarget,
)
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import BlobNotFound, RequestTooLarge
from hotswap.registry.domain.manifest import MAX_FILE_BYTES, Manifest
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, PushRequest
from hotswap.registry.domain.signatures import MoveSignature, Signature
from hotswap.registry.domain.values import ValueObject
from hotswap.registry.http.auth import principal_of
from hotswap.registry.http.routes.access import add_access_routes
from hotswap.registry.http.routes.events import add_event_routes
from hotswap.registry.http.routes.servers import add_server_routes
from hotswap.registry.http.routes.upkeep import add_upkeep_routes
from hotswap.registry.http.routes.uploads import add_upload_routes

SPOOL_BYTES = 8 << 20
CHUNK_BYTES = 1 << 20
BINARY = "application/octet-stream"
NamedT = TypeVar("NamedT", AdapterSummary, AdapterVersion)


class _Body(ValueObject):
    """With `dry_run` the answer is a MovePlan and nothing is written."""

    by: str
    why: str = ""
    dry_run: bool = False


class CommitBody(_Body):
    manifest: Manifest
    alias: str | None = None
    signatures: tuple[Signature, ...] = ()
    move_signature: MoveSignature | None = None

    def request(self, name: str, by: str) -> PushRequest:
        return PushRequest(
            name,
            self.manifest,
            by=by,
            alias=self.alias,
            why=self.why,
            signatures=self.signatures,
            move_signature=self.move_signature,
        )


class MoveBody(_Body):
    to: int | None = None
    expect: int | None = None
    signature: MoveSignature | None = None

    def request(self, name: str, alias: str, by: str) -> MoveRequest:
        return MoveRequest(
            name, alias, self.to, by=by, why=self.why, expect=self.expect, signature=self.signature
        )


def registry_router(registry: AdapterRegistry, leaving: threading.Event) -> APIRouter:
    """Every route of the registry plane; once `leaving` is set, none waits any more."""
    router = APIRouter(prefix="/v1", tags=["registry"])
    _add_blob_routes(router, registry)
    _add_adapter_routes(router, registry)
    _add_alias_routes(router, registry)
    add_upload_routes(router, registry)
    add_upkeep_routes(router, registry)
    add_access_routes(router, registry.access)
    add_event_routes(router, registry, leaving)
    add_server_routes(router, registry)
    return router


def _add_blob_routes(router: APIRouter, registry: AdapterRegistry) -> None:
    @router.head("/blobs/{digest}")
    def has_blob(digest: str) -> Response:
        if not registry.blobs.has(Digest.parse(digest)):
            raise BlobNotFound(f"there is no blob {digest}")
        return Response(media_type=BINARY)

    @router.get("/blobs/{digest}")
    def get_blob(digest: str, redirect: bool = False) -> Response:
        """With `redirect` the answer may be 307 to the store itself, for a while."""
        if redirect and (url := registry.blobs.url(Digest.parse(digest))) is not None:
            return RedirectResponse(url)
        chunks = registry.blobs.open(Digest.parse(digest))
        # What fails before the first chunk can still be answered with an error body.
        first = next(chunks, b"")
        return StreamingResponse(chain([first], chunks), media_type=BINARY)

    @router.put("/blobs/{digest}", status_code=201)
    async def put_blob(digest: str, request: Request) -> Response:
        wanted = Digest.parse(digest)
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            try:
                size_bytes = await _receive(request, spool)
            except ClientDisconnect:
                return Response(status_code=400)  # the client is gone
            descriptor = Descriptor(
                digest=wanted, size_bytes=size_bytes, media_type=BINARY, file_name="blob"
            )
            await run_in_threadpool(registry.blobs.put, descriptor, _read(spool))
        return Response(status_code=201)

    @router.get("/manifests/{digest}")
    def get_manifest(digest: str) -> Response:
        data = registry.versions.manifest_bytes(Digest.parse(digest))
        return Response(data, media_type="application/json")


def _add_adapter_routes(router: APIRouter, registry: AdapterRegistry) -> None:
    @router.get("/resolve")
    def resolve(ref: str) -> AdapterVersion:
        return registry.versions.resolve(AdapterRef.parse(ref))

    @router.get("/card")
    def card(ref: str) -> Response:
        return Response(make_card(registry, AdapterRef.parse(ref)), media_type="text/markdown")

    @router.get("/adapters")
    def list_adapters(
        request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:
        def page(last: AdapterSummary | None) -> list[AdapterSummary]:
            return registry.adapters.all(after=after if last is None else last.name, limit=limit)

        return {"adapters": _visible(page, principal_of(request), limit)}

    @router.get("/versions")
    def search(
        request: Request,
        filter: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        start = None if after is None else AdapterRef.parse(after)

        def page(last: AdapterVersion | None) -> list[AdapterVersion]:
            return registry.adapters.search(
                filter, after=start if last is None else last.ref, limit=limit
            )

        return {"versions": _visible(page, principal_of(request), limit)}

    @router.get("/adapters/{name:path}/versions")
    def list_versions(name: str) -> dict[str, Any]:
        return {"versions": registry.adapters.versions(name)}

    @router.post("/adapters/{name:path}/versions", status_code=201)
    def commit(name: str, body: CommitBody, request: Request) -> AdapterVersion | MovePlan:
        by = principal_of(request).actor(body.by)
        if body.alias is not None:
            by = _mover(registry, request, name, body.alias, body.by)
        asked = body.request(name, by)
        return registry.versions.plan(asked) if body.dry_run else registry.versions.commit(asked)

    @router.get("/adapters/{name:path}/versions/{digest}/signatures")
    def list_signatures(name: str, digest: str) -> dict[str, Any]:
        return {"signatures": registry.versions.signatures(name, Digest.parse(digest))}


def _visible(
    page_behind: Callable[[NamedT | None], list[NamedT]], principal: Principal, limit: int
) -> list[NamedT]:
    """A page of what the principal may read: full as long as there is more."""
    visible: list[NamedT] = []
    last: NamedT | None = None
    while page := page_behind(last):
        visible += [item for item in page if principal.allows("pull", item.name)]
        if len(visible) >= limit or len(page) < limit:
            break
        last = page[-1]
    return visible[:limit]


def _add_alias_routes(router: APIRouter, registry: AdapterRegistry) -> None:
    @router.get("/adapters/{name:path}/aliases")
    def list_aliases(name: str) -> dict[str, Any]:
        return {"aliases": registry.aliases.all(name)}

    @router.get("/adapters/{name:path}/aliases/{alias}/target")
    def target(name: str, alias: str) -> AliasTarget:
        return registry.aliases.target(name, alias)

    @router.get("/adapters/{name:path}/aliases/{alias}/history")
    def history(name: str, alias: str) -> dict[str, Any]:
        return {"moves": registry.aliases.history(name, alias)}

    @router.post("/adapters/{name:path}/aliases/{alias}")
    def move_alias(name: str, alias: str, body: MoveBody, request: Request) -> AliasMove | MovePlan:
        asked = body.request(name, alias, _mover(registry, request, name, alias, body.by))
        return registry.aliases.plan_move(asked) if body.dry_run else registry.aliases.move(asked)

    @router.post("/adapters/{name:path}/aliases/{alias}/rollback")
    def rollback(name: str, alias: str, body: MoveBody, request: Request) -> AliasMove | MovePlan:
        asked = body.request(name, alias, _mover(registry, request, name, alias, body.by))
        aliases = registry.aliases
        return aliases.plan_rollback(asked) if body.dry_run else aliases.rollback(asked)

    @router.get("/policy")
    def policy() -> ReleasePolicy:
        return registry.aliases.policy()


def _mover(registry: AdapterRegistry, request: Request, name: str, alias: str, said: str) -> str:
    """Who moves the alias; raises Forbidden when the token may not.

    A protected alias needs `release`: `move` alone is what the policy takes away.
    """
    principal = principal_of(request)
    verb: Verb = "release" if registry.aliases.policy().protects(name, alias) else "move"
    principal.require(verb, f"{name}@{alias}")
    return principal.actor(said)


async def _receive(request: Request, spool: IO[bytes]) -> int:
    """Write the request body to `spool` and rewind it; the number of bytes."""
    size_bytes = 0
    pending = bytearray()
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > MAX_FILE_BYTES:
            raise RequestTooLarge(f"a blob may have at most {MAX_FILE_BYTES} bytes")
        pending += chunk
        if len(pending) >= CHUNK_BYTES:
            await run_in_threadpool(spool.write, bytes(pending))
            pending.clear()
    await run_in_threadpool(spool.write, bytes(pending))
    spool.seek(0)
    return size_bytes


def _read(spool: IO[bytes]) -> Iterator[bytes]:
    while chunk := spool.read(CHUNK_BYTES):
        yield chunk
