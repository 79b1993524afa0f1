"""The registry's verbs as six small interfaces. A registry in process, one over HTTP and one that
signs implement each, with the same errors; one contract suite an interface runs on all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from hotswap.registry.domain.access import AccessControl
from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterSummary,
    AdapterVersion,
    AliasMove,
    AliasTarget,
    VersionState,
)
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.event import EventPage
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.requests import MoveRequest, PushRequest, StateRequest
from hotswap.registry.domain.servers import ServerInfo, ServerReport
from hotswap.registry.domain.signatures import Signature
from hotswap.registry.domain.uploads import SentPart, UploadOffer
from hotswap.registry.domain.webhooks import WebhookState


class Blobs(Protocol):
    """Bytes by digest. What is read to its end has the digest that was asked for."""

    @property
    def capabilities(self) -> Capabilities:
        """What the store below was measured to do."""
        ...

    def has(self, digest: Digest) -> bool:
        """Whether the bytes are stored, so that a push can leave them out."""
        ...

    def put(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store bytes under their digest; raises DigestMismatch when they are other bytes."""
        ...

    def send(self, files: Sequence[tuple[Descriptor, Path]]) -> None:
        """Store each file's bytes under their digest by the shortest way, unless they are stored.

        They may be sent at the same time; after an error some are stored. Raises as `put`, and
        InvalidBundle when a file cannot be read.
        """
        ...

    def offer(self, descriptor: Descriptor, parts: Sequence[Digest] = ()) -> UploadOffer | None:
        """Signed requests with which the blob can be sent straight to the store; None: `put`.

        A blob that is stored and right needs none, which the offer says, and a sweep that has
        condemned it lets it be. An offer that only has `part_bytes` wants to be asked again with
        the digest of each part.
        """
        ...

    def finish(self, descriptor: Descriptor, parts: Sequence[SentPart]) -> None:
        """Make the parts that were sent the blob; raises DigestMismatch when they are other bytes,
        UploadInterrupted when the upload has ended meanwhile."""
        ...

    def url(self, digest: Digest) -> str | None:
        """Where the bytes can be read, not verified, until the URL expires; None: `open`.

        Raises BlobNotFound.
        """
        ...

    def open(self, digest: Digest) -> Iterator[bytes]:
        """The bytes in chunks, verified: raises BlobNotFound, or BlobCorrupted at the latest
        after the last chunk, so a reader must not use them before the end."""
        ...


class Versions(Protocol):
    """One version at a time. A version's number, name and manifest never change."""

    def commit(self, request: PushRequest) -> AdapterVersion:
        """Make the manifest a version of the name and, if given, move the alias to it.

        The same manifest again gives the same version. Raises BlobNotFound when a file of the
        manifest is not stored, AliasConflict when the alias was moved meanwhile, PolicyViolation
        when the alias is protected and may not move to it: no version is made then. Signatures
        are stored before the version is made; raises SignatureInvalid when one does not fit.
        """
        ...

    def plan(self, request: PushRequest) -> MovePlan:
        """What `commit` would do to the alias, and why not. Writes nothing; needs no blobs.

        Raises InvalidRequest when the request names no alias.
        """
        ...

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        """The version a reference means now; raises AdapterNotFound, VersionNotFound,
        VersionDeleted or AliasNotFound, naming what there is instead."""
        ...

    def manifest(self, digest: Digest) -> Manifest:
        """Raises BlobNotFound, or BlobCorrupted when the stored manifest has another digest."""
        ...

    def manifest_bytes(self, digest: Digest) -> bytes:
        """The manifest's canonical JSON exactly as stored and verified; raises as `manifest`."""
        ...

    def signatures(self, name: str, manifest: Digest) -> list[Signature]:
        """The signatures of the version of `name` with this manifest; none when there is none.

        They fitted when they were stored. A reader that relies on them checks them again."""
        ...

    def change(self, request: StateRequest) -> VersionState:
        """Delete, undelete, yank or unyank a version; what is done already stays as it is.

        Raises VersionNotFound, VersionInUse when an alias points to what is to be deleted,
        VersionDeleted when a sweep has made a deletion final, Conflict when it does not fit.
        """
        ...

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        """Re-hash the files of one version, or everything stored. Damage is in the report;
        raises BlobCorrupted only for a damaged record, without which nothing can be listed."""
        ...


class Adapters(Protocol):
    """What there is, in lists."""

    def all(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
        """Up to `limit` adapters in order of name, starting behind the name `after`; those whose
        versions are all deleted are left out."""
        ...

    def search(
        self, expression: str, *, after: AdapterRef | None = None, limit: int = 100
    ) -> list[AdapterVersion]:
        """Up to `limit` versions for which the expression (`registry.search.language`) holds, in
        order of name and number, starting behind the version `after`.

        Deleted versions are left out unless the expression asks for a state. A version that is
        there when the first page is read comes exactly once, whatever is pushed meanwhile.
        Raises InvalidFilter with the column of what is wrong.
        """
        ...

    def versions(self, name: str) -> list[AdapterVersion]:
        """All versions that are not deleted, in order of number; raises AdapterNotFound."""
        ...

    def states(self, name: str) -> list[VersionState]:
        """The current state of each version that ever had one, in order of number."""
        ...


class Aliases(Protocol):
    """Pointers to versions, each with its whole history. Only these verbs and a push move them."""

    def all(self, name: str) -> list[AliasMove]:
        """The current move of every alias of `name`, in order of alias."""
        ...

    def target(self, name: str, alias: str) -> AliasTarget:
        """Where the alias points now, and the move that says so; raises AliasNotFound."""
        ...

    def history(self, name: str, alias: str) -> list[AliasMove]:
        """Every move of the alias, oldest first; raises AliasNotFound."""
        ...

    def move(self, request: MoveRequest) -> AliasMove:
        """Point the alias to version number `to`.

        Raises AliasConflict when it does not point to what the request expects. A move to where
        the alias already points returns the current move and writes nothing. Raises VersionYanked
        or VersionDeleted when no alias may move there, PolicyViolation when the alias is protected
        and the version it would replace, the new one or the reason do not meet its conditions.
        A signed move is made at the sequence number it was signed for, else AliasConflict; it is
        also made to where the alias points when the current move is not signed by that key.
        """
        ...

    def rollback(self, request: MoveRequest) -> AliasMove:
        """Move the alias to the last different target of its own history that is active, or to its
        earlier target `to`.

        Raises AliasNotFound, NothingToRollBack, or AliasConflict when it was moved meanwhile or
        does not point to what the request expects.
        """
        ...

    def plan_move(self, request: MoveRequest) -> MovePlan:
        """What `move` would do, and why not. Writes nothing."""
        ...

    def plan_rollback(self, request: MoveRequest) -> MovePlan:
        """What `rollback` would do, and why not. Writes nothing; raises NothingToRollBack."""
        ...

    def policy(self) -> ReleasePolicy:
        """The rules of protected aliases."""
        ...


class Events(Protocol):
    """What happened, in one order, and who follows it: servers and webhooks."""

    @property
    def is_followed(self) -> bool:
        """Whether servers follow this registry, and report to it; one that a command opens over
        the store by itself is followed by none."""
        ...

    def read(self, after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        """Up to `limit` events behind the cursor `after`, in order; waits up to `wait_s` seconds
        when there is none, and may return early without any.

        None is the end of the log: no events, only the cursor to go on from. Raises CursorAhead
        when the log ends before `after`.
        """
        ...

    def report(self, server_id: str, report: ServerReport, *, by: str = "") -> ServerInfo:
        """Keep which events a server has applied and what it holds; a server reports every
        HEARTBEAT_S. Raises Forbidden when the id is another token's."""
        ...

    def forget(self, server_id: str, *, by: str = "") -> None:
        """The server stops: no wait counts it any more, and its own wait for events ends."""
        ...

    def servers(self) -> list[ServerInfo]:
        """The servers that have reported just now, in order of id."""
        ...

    def webhooks(self) -> list[WebhookState]:
        """How far each webhook has come, with its last attempts, in order of name."""
        ...


class AdapterRegistry(Protocol):
    """Every version of every adapter, and the aliases that point to them.

    No write returns before it is durable. All methods are synchronous and safe to call from
    several threads. Any of them may raise StoreUnavailable or RegistryUnavailable.
    """

    @property
    def blobs(self) -> Blobs: ...

    @property
    def versions(self) -> Versions: ...

    @property
    def adapters(self) -> Adapters: ...

    @property
    def aliases(self) -> Aliases: ...

    @property
    def events(self) -> Events: ...

    @property
    def access(self) -> AccessControl:
        """Who may do what here, and the log of who did."""
        ...
