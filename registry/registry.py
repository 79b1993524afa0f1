"""The registry in process: the verbs over an object store (the truth) and a catalog (its index).

Order of every write: blobs → manifest → version claim → row → alias claim → row; each event behind
its row, the version's first. A crash leaves garbage, never a pointer to nothing; what was claimed
but has no row yet is found by catching up, before a decision or when a claim is lost; an event that
is missing is appended at start. Several registries may share one store.
"""

from __future__ import annotations

from hotswap.registry.access.tokens import Tokens
from hotswap.registry.clock import Clock, utc_now
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterVersion,
    AliasMove,
    AliasTarget,
    VersionState,
    check_alias,
    check_name,
)
from hotswap.registry.domain.capabilities import UNPROBED, Capabilities
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.moves import check_actor
from hotswap.registry.domain.policy import MovePlan, ReleasePolicy
from hotswap.registry.domain.requests import MoveRequest, PushRequest, StateRequest
from hotswap.registry.domain.signatures import Signature
from hotswap.registry.domain.webhooks import WebhookState
from hotswap.registry.events.delivery import WebhookDelivery
from hotswap.registry.events.servers import Servers
from hotswap.registry.events.webhooks import WebhookSettings, read_states
from hotswap.registry.ledger.listing import Listing
from hotswap.registry.ledger.parts import Parts, Surroundings
from hotswap.registry.ledger.reconcile import Rebuilt, Reconciliation
from hotswap.registry.storage.format import admit
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.storage.uploads import StoredBlobs
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
        around = Surroundings(
            store=store,
            catalog=catalog,
            capabilities=capabilities,
            tasks=tasks or Threads(),
            now=now,
            policy=policy or ReleasePolicy(),
            freshness_s=freshness_s,
        )
        self._parts = parts = Parts.over(around)
        self.blobs = StoredBlobs(store, parts.content.blobs, capabilities)
        self._reconciliation = Reconciliation(parts)
        self.versions = VersionVerbs(parts, self._reconciliation)
        self.adapters = Listing(
            catalog, parts.versions, parts.states, self._reconciliation.catch_up
        )
        self.aliases = AliasVerbs(parts)
        self.events = EventVerbs(parts)
        self.access = Tokens(store, parts.audit, freshness_s=freshness_s)

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
        catalog.bind(registry._parts.records.store_id())
        registry.sync()
        return registry

    def close(self) -> None:
        """The registry cannot be used afterwards."""
        around = self._parts.around
        around.tasks.close()
        around.catalog.close()
        around.store.close()

    def sync(self) -> None:
        """Bring catalog and events up to date with the store."""
        self._reconciliation.sync()

    def rebuild(self) -> Rebuilt:
        """Make the catalog again from the store alone."""
        return self._reconciliation.rebuild()

    def delivery(self, settings: WebhookSettings | None) -> WebhookDelivery | None:
        """What sends events to the webhooks, if there are any; to be started by one process over
        the store."""
        if settings is None:
            return None
        return WebhookDelivery(settings, self._parts.around.store, self.events.read, self.wake)

    def wake(self) -> None:
        """End every wait for events now, because the server that waits is about to stop."""
        self._parts.log.wake()


class VersionVerbs:
    """Implements Versions."""

    def __init__(self, parts: Parts, reconciliation: Reconciliation) -> None:
        self._parts = parts
        self._reconciliation = reconciliation
        self.manifest = parts.content.manifests.get
        self.manifest_bytes = parts.content.manifests.read

    def commit(self, request: PushRequest) -> AdapterVersion:
        check_name(request.name)
        if request.alias is not None:
            check_alias(request.alias)
        elif request.move_signature is not None:
            raise InvalidRequest("a signed move needs the alias that it moves", param="alias")
        check_actor(request.by, request.why)
        self._parts.gate.require_commit(request)

        def move(version: AdapterVersion) -> None:
            if (following := request.move_to(version.number)) is not None:
                self._parts.mover.move(following)

        return self._parts.claims.commit(request, then=move)

    def plan(self, request: PushRequest) -> MovePlan:
        check_actor(request.by, request.why)
        return self._parts.gate.plan_commit(request)

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        versions = self._parts.versions
        if (alias := ref.effective_alias) is not None:
            target = self._parts.aliases.target(ref.name, alias)
            return versions.get(ref.name, target.to_number)
        version = versions.find(ref)
        self._parts.states.require_present(ref.name, version.number)
        return version

    def signatures(self, name: str, manifest: Digest) -> list[Signature]:
        records = self._parts.records
        keys = records.signature_keys(check_name(name), manifest)
        return [records.signature(key).signature for key in keys]

    def change(self, request: StateRequest) -> VersionState:
        check_actor(request.by, request.why)
        self._parts.versions.catch_up(check_name(request.name))
        self._parts.versions.get(request.name, request.number)
        return self._parts.states.change(request)

    def verify(self, ref: AdapterRef | None = None) -> IntegrityReport:
        parts, around = self._parts, self._parts.around
        check = IntegrityCheck(around.store)
        if ref is not None:
            version = self.resolve(ref)
            check.versions([version])
            check.signatures(parts.records.signature_keys(version.name, version.manifest_digest))
        else:
            self._reconciliation.rebuild()  # every record is read, and named when it is damaged
            check.versions(around.catalog.all_versions())
            check.signatures(parts.records.signature_keys())
            check.moves(
                (move, parts.versions.get(move.name, move.to_number).manifest_digest)
                for move in around.catalog.signed_moves()
            )
            check.everything_stored()
        return check.report(around.capabilities)


class AliasVerbs:
    """Implements Aliases."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.all = parts.aliases.all
        self.history = parts.aliases.history

    def target(self, name: str, alias: str) -> AliasTarget:
        move = self._parts.aliases.target(name, alias)
        return AliasTarget(move=move, version=self._parts.versions.get(name, move.to_number))

    def move(self, request: MoveRequest) -> AliasMove:
        check_actor(request.by, request.why)
        return self._parts.mover.move(request)

    def rollback(self, request: MoveRequest) -> AliasMove:
        check_actor(request.by, request.why)
        return self._parts.mover.rollback(request)

    def plan_move(self, request: MoveRequest) -> MovePlan:
        check_actor(request.by, request.why)
        return self._parts.gate.plan_move(request)

    def plan_rollback(self, request: MoveRequest) -> MovePlan:
        check_actor(request.by, request.why)
        return self._parts.gate.plan_rollback(request)

    def policy(self) -> ReleasePolicy:
        return self._parts.gate.policy


class EventVerbs:
    """Implements Events."""

    is_followed = False

    def __init__(self, parts: Parts) -> None:
        self._log = parts.log
        self._store = parts.around.store
        self._servers = Servers(self._store, parts.around.now)
        self.read = self._log.read
        self.report = self._servers.report
        self.servers = self._servers.all

    def forget(self, server_id: str, *, by: str = "") -> None:
        self._servers.forget(server_id, by=by)
        self._log.wake()

    def webhooks(self) -> list[WebhookState]:
        return read_states(self._store)
