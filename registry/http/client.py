"""The registry over HTTP: the same methods and the same errors as in process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from hotswap.registry.bundles.direct import Offer, read_chunks, read_url, send_directly
from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterSummary,
    AdapterVersion,
    AliasMove,
    AliasTarget,
    StateVerb,
    VersionState,
    check_alias,
    check_name,
)
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import BlobCorrupted, RegistryUnavailable, StoreUnavailable
from hotswap.registry.domain.event import EventPage
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.servers import ServerInfo, ServerReport, check_server_id
from hotswap.registry.domain.signatures import MoveSignature, Signature
from hotswap.registry.domain.uploads import SentPart, UploadAnswer, UploadOffer
from hotswap.registry.domain.webhooks import WebhookState
from hotswap.registry.http.remote import RemoteAccess
from hotswap.registry.http.transport import HttpTransport
from hotswap.registry.storage.blobs import as_announced, as_stored
from hotswap.registry.tasks import Threads

CHUNK_BYTES = 1 << 20
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

    @property
    def capabilities(self) -> Capabilities:
        response = self._http.get("/health")
        with self._http.understood(response):
            return Capabilities(**response.json()["registry"]["store"])

    def has_blob(self, digest: Digest) -> bool:
        status = self._http.head(f"/v1/blobs/{digest}")
        if status == 404:
            return False
        if status in (401, 403):
            self._http.get(f"/v1/blobs/{digest}")  # says why
        if status >= 400:
            raise RegistryUnavailable(f"{self._http.url} answered {status} for {digest}")
        return True

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        self._http.put(f"/v1/blobs/{descriptor.digest}", as_announced(descriptor, chunks))

    def send_file(self, descriptor: Descriptor, path: Path) -> None:
        self._send(descriptor, path, self.offer_upload)

    def send_files(self, files: Sequence[tuple[Descriptor, Path]]) -> None:
        """The largest one in this thread, which an interrupt ends. The others are only asked for
        once its offer is there: small requests at the same time hold each other up."""
        rest = sorted(files, key=lambda each: each[0].size_bytes)
        with self._tasks.together() as start:

            def offer(descriptor: Descriptor, parts: Sequence[Digest]) -> UploadOffer | None:
                found = self.offer_upload(descriptor, parts)
                while rest:
                    start(self.send_file, *rest.pop())
                return found

            if rest:
                self._send(*rest.pop(), offer)

    def _send(self, descriptor: Descriptor, path: Path, offer: Offer) -> None:
        if not send_directly(offer, self.finish_upload, descriptor, path):
            self.put_blob(descriptor, read_chunks(path))

    def offer_upload(
        self, descriptor: Descriptor, parts: Sequence[Digest] = ()
    ) -> UploadOffer | None:
        body = {
            "descriptor": descriptor.model_dump(mode="json"),
            "parts": [str(part) for part in parts],
        }
        return self._http.post(UploadAnswer, "/v1/uploads", body).offer

    def finish_upload(self, descriptor: Descriptor, parts: Sequence[SentPart]) -> None:
        body = {
            "descriptor": descriptor.model_dump(mode="json"),
            "parts": [part.model_dump(mode="json") for part in parts],
        }
        self._http.post(Descriptor, "/v1/uploads/finish", body, timeout_s=None)

    def blob_url(self, digest: Digest) -> str | None:
        with self._http.stream(f"/v1/blobs/{digest}", {"redirect": True}) as response:
            return response.headers["location"] if response.is_redirect else None

    def open_blob(self, digest: Digest) -> Iterator[bytes]:
        yield from as_stored(digest, self._read_blob(digest), self._http.url)

    def _read_blob(self, digest: Digest) -> Iterator[bytes]:
        """From the store itself where the registry says so and we get there, else from it."""
        path = f"/v1/blobs/{digest}"
        with self._http.stream(path, {"redirect": True}) as response:
            if not response.is_redirect:
                yield from response.iter_bytes(CHUNK_BYTES)
                return
            chunks = read_url(response.headers["location"])
        try:
            first = next(chunks, b"")
        except StoreUnavailable:
            with self._http.stream(path) as response:
                yield from response.iter_bytes(CHUNK_BYTES)
        else:
            yield first
            yield from chunks

    def commit(
        self,
        name: str,
        manifest: Manifest,
        *,
        by: str,
        alias: str | None = None,
        why: str = "",
        signatures: Sequence[Signature] = (),
        move_signature: MoveSignature | None = None,
    ) -> AdapterVersion:
        body = _commit_body(manifest, by, alias, why)
        if signatures:
            body["signatures"] = [signature.model_dump(mode="json") for signature in signatures]
        if move_signature is not None:
            body["move_signature"] = move_signature.model_dump(mode="json")
        return self._http.post(AdapterVersion, f"{_adapter(name)}/versions", body)

    def manifest(self, digest: Digest) -> Manifest:
        return Manifest.parse(self.manifest_bytes(digest))

    def manifest_bytes(self, digest: Digest) -> bytes:
        data = self._http.get(f"/v1/manifests/{digest}").content
        if (found := Digest.of(data)) != digest:
            raise BlobCorrupted(f"{self._http.url}: expected manifest {digest}, got {found}")
        return data

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        return self._http.read(AdapterVersion, self._http.get("/v1/resolve", {"ref": str(ref)}))

    def target(self, name: str, alias: str) -> AliasTarget:
        return self._http.read(AliasTarget, self._http.get(f"{_alias(name, alias)}/target"))

    def adapters(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
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

    def change_state(
        self, name: str, number: int, verb: StateVerb, *, by: str, why: str = ""
    ) -> VersionState:
        path = f"{_adapter(name)}/versions/{number}/{verb}"
        return self._http.post(VersionState, path, {"by": by, "why": why})

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        params = {} if ref is None else {"ref": str(ref)}
        # Hashing a large store takes as long as it takes.
        response = self._http.get("/v1/verify", params, timeout_s=None)
        return self._http.read(IntegrityReport, response)

    def aliases(self, name: str) -> list[AliasMove]:
        return self._http.get_list(AliasMove, f"{_adapter(name)}/aliases", "aliases")

    def signatures(self, name: str, manifest: Digest) -> list[Signature]:
        path = f"{_adapter(name)}/versions/{manifest}/signatures"
        return self._http.get_list(Signature, path, "signatures")

    def move_alias(
        self,
        name: str,
        alias: str,
        to: int,
        *,
        by: str,
        why: str = "",
        expect: int | None = None,
        signature: MoveSignature | None = None,
    ) -> AliasMove:
        body = {"to": to, "by": by, "why": why, "expect": expect, **_signed(signature)}
        return self._http.post(AliasMove, _alias(name, alias), body)

    def rollback(
        self,
        name: str,
        alias: str,
        *,
        by: str,
        why: str = "",
        expect: int | None = None,
        to: int | None = None,
        signature: MoveSignature | None = None,
    ) -> AliasMove:
        body = {"by": by, "why": why, "expect": expect, "to": to, **_signed(signature)}
        return self._http.post(AliasMove, f"{_alias(name, alias)}/rollback", body)

    def history(self, name: str, alias: str) -> list[AliasMove]:
        return self._http.get_list(AliasMove, f"{_alias(name, alias)}/history", "moves")

    def events(self, after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        params = {"limit": limit, "wait_s": wait_s}
        if after is not None:
            params["after"] = after
        response = self._http.get("/v1/events", params, timeout_s=wait_s + WAIT_MARGIN_S)
        return self._http.read(EventPage, response)

    def report(self, server_id: str, report: ServerReport, *, by: str = "") -> ServerInfo:
        del by  # our token tells
        return self._http.post(ServerInfo, _server(server_id), report.model_dump(mode="json"))

    def forget(self, server_id: str, *, by: str = "") -> None:
        del by
        self._http.delete(_server(server_id))

    def servers(self) -> list[ServerInfo]:
        return self._http.get_list(ServerInfo, "/v1/servers", "servers")

    def webhooks(self) -> list[WebhookState]:
        return self._http.get_list(WebhookState, "/v1/webhooks", "webhooks")

    def policy(self) -> ReleasePolicy:
        return self._http.read(ReleasePolicy, self._http.get("/v1/policy"))

    def plan_commit(
        self, name: str, manifest: Manifest, *, by: str, alias: str, why: str = ""
    ) -> MovePlan:
        body = _commit_body(manifest, by, alias, why) | {"dry_run": True}
        return self._http.post(MovePlan, f"{_adapter(name)}/versions", body)

    def plan_move(
        self,
        name: str,
        alias: str,
        to: int,
        *,
        by: str,
        why: str = "",
        expect: int | None = None,
    ) -> MovePlan:
        body = {"to": to, "by": by, "why": why, "expect": expect, "dry_run": True}
        return self._http.post(MovePlan, _alias(name, alias), body)

    def plan_rollback(
        self,
        name: str,
        alias: str,
        *,
        by: str,
        why: str = "",
        expect: int | None = None,
        to: int | None = None,
    ) -> MovePlan:
        body = {"by": by, "why": why, "expect": expect, "to": to, "dry_run": True}
        return self._http.post(MovePlan, f"{_alias(name, alias)}/rollback", body)


def _commit_body(manifest: Manifest, by: str, alias: str | None, why: str) -> dict[str, Any]:
    manifest.canonical_json()  # raises InvalidManifest here, not after the way over the wire
    return {"manifest": manifest.model_dump(mode="json"), "by": by, "alias": alias, "why": why}


def _signed(signature: MoveSignature | None) -> dict[str, Any]:
    return {} if signature is None else {"signature": signature.model_dump(mode="json")}


def _adapter(name: str) -> str:
    return f"/v1/adapters/{quote(check_name(name))}"


def _alias(name: str, alias: str) -> str:
    return f"{_adapter(name)}/aliases/{quote(check_alias(alias))}"


def _server(server_id: str) -> str:
    return f"/v1/servers/{check_server_id(server_id)}"
