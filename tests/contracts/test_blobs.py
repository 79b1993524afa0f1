"""What every registry's blobs must do, with the same errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidBundle,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.uploads import UploadOffer
from tests.refusals import refused
from tests.registry.bundles import read_bundle


def descriptor_of(data: bytes) -> Descriptor:
    return Descriptor(
        digest=Digest.of(data), size_bytes=len(data), media_type="text/plain", file_name="x"
    )


def test_blob_of_several_megabytes_comes_back(registry: AdapterRegistry) -> None:
    chunks = [bytes([i]) * 700_001 for i in range(9)]
    descriptor = descriptor_of(b"".join(chunks))
    registry.blobs.put(descriptor, iter(chunks))
    assert registry.blobs.has(descriptor.digest)
    assert b"".join(registry.blobs.open(descriptor.digest)) == b"".join(chunks)


def test_empty_blob_comes_back(registry: AdapterRegistry) -> None:
    registry.blobs.put(descriptor_of(b""), [])
    assert b"".join(registry.blobs.open(Digest.of(b""))) == b""


def test_blob_of_other_bytes_is_refused_and_not_kept(registry: AdapterRegistry) -> None:
    descriptor = descriptor_of(b"announced")
    for other in (b"different", b"announc", b"announced and more"):
        with pytest.raises(DigestMismatch):
            registry.blobs.put(descriptor, [other])
    assert not registry.blobs.has(descriptor.digest)


def test_missing_blob_is_not_found(registry: AdapterRegistry) -> None:
    with pytest.raises(BlobNotFound):
        b"".join(registry.blobs.open(Digest.of(b"never stored")))


def test_file_that_is_stored_is_offered_no_upload(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    files = [(file, bundle.path(file)) for file in manifest.files]
    registry.blobs.send(files)
    assert all(registry.blobs.has(file.digest) for file in manifest.files)
    assert [registry.blobs.offer(file) for file in manifest.files] == [
        UploadOffer(is_stored=True)
    ] * len(files)
    registry.blobs.send(files)


def test_error_of_one_file_of_several_is_raised(registry: AdapterRegistry, tmp_path: Path) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    files = [(file, bundle.path(file)) for file in manifest.files]
    bundle.path(manifest.file("adapter_config.json")).unlink()
    with refused(InvalidBundle, "adapter_config.json"):
        registry.blobs.send(files)
