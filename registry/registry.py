"""The registry in process: the verbs over an object store (the truth) and a catalog (its index).

Order of every write: blobs → manifest → version claim → row → alias claim → row; each event behind
its row, the version's first. A crash leaves garbage, never a pointer to nothing; what was claimed
but has no row yet is found by catching up, before a decision or when a claim is lost; an event that
is missing is appended at start. Several registries may share one store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.access.tokens import Tokens
from hotswap.registry.bundles.direct import read_chunks
from hotswap.registry.clock import Clock, utc_now
from hotswap.registry.database.catalog import Catalog
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
from hotswap.registry.domain.capabilities import UNPROBED, Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.event import EventPage
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.moves import check_actor
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.servers import ServerInfo, ServerReport
from hotswap.registry.domain.signatures import MoveSignature, Signature
from hotswap.registry.domain.uploads import SentPart, UploadOffer
from hotswap.registry.domain.webhooks import WebhookState
from hotswap.registry.events.delivery import WebhookDelivery
from hotswap.registry.events.servers import Servers
from hotswap.registry.events.webhooks import WebhookSettings, read_states
from hotswap.registry.ledger.aliases import Aliases
from hotswap.registry.ledger.claims import VersionClaims
from hotswap.registry.ledger.gate import ReleaseGate
from hotswap.registry.ledger.listing import Listing
from hotswap.registry.ledger.log import EventLog
from hotswap.registry.ledger.mover import AliasMover
from hotswap.registry.ledger.news import News
from hotswap.registry.ledger.reading import FactReader
from hotswap.registry.ledger.reconcile import Rebuilt, Reconciliation
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import GONE, VersionStates
from hotswap.registry.ledger.versions import Versions
from hotswap.registry.signing import check_signatures
from hotswap.registry.storage.blobs import BlobStore, ManifestStore
from hotswap.registry.storage.format import admit
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.storage.uploads import Uploads
from hotswap.registry.tasks import Tasks, Threads
from hotswap.registry.upkeep.integrity import IntegrityCheck


class Registry:
    """Implements AdapterRegistry. Every row in the catalog has its record in the store, whose
    manifest and blobs are stored.

    Lists, searches and aliases show what other processes did up to `freshness_s` seconds ago.
    Moves made through this one are seen at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        *,
        freshness_s: float = 1.0,
        now: Clock = utc_now,
        policy: ReleasePolicy | None = None,
        capabilities: Capabilities = UNPROBED,
        tasks: Tasks | None = None,
    ) -> None:
        self._store = store
        self._tasks = tasks or Threads()
        self._catalog = catalog
        self.capabilities = capabilities
        self._blobs = BlobStore(store, capabilities)
        self._uploads = Uploads(store, self._blobs, capabilities)
        self._manifests = ManifestStore(store)
        self._records = Records(store)
        facts = FactReader(self._manifests)
        self._versions = Versions(self._records, catalog, facts, freshness_s)
        self._aliases = Aliases(self._records, catalog, self._versions, freshness_s)
        news = News()
        self._events = EventLog(
            self._records, catalog, self._versions.get, news, look_s=freshness_s
        )
        self._servers = Servers(store, now)
        self._audit = AuditLog(store)
        self._states = VersionStates(
            self._records, catalog, freshness_s, self._aliases.all, self._audit, self._events
        )
        self._reconciliation = Reconciliation(
            self._records,
            catalog,
            self._events,
            facts,
            self._versions,
            self._aliases,
            self._states,
            news,
            freshness_s,
        )
        self._listing = Listing(catalog, self._reconciliation.catch_up)
        self._claims = VersionClaims(
            store,
            now,
            self._records,
            catalog,
            self._blobs,
            self._manifests,
            self._versions,
            self._states,
            self._events,
            self._audit,
            self._tasks,
        )
        self._gate = ReleaseGate(
            policy or ReleasePolicy(), self._aliases, self._versions, self._states, self.manifest
        )
        self._mover = AliasMover(
            self._records,
            catalog,
            self._aliases,
            self._versions,
            self._states,
            self._gate,
            self._events,
            self._audit,
            self._tasks,
        )
        self.access = Tokens(store, self._audit, freshness_s=freshness_s)

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        catalog: Catalog,
        *,
        freshness_s: float = 1.0,
        policy: ReleasePolicy | None = None,
        tasks: Tasks | None = None,
    ) -> Registry:
        """Probe the store and bring the catalog up to date with it.

        Raises as `admit`.
        """
        capabilities = admit(store)
        registry = cls(
            store,
            catalog,
            freshness_s=freshness_s,
            policy=policy,
            capabilities=capabilities,
            tasks=tasks,
        )
        catalog.bind(registry._records.store_id())
        registry.sync()
        return registry

    def close(self) -> None:
        """The registry cannot be used afterwards."""
        self._tasks.close()
        self._catalog.close()
        self._store.close()

    def sync(self) -> None:
        """Bring catalog and events up to date with the store."""
        self._reconciliation.sync()

    def rebuild(self) -> Rebuilt:
        """Make the catalog again from the store alone."""
        return self._reconciliation.rebuild()

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        check = IntegrityCheck(self._store)
        if ref is not None:
            version = self.resolve(ref)
            check.versions([version])
            check.signatures(self._records.signature_keys(version.name, version.manifest_digest))
        else:
            self.rebuild()  # every record is read, and named when it is damaged
            check.versions(self._catalog.all_versions())
            check.signatures(self._records.signature_keys())
            check.moves(
                (move, self._versions.get(move.name, move.to_number).manifest_digest)
                for move in self._catalog.signed_moves()
            )
            check.everything_stored()
        return check.report(self.capabilities)

    def has_blob(self, digest: Digest) -> bool:
        return self._uploads.is_needless(digest)

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        self._blobs.put(descriptor, chunks)

    def send_file(self, descriptor: Descriptor, path: Path) -> None:
        if not self.has_blob(descriptor.digest):
            self.put_blob(descriptor, read_chunks(path))

    def send_files(self, files: Sequence[tuple[Descriptor, Path]]) -> None:
        for descriptor, path in files:
            self.send_file(descriptor, path)

    def offer_upload(
        self, descriptor: Descriptor, parts: Sequence[Digest] = ()
    ) -> UploadOffer | None:
        return self._uploads.offer(descriptor, parts)

    def finish_upload(self, descriptor: Descriptor, parts: Sequence[SentPart]) -> None:
        self._uploads.finish(descriptor, parts)

    def blob_url(self, digest: Digest) -> str | None:
        return self._uploads.url(digest)

    def open_blob(self, digest: Digest) -> Iterator[bytes]:
        return self._blobs.open(digest)

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
        check_name(name)
        if alias is not None:
            check_alias(alias)
        elif move_signature is not None:
            raise InvalidRequest("a signed move needs the alias that it moves", param="alias")
        check_actor(by, why)
        if alias is not None:
            self._gate.require_commit(name, alias, manifest, why)
        signed = check_signatures(name, manifest.digest, signatures)

        def move(version: AdapterVersion) -> None:
            if alias is not None:
                self._mover.move(name, alias, version.number, by, why, None, move_signature)

        return self._claims.commit(name, manifest, by, signed, then=move)

    def signatures(self, name: str, manifest: Digest) -> list[Signature]:
        keys = self._records.signature_keys(check_name(name), manifest)
        return [self._records.signature(key).signature for key in keys]

    def manifest(self, digest: Digest) -> Manifest:
        return Manifest.parse(self.manifest_bytes(digest))

    def manifest_bytes(self, digest: Digest) -> bytes:
        return self._manifests.read(digest)

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        if (alias := ref.effective_alias) is not None:
            return self._versions.get(ref.name, self._aliases.target(ref.name, alias).to_number)
        version = self._versions.find(ref)
        self._states.require_present(ref.name, version.number)
        return version

    def target(self, name: str, alias: str) -> AliasTarget:
        move = self._aliases.target(name, alias)
        return AliasTarget(move=move, version=self._versions.get(name, move.to_number))

    def adapters(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
        return self._listing.adapters(after, limit)

    def search(
        self, expression: str, *, after: AdapterRef | None = None, limit: int = 100
    ) -> list[AdapterVersion]:
        return self._listing.versions(expression, after, limit)

    def versions(self, name: str) -> list[AdapterVersion]:
        self._versions.catch_up(check_name(name))
        found = self._catalog.versions(name)
        if not found:
            raise self._versions.no_adapter(name)
        gone = {s.number for s in self._states.all(name) if s.state in GONE}
        return [version for version in found if version.number not in gone]

    def states(self, name: str) -> list[VersionState]:
        self._versions.catch_up(check_name(name))
        self._versions.require_adapter(name)
        return self._states.all(name)

    def change_state(
        self, name: str, number: int, verb: StateVerb, *, by: str, why: str = ""
    ) -> VersionState:
        check_actor(by, why)
        self._versions.catch_up(check_name(name))
        self._versions.get(name, number)
        return self._states.change(name, number, verb, by, why)

    def aliases(self, name: str) -> list[AliasMove]:
        return self._aliases.all(name)

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
        check_actor(by, why)
        return self._mover.move(name, alias, to, by, why, expect, signature)

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
        check_actor(by, why)
        return self._mover.rollback(name, alias, by, why, expect, to, signature)

    def history(self, name: str, alias: str) -> list[AliasMove]:
        return self._aliases.history(name, alias)

    def events(self, after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        return self._events.events(after, limit, wait_s)

    def report(self, server_id: str, report: ServerReport, *, by: str = "") -> ServerInfo:
        return self._servers.report(server_id, report, by)

    def forget(self, server_id: str, *, by: str = "") -> None:
        self._servers.forget(server_id, by)
        self._events.wake()

    def servers(self) -> list[ServerInfo]:
        return self._servers.all()

    def webhooks(self) -> list[WebhookState]:
        return read_states(self._store)

    def delivery(self, settings: WebhookSettings) -> WebhookDelivery:
        """What sends events to webhooks; to be started by one process over the store."""
        return WebhookDelivery(settings, self._store, self.events, self.wake)

    def wake(self) -> None:
        """End every wait for events now, because the server that waits is about to stop."""
        self._events.wake()

    def policy(self) -> ReleasePolicy:
        return self._gate.policy

    def plan_commit(
        self, name: str, manifest: Manifest, *, by: str, alias: str, why: str = ""
    ) -> MovePlan:
        check_actor(by, why)
        return self._gate.plan_commit(name, alias, manifest, why)

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
        check_actor(by, why)
        return self._gate.plan_move(name, alias, to, why, expect)

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
        check_actor(by, why)
        return self._gate.plan_rollback(name, alias, to, expect)
