"""What a registry in process is made of, built in one place."""

from __future__ import annotations

from dataclasses import dataclass

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.clock import Clock
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.policy import ReleasePolicy
from hotswap.registry.ledger.aliases import AliasIndex
from hotswap.registry.ledger.backlog import Backlog
from hotswap.registry.ledger.claims import VersionClaims
from hotswap.registry.ledger.content import Content
from hotswap.registry.ledger.gate import ReleaseGate
from hotswap.registry.ledger.log import EventLog
from hotswap.registry.ledger.mover import AliasMover
from hotswap.registry.ledger.publisher import Publisher
from hotswap.registry.ledger.reading import FactReader
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import VersionStates
from hotswap.registry.ledger.versions import VersionIndex
from hotswap.registry.storage.blobs import BlobStore, ManifestStore
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a registry stands on: the store (the truth), its index, and how they are used."""

    store: ObjectStore
    catalog: Catalog
    capabilities: Capabilities
    tasks: Tasks
    now: Clock
    policy: ReleasePolicy
    freshness_s: float


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each over one store and one catalog, so that all of them see the same claims."""

    around: Surroundings
    records: Records
    content: Content
    facts: FactReader
    audit: AuditLog
    log: EventLog
    backlog: Backlog
    versions: VersionIndex
    aliases: AliasIndex
    states: VersionStates
    gate: ReleaseGate
    claims: VersionClaims
    mover: AliasMover

    @classmethod
    def over(cls, around: Surroundings) -> Parts:
        store, catalog, freshness_s = around.store, around.catalog, around.freshness_s
        records, audit, backlog = Records(store), AuditLog(store), Backlog()
        blobs, manifests = BlobStore(store, around.capabilities), ManifestStore(store)
        content = Content(store, blobs, manifests, around.tasks, around.now)
        facts = FactReader(manifests)
        versions = VersionIndex(records, catalog, facts, freshness_s)
        aliases = AliasIndex(records, catalog, versions, freshness_s)
        log = EventLog(records, catalog, versions.get, backlog, look_s=freshness_s)
        publisher = Publisher(log, audit, around.tasks)
        states = VersionStates(records, catalog, freshness_s, aliases.all, publisher)
        gate = ReleaseGate(around.policy, aliases, states, manifests)
        return cls(
            around=around,
            records=records,
            content=content,
            facts=facts,
            audit=audit,
            log=log,
            backlog=backlog,
            versions=versions,
            aliases=aliases,
            states=states,
            gate=gate,
            claims=VersionClaims(content, versions, states, publisher),
            mover=AliasMover(aliases, states, gate, publisher),
        )
