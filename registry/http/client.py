"""The registry over HTTP: the same interfaces and the same errors as in process."""

from __future__ import annotations

from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterSummary,
    AdapterVersion,
    AliasMove,
    AliasTarget,
    VersionState,
    check_alias,
    check_name,
)
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobCorrupted
from hotswap.registry.domain.event import EventPage
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.requests import MoveRequest, PushRequest, StateRequest
from hotswap.registry.domain.servers import ServerInfo, ServerReport, check_server_id
from hotswap.registry.domain.signatures import MoveSignature, Signature
from hotswap.registry.domain.webhooks import WebhookState
from hotswap.registry.http.blobs import RemoteBlobs
from hotswap.registry.http.remote import RemoteAccess
from hotswap.registry.http.transport import HttpTransport
from hotswap.registry.tasks import Threads

# A registry that is this late with the answer to a wait is gone, though the connection is open.
WAIT_MARGIN_S = 15
NUM_SENT_BESIDE = 3  # files that go to the registry while the largest one does


class RegistryClient:
    """Implements AdapterRegistry. Safe to call from several threads. Close it after use."""

    def __init__(
        self,
        url: str,
        transport: httpx.BaseTransport | None = None,
        *,
        token: str | None = None,
    ) -> None:
        self._http = HttpTransport(url, transport, token=token)
        self._tasks = Threads(NUM_SENT_BESIDE)
        self.blobs = RemoteBlobs(self._http, self._tasks)
        self.versions = RemoteVersions(self._http)
        self.adapters = RemoteAdapters(self._http)
        self.aliases = RemoteAliases(self._http)
        self.events = RemoteEvents(self._http)
        self.access = RemoteAccess(self._http)

    def close(self) -> None:
        self._tasks.close()
        self._http.close()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RemoteVersions:
    """Implements Versions."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    def commit(self, request: PushRequest) -> AdapterVersion:
        path = f"{_adapter(request.name)}/versions"
        return self._http.post(AdapterVersion, path, _push_body(request))

    def plan(self, request: PushRequest) -> MovePlan:
        body = _push_body(request) | {"dry_run": True}
        return self._http.post(MovePlan, f"{_adapter(request.name)}/versions", body)

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        return self._http.read(AdapterVersion, self._http.get("/v1/resolve", {"ref": str(ref)}))

    def manifest(self, digest: Digest) -> Manifest:
        return Manifest.parse(self.manifest_bytes(digest))

    def manifest_bytes(self, digest: Digest) -> bytes:
        data = self._http.get(f"/v1/manifests/{digest}").content
        if (got := Digest.of(data)) != digest:
            raise BlobCorrupted(f"{self._http.url}: expected manifest {digest}, got {got}")
        return data

    def signatures(self, name: str, manifest: Digest) -> list[Signature]:
        path = f"{_adapter(name)}/versions/{manifest}/signatures"
        return self._http.get_list(Signature, path, "signatures")

    def change(self, request: StateRequest) -> VersionState:
        path = f"{_adapter(request.name)}/versions/{request.number}/{request.verb}"
        return self._http.post(VersionState, path, {"by": request.by, "why": request.why})

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        params = {} if ref is None else {"ref": str(ref)}
        # Hashing a large store takes as long as it takes.
        response = self._http.get("/v1/verify", params, timeout_s=None)
        return self._http.read(IntegrityReport, response)


class RemoteAdapters:
    """Implements Adapters."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    def all(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
        params = {"after": after, "limit": limit}
        return self._http.get_list(AdapterSummary, "/v1/adapters", "adapters", params)

    def search(
        self, expression: str, *, after: AdapterRef | None = None, limit: int = 100
    ) -> list[AdapterVersion]:
        params = {"filter": expression, "limit": limit}
        if after is not None:
            params["after"] = str(after)
        return self._http.get_list(AdapterVersion, "/v1/versions", "versions", params)

    def versions(self, name: str) -> list[AdapterVersion]:
        return self._http.get_list(AdapterVersion, f"{_adapter(name)}/versions", "versions")

    def states(self, name: str) -> list[VersionState]:
        return self._http.get_list(VersionState, f"{_adapter(name)}/states", "states")


class RemoteAliases:
    """Implements Aliases."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    def all(self, name: str) -> list[AliasMove]:
        return self._http.get_list(AliasMove, f"{_adapter(name)}/aliases", "aliases")

    def target(self, name: str, alias: str) -> AliasTarget:
        return self._http.read(AliasTarget, self._http.get(f"{_alias(name, alias)}/target"))

    def history(self, name: str, alias: str) -> list[AliasMove]:
        return self._http.get_list(AliasMove, f"{_alias(name, alias)}/history", "moves")

    def move(self, request: MoveRequest) -> AliasMove:
        return self._http.post(AliasMove, _alias_of(request), _move_body(request))

    def rollback(self, request: MoveRequest) -> AliasMove:
        return self._http.post(AliasMove, f"{_alias_of(request)}/rollback", _move_body(request))

    def plan_move(self, request: MoveRequest) -> MovePlan:
        body = _move_body(request) | {"dry_run": True}
        return self._http.post(MovePlan, _alias_of(request), body)

    def plan_rollback(self, request: MoveRequest) -> MovePlan:
        body = _move_body(request) | {"dry_run": True}
        return self._http.post(MovePlan, f"{_alias_of(request)}/rollback", body)

    def policy(self) -> ReleasePolicy:
        return self._http.read(ReleasePolicy, self._http.get("/v1/policy"))


class RemoteEvents:
    """Implements Events."""

    is_followed = True

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    def read(self, after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        params = {"limit": limit, "wait_s": wait_s}
        if after is not None:
            params["after"] = after
        response = self._http.get("/v1/events", params, timeout_s=wait_s + WAIT_MARGIN_S)
        return self._http.read(EventPage, response)

    def report(self, server_id: str, report: ServerReport, *, by: str = "") -> ServerInfo:
        del by  # our token says who
        return self._http.post(ServerInfo, _server(server_id), report.model_dump(mode="json"))

    def forget(self, server_id: str, *, by: str = "") -> None:
        del by
        self._http.delete(_server(server_id))

    def servers(self) -> list[ServerInfo]:
        return self._http.get_list(ServerInfo, "/v1/servers", "servers")

    def webhooks(self) -> list[WebhookState]:
        return self._http.get_list(WebhookState, "/v1/webhooks", "webhooks")


def _push_body(request: PushRequest) -> dict[str, Any]:
    manifest = request.manifest
    manifest.canonical_json()  # raises InvalidManifest here, not after the way over the wire
    body: dict[str, Any] = {
        "manifest": manifest.model_dump(mode="json"),
        "by": request.by,
        "alias": request.alias,
        "why": request.why,
    }
    if request.signatures:
        body["signatures"] = [each.model_dump(mode="json") for each in request.signatures]
    return body | _signed("move_signature", request.move_signature)


def _move_body(request: MoveRequest) -> dict[str, Any]:
    body = {"to": request.to, "by": request.by, "why": request.why, "expect": request.expect}
    return body | _signed("signature", request.signature)


def _signed(field: str, signature: MoveSignature | None) -> dict[str, Any]:
    return {} if signature is None else {field: signature.model_dump(mode="json")}


def _adapter(name: str) -> str:
    return f"/v1/adapters/{quote(check_name(name))}"


def _alias(name: str, alias: str) -> str:
    return f"{_adapter(name)}/aliases/{quote(check_alias(alias))}"


def _alias_of(request: MoveRequest) -> str:
    return _alias(request.name, request.alias)


def _server(server_id: str) -> str:
    return f"/v1/servers/{check_server_id(server_id)}"
