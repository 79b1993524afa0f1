"""Object stores: the contract, its drivers, and the choice between them."""

from __future__ import annotations

from pathlib import Path

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.settings import RegistrySettings
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.storage.objects import ObjectStore


def open_store(location: str, settings: RegistrySettings) -> ObjectStore:
    """The store at a directory or at `s3://bucket/prefix`; it has not been probed yet."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return LocalStore(Path(location).expanduser())
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise InvalidSettings(
            f"{location!r} is not a store; give a directory or s3://bucket/prefix"
        )
    # boto3 takes a third of a second to import; a directory does not need it.
    from hotswap.registry.storage.s3 import S3Store
    from hotswap.registry.storage.s3_client import S3Options

    options = S3Options(
        region=settings.s3_region,
        endpoint=settings.s3_endpoint,
        public_endpoint=settings.s3_public_endpoint,
        checksums=settings.s3_checksums,
        multipart_bytes=settings.s3_multipart_bytes,
        part_bytes=settings.s3_part_bytes,
        presign_expiry_s=settings.s3_presign_expiry_s,
    )
    return S3Store(bucket, prefix, options)
