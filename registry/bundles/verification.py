"""What a registry checks before it makes a manifest a version: the manifest must not lie.

It reads only headers: the bytes were verified when they were stored.
"""

from __future__ import annotations

from hotswap.registry.bundles.bundle import refuse_pickle
from hotswap.registry.bundles.header import MAX_JSON_BYTES, parse_object, parse_tensor_shapes
from hotswap.registry.bundles.peft_config import CONFIG_FILE, WEIGHTS_FILE, read_lora_shape
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import BlobNotFound, InvalidManifest
from hotswap.registry.domain.manifest import MAX_FILES, LoraShape, Manifest
from hotswap.registry.storage.blobs import BlobStore
from hotswap.registry.tasks import Tasks

HEADER_BYTES = 64 << 10  # what one request reads: most headers are smaller


def verify_manifest(manifest: Manifest, blobs: BlobStore, tasks: Tasks) -> None:
    """Raises BlobNotFound for a file that is not stored, InvalidManifest where the manifest and
    the stored bytes disagree, InvalidBundle when the bytes are no LoRA adapter."""
    if len(manifest.files) > MAX_FILES:
        raise InvalidManifest(f"{len(manifest.files)} files; at most {MAX_FILES} are allowed")
    for descriptor in manifest.files:
        refuse_pickle(descriptor.file_name)
    with tasks.together() as start:
        for descriptor in manifest.files:
            start(_verify_stored, descriptor, blobs)
        start(_verify_shape, manifest, blobs)  # last: a missing file is the first error


def _verify_stored(descriptor: Descriptor, blobs: BlobStore) -> None:
    stat = blobs.stat(descriptor.digest)
    if stat is None:
        raise BlobNotFound(
            f"the manifest's file {descriptor.file_name} ({descriptor.digest}) is not stored; "
            "upload it before the manifest"
        )
    if not blobs.settle(descriptor.digest):
        raise BlobNotFound(
            f"what is stored under {descriptor.digest} ({descriptor.file_name}) are other bytes; "
            "upload it again"
        )
    if stat.size_bytes != descriptor.size_bytes:
        raise InvalidManifest(
            f"the manifest says {descriptor.file_name} has {descriptor.size_bytes} bytes, "
            f"but {stat.size_bytes} are stored under {descriptor.digest}"
        )


def _stored_shape(manifest: Manifest, blobs: BlobStore) -> LoraShape:
    config_file, weights_file = manifest.file(CONFIG_FILE), manifest.file(WEIGHTS_FILE)
    if config_file.size_bytes > MAX_JSON_BYTES:
        raise InvalidManifest(
            f"{CONFIG_FILE} has {config_file.size_bytes} bytes; at most {MAX_JSON_BYTES}"
        )
    config = parse_object(b"".join(blobs.open(config_file.digest)), CONFIG_FILE)
    header = _Header(blobs, weights_file.digest)
    shapes = parse_tensor_shapes(header.read, weights_file.size_bytes, WEIGHTS_FILE)
    return read_lora_shape(config, shapes)


def _verify_shape(manifest: Manifest, blobs: BlobStore) -> None:
    """The reasons for `not_servable` may be worded otherwise; that there is one may not."""
    stated, stored = manifest.lora, _stored_shape(manifest, blobs)
    for field in LoraShape.model_fields:
        said, actual = getattr(stated, field), getattr(stored, field)
        if field == "not_servable":
            if actual and not said:
                raise InvalidManifest(f"the manifest says the adapter is servable, but {actual[0]}")
        elif said != actual:
            raise InvalidManifest(
                f"the manifest says lora.{field} is {str(said)[:200]}, but the stored "
                f"{CONFIG_FILE} and {WEIGHTS_FILE} say {str(actual)[:200]}"
            )


class _Header:
    """Reads the beginning of a blob like a file, HEADER_BYTES or more at a time."""

    def __init__(self, blobs: BlobStore, digest: Digest) -> None:
        self._blobs = blobs
        self._digest = digest
        self._num_read = 0
        self._buffer = b""

    def read(self, num_bytes: int) -> bytes:
        if (missing := num_bytes - len(self._buffer)) > 0:
            wanted = max(missing, HEADER_BYTES)
            more = self._blobs.read(self._digest, self._num_read, wanted)
            self._num_read += len(more)
            self._buffer += more
        data, self._buffer = self._buffer[:num_bytes], self._buffer[num_bytes:]
        return data
