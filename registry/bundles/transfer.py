"""Push and pull: whole adapters between a directory and any registry."""

from __future__ import annotations

from pathlib import Path

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, check_alias, check_name
from hotswap.registry.domain.digests import Descriptor
from hotswap.registry.domain.errors import (
    BlobCorrupted,
    BlobNotFound,
    InvalidBundle,
    InvalidRequest,
    SweepInProgress,
    UploadInterrupted,
)
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.policy import MovePlan
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import PushRequest
from hotswap.registry.durable import is_free, new_directory
from hotswap.registry.retries import retried
from hotswap.registry.storage.blobs import read_chunks

# How long a push waits before it looks again when a sweep was deleting what it needs.
PAUSES_S = (0.1, 0.5, 2.0, 5.0)


def push(
    registry: AdapterRegistry,
    name: str,
    bundle: Bundle,
    manifest: Manifest,
    *,
    by: str,
    alias: str | None = None,
    why: str = "",
    allow_no_effect: bool = False,
    repair: bool = False,
) -> AdapterVersion:
    """Upload the blobs that are missing, then make the manifest a version.

    With `repair` every blob is uploaded, also in place of one that is stored but damaged. When a
    sweep deletes an old blob between the look and the commit, or someone else ends the same
    upload, both are repeated.

    Raises InvalidBundle when the adapter has no effect and that is not allowed, DigestMismatch
    when a file changed since the bundle was read, and what Versions.commit raises.
    """
    _check_push(name, bundle, alias, allow_no_effect)
    request = PushRequest(name, manifest, by=by, alias=alias, why=why)
    files = [(each, bundle.path(each)) for each in manifest.files]

    def attempt() -> AdapterVersion:
        if repair:
            for descriptor, path in files:
                registry.blobs.put(descriptor, read_chunks(path))
        else:
            registry.blobs.send(files)
        return registry.versions.commit(request)

    return retried(attempt, (BlobNotFound, SweepInProgress, UploadInterrupted), PAUSES_S)


def plan_push(
    registry: AdapterRegistry,
    name: str,
    bundle: Bundle,
    manifest: Manifest,
    *,
    by: str,
    alias: str,
    why: str = "",
    allow_no_effect: bool = False,
) -> MovePlan:
    """What `push` would do to the alias. Uploads and writes nothing; raises as `push`."""
    _check_push(name, bundle, alias, allow_no_effect)
    return registry.versions.plan(PushRequest(name, manifest, by=by, alias=alias, why=why))


def _check_push(name: str, bundle: Bundle, alias: str | None, allow_no_effect: bool) -> None:
    check_name(name)
    if alias is not None:
        check_alias(alias)
    if not bundle.has_effect and not allow_no_effect:
        raise InvalidBundle(
            f"{bundle.directory} has no effect: B·A is zero in every module, so it answers like the"
            " base; was it trained? Allow it with --allow-no-effect"
        )


def pull(registry: AdapterRegistry, ref: AdapterRef, directory: Path) -> AdapterVersion:
    """Write the files of the version `ref` means now; the directory appears only when complete.

    Raises InvalidRequest when the directory exists and is not empty.
    """
    if not is_free(directory):
        raise _not_free(directory)
    version = registry.versions.resolve(ref)
    fetch_files(registry, registry.versions.manifest(version.manifest_digest), directory)
    return version


def fetch_files(
    registry: AdapterRegistry, manifest: Manifest, directory: Path, *, synced: bool = True
) -> None:
    """Make `directory` with the manifest's files, every one verified and on disk; without `synced`
    a crash of the machine may lose what they hold.

    A reader sees all of them or nothing. Raises BlobNotFound, BlobCorrupted, or InvalidRequest
    when the directory is not free.
    """
    try:
        with new_directory(directory, synced=synced) as part:
            for descriptor in manifest.files:
                fetch_file(registry, descriptor, part / descriptor.file_name)
    except FileExistsError:
        raise _not_free(directory) from None


def fetch_file(registry: AdapterRegistry, descriptor: Descriptor, path: Path) -> None:
    """Write one new file, verified; raises BlobNotFound or BlobCorrupted."""
    size_bytes = 0
    with path.open("xb") as file:
        for chunk in registry.blobs.open(descriptor.digest):
            size_bytes += len(chunk)
            if size_bytes > descriptor.size_bytes:
                break
            file.write(chunk)
    if size_bytes != descriptor.size_bytes:
        raise BlobCorrupted(
            f"{descriptor.file_name}: the manifest says {descriptor.size_bytes} bytes, "
            f"the blob {descriptor.digest} has another size"
        )


def _not_free(directory: Path) -> InvalidRequest:
    return InvalidRequest(f"{directory} exists and is not empty; give a new directory")
