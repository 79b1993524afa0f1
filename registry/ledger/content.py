"""What versions are made of, by digest: their manifests and blobs, and what keeps sweeps away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hotswap.registry.bundles.verification import verify_manifest
from hotswap.registry.clock import Clock
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.layout import blob_key, manifest_key
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.ledger.pins import pinned
from hotswap.registry.storage.blobs import BlobStore, ManifestStore
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.tasks import Start, Tasks


class Content:
    """Manifests and blobs of one store. Invariant: inside `pinned` a manifest's files are stored
    and right, and stay."""

    def __init__(
        self,
        store: ObjectStore,
        blobs: BlobStore,
        manifests: ManifestStore,
        tasks: Tasks,
        now: Clock,
    ) -> None:
        self.blobs = blobs
        self.manifests = manifests
        self._store = store
        self._tasks = tasks
        self._now = now

    @contextmanager
    def pinned(self, manifest: Manifest, digest: Digest, start: Start) -> Iterator[None]:
        """No sweep deletes the manifest or its files inside; `start` removes the pin at the end.

        Raises SweepInProgress, and what is wrong with the files as `verify_manifest`.
        """
        keys = [manifest_key(digest), *(blob_key(file.digest) for file in manifest.files)]
        with pinned(self._store, keys, self._now, start):
            verify_manifest(manifest, self.blobs, self._tasks)
            yield
