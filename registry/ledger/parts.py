"""What a registry in process is made of, built in one place."""

from __future__ import annotations

from dataclasses import dataclass

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.clock import Clock
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.policy import ReleasePolicy
from hotswap.registry.ledger.aliases import AliasIndex
from hotswap.registry.ledger.claims import VersionClaims
from hotswap.registry.ledger.gate import ReleaseGate
from hotswap.registry.ledger.log import EventLog
from hotswap.registry.ledger.mover import AliasMover
from hotswap.registry.ledger.news import News
from hotswap.registry.ledger.reading import FactReader
from hotswap.registry.ledger.reconcile import Reconciliation
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import VersionStates
from hotswap.registry.ledger.versions import VersionIndex
from hotswap.registry.storage.blobs import BlobStore, ManifestStore
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the parts are built over: the truth, its index, and how they are to be used."""

    store: ObjectStore
    catalog: Catalog
    capabilities: Capabilities
    tasks: Tasks
    now: Clock
    policy: ReleasePolicy
    freshness_s: float


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each over one store and one catalog. All of them see the same claims."""

    around: Surroundings
    records: Records
    blobs: BlobStore
    manifests: ManifestStore
    audit: AuditLog
    log: EventLog
    versions: VersionIndex
    aliases: AliasIndex
    states: VersionStates
    gate: ReleaseGate
    claims: VersionClaims
    mover: AliasMover
    reconciliation: Reconciliation

    @classmethod
    def over(cls, around: Surroundings) -> Parts:
        store, catalog, freshness_s = around.store, around.catalog, around.freshness_s
        records, audit, news = Records(store), AuditLog(store), News()
        blobs, manifests = BlobStore(store, around.capabilities), ManifestStore(store)
        facts = FactReader(manifests)
        versions = VersionIndex(records, catalog, facts, freshness_s)
        aliases = AliasIndex(records, catalog, versions, freshness_s)
        log = EventLog(records, catalog, versions.get, news, look_s=freshness_s)
        states = VersionStates(records, catalog, freshness_s, aliases.all, audit, log)
        gate = ReleaseGate(around.policy, aliases, versions, states, manifests)
        return cls(
            around=around,
            records=records,
            blobs=blobs,
            manifests=manifests,
            audit=audit,
            log=log,
            versions=versions,
            aliases=aliases,
            states=states,
            gate=gate,
            claims=VersionClaims(
                store,
                around.now,
                records,
                catalog,
                blobs,
                manifests,
                versions,
                states,
                log,
                audit,
                around.tasks,
            ),
            mover=AliasMover(
                records, catalog, aliases, versions, states, gate, log, audit, around.tasks
            ),
            reconciliation=Reconciliation(
                records, catalog, log, facts, versions, aliases, states, news, freshness_s
            ),
        )
