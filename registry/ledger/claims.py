"""Makes versions: pins and verifies what is stored, then claims the next number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.requests import PushRequest
from hotswap.registry.domain.signatures import VersionSignature
from hotswap.registry.ledger.content import Content
from hotswap.registry.ledger.publisher import Publisher
from hotswap.registry.ledger.states import GONE, VersionStates
from hotswap.registry.ledger.versions import VersionIndex
from hotswap.registry.signing import check_signatures
from hotswap.registry.tasks import Start


class VersionClaims:
    """Invariant: a claimed version's manifest, signatures and blobs are stored and verified."""

    def __init__(
        self,
        content: Content,
        versions: VersionIndex,
        states: VersionStates,
        publisher: Publisher,
    ) -> None:
        self._content = content
        self._versions = versions
        self._states = states
        self._publisher = publisher

    def commit(
        self,
        request: PushRequest,
        then: Callable[[AdapterVersion], object],
    ) -> AdapterVersion:
        """A new version; the same content again is the version it was, revived if it was deleted.

        `then` is called with the version once it is claimed, while its event and its audit entry
        are written and its pin is removed; all of it is done when this returns.

        Raises BlobNotFound and InvalidManifest when the stored files are not what the manifest
        says, NameTaken for a look-alike of another name, SignatureInvalid for a signature that does
        not fit.
        """
        name, manifest, by = request.name, request.manifest, request.by
        data = manifest.canonical_json()
        digest = Digest.of(data)
        signed = check_signatures(name, digest, request.signatures)
        manifests = self._content.manifests
        version = self._versions.with_content(name, digest)
        if version is not None and self._states.current(name, version.number) not in GONE:
            if manifests.heal(digest, data):
                self._versions.add_facts(version, manifest)
            self._keep(signed, by)
            then(version)
            return version
        with self._publisher.together() as start:
            with self._content.pinned(manifest, digest, start):
                with self._publisher.together() as start_before_claim:
                    start_before_claim(self._versions.claim_name, name)
                    start_before_claim(manifests.keep, digest, data)
                    self._keep(signed, by)  # no version is seen without them
                version = self._claim_number(request, digest, start)
            then(version)
        return version

    def _keep(self, signed: Sequence[VersionSignature], by: str) -> None:
        for record in signed:
            if self._versions.keep_signature(record):
                self._publisher.signature(record, by)

    def _claim_number(self, request: PushRequest, digest: Digest, start: Start) -> AdapterVersion:
        """The content is stored and pinned: take the next number, or the one it has already.

        A lost claim says that other processes made versions; only then are these read.
        """
        name, by = request.name, request.by
        while True:
            # The number before the look: a push of the same manifest that lands between the two
            # takes this number, so that the claim is lost instead of making a second version.
            number = self._versions.next_number(name)
            version = self._versions.with_content(name, digest)
            if version is not None:
                self._states.revive(name, version.number, by, "its content was pushed again")
                self._versions.add_facts(version, request.manifest)
                return version
            version = AdapterVersion(
                name=name,
                number=number,
                manifest_digest=digest,
                created_by=by,
                created_at=datetime.now(UTC),
            )
            if self._versions.claim(version, request.manifest):
                self._publisher.version(version, start)
                return version
            self._versions.catch_up(name)
