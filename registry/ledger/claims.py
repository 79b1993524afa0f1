"""Makes versions: pins and verifies what is stored, then claims the next number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.bundles.verification import verify_manifest
from hotswap.registry.clock import Clock
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.layout import blob_key, manifest_key
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.requests import PushRequest
from hotswap.registry.domain.signatures import VersionSignature
from hotswap.registry.ledger.log import EventLog
from hotswap.registry.ledger.pins import pinned
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import GONE, VersionStates
from hotswap.registry.ledger.versions import VersionIndex
from hotswap.registry.search.facts import facts_of
from hotswap.registry.storage.blobs import BlobStore, ManifestStore
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.tasks import Start, Tasks


class VersionClaims:
    """Invariant: a claimed version's manifest, signatures and blobs are stored and verified."""

    def __init__(
        self,
        store: ObjectStore,
        now: Clock,
        records: Records,
        catalog: Catalog,
        blobs: BlobStore,
        manifests: ManifestStore,
        versions: VersionIndex,
        states: VersionStates,
        events: EventLog,
        audit: AuditLog,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._now = now
        self._records = records
        self._catalog = catalog
        self._blobs = blobs
        self._manifests = manifests
        self._versions = versions
        self._states = states
        self._events = events
        self._audit = audit
        self._tasks = tasks

    def commit(
        self,
        request: PushRequest,
        signed: Sequence[VersionSignature],
        then: Callable[[AdapterVersion], object],
    ) -> AdapterVersion:
        """A new version; the same content again is the version it was, revived if it was deleted.

        `then` is called with the version once it is claimed, while its event and its audit entry
        are written and its pin is removed; all of it is done when this returns.

        Raises BlobNotFound and InvalidManifest when the stored files are not what the manifest
        says, NameTaken for a look-alike of another name.
        """
        name, manifest, by = request.name, request.manifest, request.by
        data = manifest.canonical_json()
        digest = Digest.of(data)
        version = self._catalog.version_by_digest(name, digest)
        if version is not None and self._states.current(name, version.number) not in GONE:
            if self._manifests.heal(digest, data):
                self._catalog.add([], [], facts=facts_of(version, manifest))
            self._keep(signed, by)
            then(version)
            return version
        keys = [manifest_key(digest), *(blob_key(file.digest) for file in manifest.files)]
        with self._tasks.together() as start:
            with pinned(self._store, keys, self._now, start):
                verify_manifest(manifest, self._blobs, self._tasks)
                with self._tasks.together() as start_before_claim:
                    start_before_claim(self._versions.claim_name, name)
                    start_before_claim(self._manifests.keep, digest, data)
                    self._keep(signed, by)  # no version is seen without them
                version = self._claim_number(name, manifest, digest, by, start)
            then(version)
        return version

    def _keep(self, signed: Sequence[VersionSignature], by: str) -> None:
        for record in signed:
            if self._records.keep_signature(record):
                what = f"{record.name}@{record.manifest_digest}"
                self._audit.record("sign", what, who=by, after=record.signature.key)

    def _claim_number(
        self, name: str, manifest: Manifest, digest: Digest, by: str, start: Start
    ) -> AdapterVersion:
        """The content is stored and pinned: take the next number, or the one it has already.

        What other processes claimed is looked for when the claim is lost, which tells of it.
        """
        while True:
            # The number before the look: a push of the same manifest that lands between the two
            # takes this number, so that the claim is lost instead of making a second version.
            number = self._catalog.latest_number(name) + 1
            version = self._catalog.version_by_digest(name, digest)
            if version is not None:
                self._states.revive(name, version.number, by, "its content was pushed again")
                self._catalog.add([], [], facts=facts_of(version, manifest))
                return version
            version = AdapterVersion(
                name=name,
                number=number,
                manifest_digest=digest,
                created_by=by,
                created_at=datetime.now(UTC),
            )
            if self._records.claim_version(version):
                self._catalog.add([version], [], facts=facts_of(version, manifest))
                self._events.owe([version])  # before any event of a move to it
                start(self._events.append)
                what = str(version.ref)
                start(partial(self._audit.record, "push", what, who=by, after=str(digest)))
                return version
            self._versions.catch_up(name)
