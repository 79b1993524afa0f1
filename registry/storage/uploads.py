"""Blobs that pass this process by: what may be sent straight to the store, and how it is checked.

A client's bytes are bound by signature to their length and SHA-256, and to a free key. Where the
store enforces that, a blob sent in one request is right or absent. Everything else is marked as
unverified (`layout`) before it can exist, and hashed before anything relies on it: bodies
in stores that ignore checksums, and objects made of parts, whose own digest no store checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidRequest,
    RequestTooLarge,
)
from hotswap.registry.domain.layout import blob_key, condemned_key
from hotswap.registry.domain.manifest import MAX_FILE_BYTES
from hotswap.registry.domain.uploads import SentPart, UploadOffer
from hotswap.registry.storage.blobs import BlobStore, read_chunks
from hotswap.registry.storage.direct import DirectAccess
from hotswap.registry.storage.objects import ObjectStore

# Below this a second request costs more than the bytes' way through the registry.
MIN_DIRECT_BYTES = 1 << 20
MAX_PUT_BYTES = 5 << 30  # S3's own limit for one request


class StoredBlobs:
    """Implements Blobs over one store. Invariant: an unmarked blob is verified."""

    def __init__(self, store: ObjectStore, blobs: BlobStore, capabilities: Capabilities) -> None:
        self._store = store
        self._blobs = blobs
        self.capabilities = capabilities
        self.put = blobs.put
        self.open = blobs.open

    def send(self, files: Sequence[tuple[Descriptor, Path]]) -> None:
        for descriptor, path in files:
            if not self.has(descriptor.digest):
                self.put(descriptor, read_chunks(path))

    def has(self, digest: Digest) -> bool:
        """Whether the blob is stored and right; then a push is about to reference it, and the mark
        of a sweep that has condemned it goes."""
        return self._blobs.stat(digest) is not None and self._is_kept(digest)

    def _is_kept(self, digest: Digest) -> bool:
        if not self._blobs.settle(digest):
            return False
        mark = condemned_key(blob_key(digest))
        if self._store.stat(mark) is not None:
            self._store.delete(mark)
        return True

    def offer(self, descriptor: Descriptor, parts: Sequence[Digest] = ()) -> UploadOffer | None:
        if descriptor.size_bytes > MAX_FILE_BYTES:
            raise RequestTooLarge(
                f"{descriptor.file_name}: {descriptor.size_bytes} bytes; at most {MAX_FILE_BYTES}"
            )
        if self._blobs.stat(descriptor.digest) is not None:
            # Only verified bytes may take the place of others.
            return UploadOffer(is_stored=True) if self._is_kept(descriptor.digest) else None
        direct, key = self._store.direct, blob_key(descriptor.digest)
        if direct is None or descriptor.size_bytes < MIN_DIRECT_BYTES:
            return None
        if self._goes_in_parts(direct, descriptor):
            if not parts:
                return UploadOffer(part_bytes=direct.part_bytes)
            _check_count(direct, descriptor, len(parts))
            signed = direct.sign_parts(key, descriptor.size_bytes, parts)
            return UploadOffer(part_bytes=direct.part_bytes, parts=signed)
        if descriptor.size_bytes > MAX_PUT_BYTES:
            return None
        if not self.capabilities.enforces_checksums:
            self._blobs.mark(descriptor.digest)
        return UploadOffer(put=direct.sign_put(key, descriptor.size_bytes, descriptor.digest))

    def finish(self, descriptor: Descriptor, parts: Sequence[SentPart]) -> None:
        direct = self._store.direct
        if direct is None or not self._goes_in_parts(direct, descriptor):
            raise InvalidRequest(f"{descriptor.file_name} is not uploaded in parts here")
        _check_count(direct, descriptor, len(parts))
        self._blobs.mark(descriptor.digest)
        direct.complete(blob_key(descriptor.digest), parts)
        if not self._blobs.settle(descriptor.digest):
            raise DigestMismatch(
                f"{descriptor.file_name}: the parts together are not {descriptor.digest}; did the "
                "file change while it was sent?"
            )

    def url(self, digest: Digest) -> str | None:
        if self._store.direct is None:
            return None
        stat = self._blobs.stat(digest)
        if stat is None:
            raise BlobNotFound(f"there is no blob {digest} in {self._store.location}")
        if stat.size_bytes < MIN_DIRECT_BYTES:
            return None
        return self._store.direct.sign_get(blob_key(digest))

    def _goes_in_parts(self, direct: DirectAccess, descriptor: Descriptor) -> bool:
        """Not where a completion could put other bytes in the place of a blob that is relied on."""
        return (
            self.capabilities.create_once_multipart
            and descriptor.size_bytes >= direct.multipart_bytes
        )


def _check_count(direct: DirectAccess, descriptor: Descriptor, sent: int) -> None:
    wanted = -(-descriptor.size_bytes // direct.part_bytes)
    if sent != wanted:
        raise InvalidRequest(
            f"{descriptor.file_name} has {wanted} parts of {direct.part_bytes} bytes; got {sent}",
            param="parts",
        )
