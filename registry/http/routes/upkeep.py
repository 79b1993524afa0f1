"""The routes of what keeps a store healthy: states of versions, verification."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from hotswap.registry.domain.adapters import AdapterRef, StateVerb, VersionState
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import StateRequest
from hotswap.registry.domain.values import ValueObject
from hotswap.registry.http.auth import principal_of


class StateBody(ValueObject):
    by: str
    why: str = ""


def add_upkeep_routes(router: APIRouter, registry: AdapterRegistry) -> None:
    @router.get("/adapters/{name:path}/states")
    def list_states(name: str) -> dict[str, Any]:
        return {"states": registry.adapters.states(name)}

    @router.post("/adapters/{name:path}/versions/{number}/{verb}")
    def change_state(
        name: str, number: int, verb: StateVerb, body: StateBody, request: Request
    ) -> VersionState:
        by = principal_of(request).actor(body.by)
        return registry.versions.change(StateRequest(name, number, verb, by=by, why=body.why))

    @router.get("/verify")
    def verify(ref: str | None = None) -> IntegrityReport:
        return registry.versions.verify(None if ref is None else AdapterRef.parse(ref))
