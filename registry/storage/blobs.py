"""Bytes by digest over any object store, verified in both directions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest, Hasher
from hotswap.registry.domain.errors import (
    BlobCorrupted,
    BlobNotFound,
    DigestMismatch,
    InvalidBundle,
)
from hotswap.registry.domain.layout import blob_key, manifest_key, unverified_key, unverified_prefix
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.storage.objects import CHUNK_BYTES, ObjectMissing, ObjectStat, ObjectStore


class BlobStore:
    """Invariant: a reader that reaches a blob's end has the bytes of the digest it asked for.

    A blob whose bytes are not verified is marked before it can exist; `settle` verifies it.
    """

    def __init__(self, store: ObjectStore, capabilities: Capabilities) -> None:
        self._store = store
        self._capabilities = capabilities
        self._has_marks = store.direct is not None or not capabilities.enforces_checksums

    def stat(self, digest: Digest) -> ObjectStat | None:
        return self._store.stat(blob_key(digest))

    def put(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Raises DigestMismatch when the bytes are others, nothing is stored then; BlobCorrupted
        when the store kept others than it was sent, they are marked."""
        digest = descriptor.digest
        if not self._capabilities.enforces_checksums:
            self.mark(digest)
        self._store.put(blob_key(digest), as_announced(descriptor, chunks))
        if not self._capabilities.enforces_checksums:
            try:
                self._verify(digest)
            except BlobCorrupted:
                self.mark(digest)  # who verified the right bytes may have taken the mark away
                raise
        self._unmark(self._marks(digest))

    def mark(self, digest: Digest) -> None:
        """From now on the blob's bytes are not relied on until they have been hashed.

        Each mark is an object of its own, so that a sweep that removes an old one never removes
        that of an upload which has just been offered.
        """
        self._store.create(unverified_key(digest, uuid.uuid4().hex), b"{}")

    def settle(self, digest: Digest) -> bool:
        """Whether the blob's bytes are right: one that is marked is read to its end for it.

        Wrong bytes stay, marked, until a `put` replaces them; deleting them could hit the right
        ones that someone has put there meanwhile.
        """
        marks = self._marks(digest)
        if not marks:
            return True
        try:
            self._verify(digest)
        except (BlobCorrupted, BlobNotFound):
            return False
        self._unmark(marks)
        return True

    def _marks(self, digest: Digest) -> list[str]:
        return list(self._store.list(unverified_prefix(digest))) if self._has_marks else []

    def _unmark(self, marks: Iterable[str]) -> None:
        for mark in marks:
            self._store.delete(mark)

    def _verify(self, digest: Digest) -> None:
        for _ in self.open(digest):
            pass

    def read(self, digest: Digest, start: int, num_bytes: int) -> bytes:
        """Up to `num_bytes` from `start` on, which are not hashed; raises BlobNotFound."""
        try:
            return self._store.read(blob_key(digest), start, num_bytes)
        except ObjectMissing:
            raise self._missing(digest) from None

    def open(self, digest: Digest) -> Iterator[bytes]:
        """Raises BlobNotFound, or BlobCorrupted before the last chunk is handed on."""
        key = blob_key(digest)
        try:
            yield from as_stored(digest, self._store.open(key), f"{self._store.location}, {key}")
        except ObjectMissing:
            raise self._missing(digest) from None

    def _missing(self, digest: Digest) -> BlobNotFound:
        return BlobNotFound(
            f"there is no blob {digest} in {self._store.location}; push its adapter again"
        )


class ManifestStore:
    """Manifests by digest: small, read whole, never handed on when damaged."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, digest: Digest) -> bytes:
        """Raises BlobNotFound or BlobCorrupted."""
        key = manifest_key(digest)
        try:
            data = b"".join(self._store.open(key))
        except ObjectMissing:
            raise BlobNotFound(f"there is no manifest {digest} in {self._store.location}") from None
        if (actual := Digest.of(data)) != digest:
            raise BlobCorrupted(
                f"{self._store.location}, {key}: expected {digest}, the bytes are {actual}; "
                "restore the object or push its adapter again",
                digest=str(digest),
            )
        return data

    def get(self, digest: Digest) -> Manifest:
        """Raises as `read`, and InvalidManifest."""
        return Manifest.parse(self.read(digest))

    def keep(self, digest: Digest, data: bytes) -> None:
        """As `heal`, for a manifest that is probably new: one request then."""
        if not self._store.create(manifest_key(digest), data):
            self.heal(digest, data)

    def heal(self, digest: Digest, data: bytes) -> bool:
        """Store the manifest unless its bytes are there; also in place of a damaged one. Whether
        it was stored."""
        try:
            self.read(digest)
        except (BlobNotFound, BlobCorrupted):
            self._store.put(manifest_key(digest), [data])
            return True
        return False


def read_chunks(path: Path, size_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The file in pieces of a size; raises InvalidBundle when it cannot be read."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(size_bytes):
                yield chunk
    except OSError as error:
        raise InvalidBundle(f"{path} cannot be read: {error.strerror}") from error


def as_announced(descriptor: Descriptor, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks; raises DigestMismatch as soon as they cannot be what was announced."""
    hasher = Hasher()
    for chunk in hasher.through(chunks):
        if hasher.size_bytes > descriptor.size_bytes:
            raise DigestMismatch(
                f"{descriptor.file_name}: more than the announced {descriptor.size_bytes} bytes "
                f"arrived for {descriptor.digest}"
            )
        yield chunk
    if hasher.digest != descriptor.digest or hasher.size_bytes != descriptor.size_bytes:
        raise DigestMismatch(
            f"{descriptor.file_name}: announced {descriptor.digest} with "
            f"{descriptor.size_bytes} bytes, got {hasher.digest} with {hasher.size_bytes}; "
            "did the file change while it was sent?"
        )


def as_stored(digest: Digest, chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The same chunks, each handed on when the next has come, so that a reader never gets the
    end of bytes that turn out to be others: BlobCorrupted is raised in place of the last chunk."""
    hasher = Hasher()
    held = b""
    for chunk in hasher.through(chunks):
        if held:
            yield held
        held = chunk
    if hasher.digest != digest:
        raise BlobCorrupted(
            f"{where}: expected {digest}, the bytes are {hasher.digest} "
            f"({hasher.size_bytes} bytes); restore the object or push its adapter again",
            digest=str(digest),
        )
    if held:
        yield held
