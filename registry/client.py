"""The registry over HTTP: the same methods and the same errors as in process."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from registry.access.audit import AuditEntry
from registry.access.remote import RemoteAccess
from registry.access.scopes import NewToken, Principal, TokenInfo
from registry.adapters import (
    AdapterRef,
    AdapterSummary,
    AdapterVersion,
    AliasMove,
    StateVerb,
    VersionState,
    check_alias,
    check_name,
)
from registry.blobs import as_announced, as_stored
from registry.digests import Descriptor, Digest
from registry.errors import BlobCorrupted, HotswapError, RegistryUnavailable
from registry.manifest import Manifest
from registry.upkeep.integrity import IntegrityReport

CONNECT_TIMEOUT_S = 5
TIMEOUT_S = 60
# Below the 5 s after which servers close idle connections: a request must not meet the close.
KEEPALIVE_EXPIRY_S = 2
CHUNK_BYTES = 1 << 20

ModelT = TypeVar("ModelT", bound=BaseModel)


class RegistryClient:
    """Implements AdapterRegistry. Safe to call from several threads. Close it after use."""

    def __init__(
        self,
        url: str,
        transport: httpx.BaseTransport | None = None,
        *,
        token: str | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self.access = RemoteAccess(self)
        with self._explained():
            self._http = httpx.Client(
                base_url=self._url,
                timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                limits=httpx.Limits(max_connections=100, keepalive_expiry=KEEPALIVE_EXPIRY_S),
                transport=transport,
                auth=None if token is None else _Bearer(token),
            )

    def close(self) -> None:
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

    def has_blob(self, digest: Digest) -> bool:
        with self._explained():
            response = self._http.head(f"/v1/blobs/{digest}")
        if response.status_code == 404:
            return False
        if response.status_code in (401, 403):
            self._get(f"/v1/blobs/{digest}")  # says why
        if response.is_error:  # the answer to HEAD has no body to tell the cause
            raise RegistryUnavailable(f"{self._url} answered {response.status_code} for {digest}")
        return True

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        with self._explained():
            response = self._http.put(
                f"/v1/blobs/{descriptor.digest}", content=as_announced(descriptor, chunks)
            )
        self._check(response)

    def open_blob(self, digest: Digest) -> Iterator[bytes]:
        with self._explained(), self._http.stream("GET", f"/v1/blobs/{digest}") as response:
            if response.is_error:
                response.read()
                self._check(response)
            yield from as_stored(digest, response.iter_bytes(CHUNK_BYTES), self._url)

    def commit(
        self, name: str, manifest: Manifest, *, by: str, alias: str | None = None, why: str = ""
    ) -> AdapterVersion:
        manifest.canonical_json()  # raises InvalidManifest here, not after the way over the wire
        body = {
            "manifest": manifest.model_dump(mode="json"),
            "by": by,
            "alias": alias,
            "why": why,
        }
        return self._post(AdapterVersion, f"{_adapter(name)}/versions", body)

    def manifest(self, digest: Digest) -> Manifest:
        return Manifest.parse(self.manifest_bytes(digest))

    def manifest_bytes(self, digest: Digest) -> bytes:
        data = self._get(f"/v1/manifests/{digest}").content
        if (found := Digest.of(data)) != digest:
            raise BlobCorrupted(f"{self._url}: expected manifest {digest}, got {found}")
        return data

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        return self._read(AdapterVersion, self._get("/v1/resolve", ref=str(ref)))

    def adapters(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
        response = self._get("/v1/adapters", after=after, limit=limit)
        return self._read_list(AdapterSummary, response, "adapters")

    def versions(self, name: str) -> list[AdapterVersion]:
        return self._read_list(AdapterVersion, self._get(f"{_adapter(name)}/versions"), "versions")

    def states(self, name: str) -> list[VersionState]:
        return self._read_list(VersionState, self._get(f"{_adapter(name)}/states"), "states")

    def change_state(
        self, name: str, number: int, verb: StateVerb, *, by: str, why: str = ""
    ) -> VersionState:
        path = f"{_adapter(name)}/versions/{number}/{verb}"
        return self._post(VersionState, path, {"by": by, "why": why})

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        with self._explained():  # hashing a large store takes as long as it takes
            response = self._http.get(
                "/v1/verify",
                params={} if ref is None else {"ref": str(ref)},
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            )
        return self._read(IntegrityReport, self._check(response))

    def aliases(self, name: str) -> list[AliasMove]:
        return self._read_list(AliasMove, self._get(f"{_adapter(name)}/aliases"), "aliases")

    def move_alias(
        self,
        name: str,
        alias: str,
        to: int,
        *,
        by: str,
        why: str = "",
        expect: int | None = None,
    ) -> AliasMove:
        body = {"to": to, "by": by, "why": why, "expect": expect}
        return self._post(AliasMove, _alias(name, alias), body)

    def rollback(
        self,
        name: str,
        alias: str,
        *,
        by: str,
        why: str = "",
        expect: int | None = None,
        to: int | None = None,
    ) -> AliasMove:
        body = {"by": by, "why": why, "expect": expect, "to": to}
        return self._post(AliasMove, f"{_alias(name, alias)}/rollback", body)

    def history(self, name: str, alias: str) -> list[AliasMove]:
        return self._read_list(AliasMove, self._get(f"{_alias(name, alias)}/history"), "moves")

    def whoami(self, token: str | None) -> Principal:
        """Whose token this is, not our own one; raises Unauthenticated."""
        auth = None if token is None else _Bearer(token)
        with self._explained():
            response = self._http.get("/v1/whoami", auth=auth)
        return self._read(Principal, self._check(response))

    def create_token(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken:
        expires = None if expires_at is None else expires_at.isoformat()
        body = {"name": name, "scopes": list(scopes), "by": by, "expires_at": expires}
        return self._post(NewToken, "/v1/tokens", body)

    def tokens(self) -> list[TokenInfo]:
        return self._read_list(TokenInfo, self._get("/v1/tokens"), "tokens")

    def revoke_token(self, name: str, *, by: str) -> TokenInfo:
        return self._post(TokenInfo, f"/v1/tokens/{quote(name, safe='')}/revoke", {"by": by})

    def audit(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        params = {} if since is None else {"since": since.isoformat()}
        with self._explained(), self._http.stream("GET", "/v1/audit", params=params) as response:
            if response.is_error:
                response.read()
                self._check(response)
            for line in response.iter_lines():
                with self._understood(response):
                    entry = AuditEntry.model_validate_json(line)
                yield entry

    def _get(self, path: str, **params: str | int) -> httpx.Response:
        with self._explained():
            response = self._http.get(path, params=params)
        return self._check(response)

    def _post(self, kind: type[ModelT], path: str, body: dict[str, Any]) -> ModelT:
        with self._explained():
            response = self._http.post(path, json=body)
        return self._read(kind, self._check(response))

    def _check(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            body = response.json()
        except ValueError:
            body = response.text
        raise HotswapError.from_body(response.status_code, body)

    def _read(self, kind: type[ModelT], response: httpx.Response) -> ModelT:
        with self._understood(response):
            return kind.model_validate_json(response.content)

    def _read_list(self, kind: type[ModelT], response: httpx.Response, field: str) -> list[ModelT]:
        with self._understood(response):
            return [kind.model_validate(item) for item in response.json()[field]]

    @contextmanager
    def _understood(self, response: httpx.Response) -> Iterator[None]:
        try:
            yield
        except (ValidationError, ValueError, KeyError, TypeError):
            raise RegistryUnavailable(
                f"{self._url} answered {response.url.path} with something else than a registry "
                "does; is it the URL of a hotswap registry?"
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.RemoteProtocolError as error:
            raise RegistryUnavailable(
                f"the registry at {self._url} broke off its answer ({error}); its log has the cause"
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise RegistryUnavailable(
                f"cannot reach the registry at {self._url}: {error}; start it with `hotswap up`, "
                "or name another with --registry or HOTSWAP_REGISTRY_URL"
            ) from error


class _Bearer(httpx.Auth):
    """Sends the token with every request of its client."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request


def _adapter(name: str) -> str:
    return f"/v1/adapters/{quote(check_name(name))}"


def _alias(name: str, alias: str) -> str:
    return f"{_adapter(name)}/aliases/{quote(check_alias(alias))}"
