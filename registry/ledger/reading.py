"""Reads the facts of versions from the manifests in the store."""

from __future__ import annotations

from collections.abc import Iterable

from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.errors import BlobCorrupted, BlobNotFound, InvalidManifest
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.search.facts import Fact, facts_of
from hotswap.registry.storage.blobs import ManifestStore


class FactReader:
    """A manifest that is missing or damaged gives no facts and no error: the search can do
    without it, and a request for the manifest gets it."""

    def __init__(self, manifests: ManifestStore) -> None:
        self._manifests = manifests

    def read(self, versions: Iterable[AdapterVersion]) -> list[Fact]:
        """One GET a version."""
        return [fact for v in versions for fact in facts_of(v, self._manifest(v))]

    def _manifest(self, version: AdapterVersion) -> Manifest | None:
        try:
            return self._manifests.get(version.manifest_digest)
        except (BlobNotFound, BlobCorrupted, InvalidManifest):
            return None
