"""The registry's verbs as an interface. `Registry` (in process) and `RegistryClient` (HTTP) both
implement it with the same errors; one contract suite runs on both."""

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
    StateVerb,
    VersionState,
)
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.event import EventPage
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.servers import ServerInfo, ServerReport
from hotswap.registry.domain.signatures import MoveSignature, Signature
from hotswap.registry.domain.uploads import SentPart, UploadOffer
from hotswap.registry.domain.webhooks import WebhookState


class AdapterRegistry(Protocol):
    """Every version of every adapter, and the aliases that point to them.

    No write returns before it is durable. All methods are synchronous and safe to call from
    several threads. Any of them may raise StoreUnavailable or RegistryUnavailable.
    """

    @property
    def access(self) -> AccessControl:
        """Who may do what here, and the log of who did."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What the store below was measured to do."""
        ...

    def has_blob(self, digest: Digest) -> bool:
        """Whether the bytes are stored, so that a push can leave them out."""
        ...

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store bytes under their digest; raises DigestMismatch when they are other bytes."""
        ...

    def send_file(self, descriptor: Descriptor, path: Path) -> None:
        """Store a file's bytes under their digest by the shortest way, unless they are stored;
        raises as `put_blob`, and InvalidBundle when the file cannot be read."""
        ...

    def send_files(self, files: Sequence[tuple[Descriptor, Path]]) -> None:
        """`send_file` for each, perhaps at the same time; after an error some are stored."""
        ...

    def offer_upload(
        self, descriptor: Descriptor, parts: Sequence[Digest] = ()
    ) -> UploadOffer | None:
        """Signed requests with which the blob can be sent straight to the store; None: `put_blob`.

        A blob that is stored and right needs none, which the offer says, and a sweep that has
        condemned it lets it be. An offer that only has `part_bytes` wants to be asked again with
        the digest of each part.
        """
        ...

    def finish_upload(self, descriptor: Descriptor, parts: Sequence[SentPart]) -> None:
        """Make the parts that were sent the blob; raises DigestMismatch when they are other bytes,
        UploadInterrupted when the upload has ended meanwhile."""
        ...

    def blob_url(self, digest: Digest) -> str | None:
        """Where the bytes can be read, not verified, until the URL expires; None: `open_blob`.

        Raises BlobNotFound.
        """
        ...

    def open_blob(self, digest: Digest) -> Iterator[bytes]:
        """The bytes in chunks, verified: raises BlobNotFound, or BlobCorrupted at the latest
        after the last chunk, so a reader must not use them before the end."""
        ...

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
        """Make the manifest a version of `name` and, if given, move `alias` to it.

        The same manifest again gives the same version. Raises BlobNotFound when a file of the
        manifest is not stored, AliasConflict when the alias was moved meanwhile, PolicyViolation
        when the alias is protected and may not move to it: no version is made then. Signatures
        are stored before the version is made; raises SignatureInvalid when one does not fit.
        """
        ...

    def manifest(self, digest: Digest) -> Manifest:
        """Raises BlobNotFound, or BlobCorrupted when the stored manifest has another digest."""
        ...

    def manifest_bytes(self, digest: Digest) -> bytes:
        """The manifest's canonical JSON exactly as stored and verified; raises as `manifest`."""
        ...

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        """The version a reference means now; raises AdapterNotFound, VersionNotFound,
        VersionDeleted or AliasNotFound, naming what there is instead."""
        ...

    def target(self, name: str, alias: str) -> AliasTarget:
        """Where the alias points now, and the move that says so; raises AliasNotFound."""
        ...

    def adapters(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
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

    def change_state(
        self, name: str, number: int, verb: StateVerb, *, by: str, why: str = ""
    ) -> VersionState:
        """Delete, undelete, yank or unyank a version; what is done already stays as it is.

        Raises VersionNotFound, VersionInUse when an alias points to what is to be deleted,
        VersionDeleted when a sweep has made a deletion final, Conflict when it does not fit.
        """
        ...

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        """Re-hash the files of one version, or everything stored. Damage is in the report;
        raises BlobCorrupted only for a damaged record, without which nothing can be listed."""
        ...

    def signatures(self, name: str, manifest: Digest) -> list[Signature]:
        """The signatures of the version of `name` with this manifest; none when there is none.

        They fitted when they were stored. Whoever relies on them checks them himself."""
        ...

    def aliases(self, name: str) -> list[AliasMove]:
        """The current move of every alias of `name`, in order of alias."""
        ...

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
        """Point the alias to version number `to`.

        With `expect`, only if it points there now, else AliasConflict. A move to where the alias
        already points returns the current move and writes nothing. Raises VersionYanked or
        VersionDeleted when no alias may move there, PolicyViolation when the alias is protected
        and the version it would replace, the new one or the reason do not meet its conditions.
        A signed move is made at the sequence number it was signed for, else AliasConflict; it is
        also made to where the alias points when the current move is not signed by that key.
        """
        ...

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
        """Move the alias to the last different target of its own history that is active, or to its
        earlier target `to`.

        Raises AliasNotFound, NothingToRollBack, or AliasConflict when it was moved meanwhile or
        does not point to `expect`.
        """
        ...

    def history(self, name: str, alias: str) -> list[AliasMove]:
        """Every move of the alias, oldest first; raises AliasNotFound."""
        ...

    def events(self, after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        """Up to `limit` events behind the cursor `after`, in order; waits up to `wait_s` seconds
        when there is none, and may return early without any.

        None is the end of the log: no events, only the cursor to go on from. Raises CursorAhead
        when the log ends before `after`.
        """
        ...

    def report(self, server_id: str, report: ServerReport, *, by: str = "") -> ServerInfo:
        """Tell which events a server has applied and what it holds; a server does so every
        HEARTBEAT_S. Raises Forbidden when the id is another token's."""
        ...

    def forget(self, server_id: str, *, by: str = "") -> None:
        """The server stops: nobody waits for it any more, and its own wait for events ends."""
        ...

    def servers(self) -> list[ServerInfo]:
        """The servers that were heard of just now, in order of id."""
        ...

    def webhooks(self) -> list[WebhookState]:
        """How far each webhook has come, with its last attempts, in order of name."""
        ...

    def policy(self) -> ReleasePolicy:
        """The rules of protected aliases."""
        ...

    def plan_commit(
        self, name: str, manifest: Manifest, *, by: str, alias: str, why: str = ""
    ) -> MovePlan:
        """What `commit` would do to the alias, and why not. Writes nothing; needs no blobs."""
        ...

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
        """What `move_alias` would do, and why not. Writes nothing."""
        ...

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
        """What `rollback` would do, and why not. Writes nothing; raises NothingToRollBack."""
        ...
