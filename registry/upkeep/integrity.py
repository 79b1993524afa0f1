"""Re-hashes what is stored and says what is damaged. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hotswap.registry.domain.adapters import AdapterVersion, AliasMove
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Digest, Hasher
from hotswap.registry.domain.errors import BlobCorrupted, InvalidManifest, SignatureInvalid
from hotswap.registry.domain.integrity import Damage, IntegrityReport
from hotswap.registry.domain.layout import (
    BLOBS,
    MANIFESTS,
    blob_key,
    digest_of_key,
    manifest_key,
    move_key,
)
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.ledger.records import Records
from hotswap.registry.signing import check_move, check_version_signature
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore

NOTHING = "nothing"


class IntegrityCheck:
    """Reads every object at most once, in chunks; a check goes on after damage."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._records = Records(store)
        self._seen: dict[str, Damage | None] = {}
        self._size_bytes = 0
        self._damage: list[Damage] = []

    def versions(self, versions: Iterable[AdapterVersion]) -> None:
        """Check the manifest of each version and every file it names."""
        for version in versions:
            key = manifest_key(version.manifest_digest)
            if self._check(key, version.manifest_digest) is None:
                for digest in self._files(key):
                    self._check(blob_key(digest), digest)

    def everything_stored(self) -> None:
        """Check every blob and manifest, whether a version needs it or not."""
        for prefix in (MANIFESTS, BLOBS):
            for key in self._store.list(prefix):
                try:
                    digest = digest_of_key(key)
                except ValueError:
                    self._report(Damage(key=key, expected="a digest's key", got="a foreign object"))
                else:
                    self._check(key, digest)

    def signatures(self, keys: Iterable[str]) -> None:
        """Check that each stored signature was made by its key for what its place says."""
        for key in keys:
            try:
                record = self._records.signature(key)
                check_version_signature(record.signature, record.name, record.manifest_digest)
            except (BlobCorrupted, SignatureInvalid) as error:
                self._note(key, Damage(key=key, expected="a version's signature", got=str(error)))
            else:
                self._note(key, None)

    def moves(self, moves: Iterable[tuple[AliasMove, Digest]]) -> None:
        """Check the signature of each signed move, given with the digest of its target."""
        for move, to in moves:
            key, damage = move_key(move.name, move.alias, move.sequence), None
            try:
                check_move(move, to)
            except SignatureInvalid as error:
                damage = Damage(key=key, expected="a signed move", got=str(error))
            self._note(key, damage)

    def report(self, capabilities: Capabilities) -> IntegrityReport:
        return IntegrityReport(
            num_objects=len(self._seen),
            size_bytes=self._size_bytes,
            damage=tuple(self._damage),
            store=capabilities,
        )

    def _check(self, key: str, digest: Digest) -> Damage | None:
        if key not in self._seen:
            actual = self._hash(key)
            damage = (
                None if actual == str(digest) else Damage(key=key, expected=str(digest), got=actual)
            )
            self._note(key, damage)
        return self._seen[key]

    def _note(self, key: str, damage: Damage | None) -> None:
        self._seen[key] = damage
        if damage is not None:
            self._report(damage)

    def _hash(self, key: str) -> str:
        hasher = Hasher()
        try:
            for chunk in self._store.open(key):
                hasher.update(chunk)
        except ObjectMissing:
            return NOTHING
        self._size_bytes += hasher.size_bytes
        return str(hasher.digest)

    def _files(self, key: str) -> Iterator[Digest]:
        try:
            manifest = Manifest.parse(b"".join(self._store.open(key)))
        except InvalidManifest as error:
            self._report(Damage(key=key, expected="a manifest", got=error.message))
            return
        yield from (descriptor.digest for descriptor in manifest.files)

    def _report(self, damage: Damage) -> None:
        self._damage.append(damage)
