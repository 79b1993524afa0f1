"""The routes of servers that follow this registry: they report, they leave, others look at them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hotswap.registry.domain.access import ADMIN, Principal
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.servers import ServerInfo, ServerReport
from hotswap.registry.http.auth import principal_of


def add_server_routes(router: APIRouter, registry: AdapterRegistry) -> None:
    @router.get("/servers")
    def servers(request: Request) -> dict[str, Any]:
        principal = principal_of(request)
        return {"servers": [_visible(server, principal) for server in registry.events.servers()]}

    @router.post("/servers/{server_id}")
    def report(server_id: str, body: ServerReport, request: Request) -> ServerInfo:
        return registry.events.report(server_id, body, by=principal_of(request).name or "")

    @router.delete("/servers/{server_id}", status_code=204)
    def forget(server_id: str, request: Request) -> Response:
        registry.events.forget(server_id, by=principal_of(request).name or "")
        return Response(status_code=204)


def _visible(server: ServerInfo, principal: Principal) -> ServerInfo:
    """Without what is about names the principal may not pull: a digest is enough to read a blob."""
    if principal.allows(ADMIN):
        return server
    aliases = {
        ref: digest
        for ref, digest in server.aliases.items()
        if principal.allows("pull", AdapterRef.parse(ref).name)
    }
    loaded = tuple(digest for digest in server.loaded if digest in set(aliases.values()))
    return server.model_copy(update={"aliases": aliases, "loaded": loaded})
