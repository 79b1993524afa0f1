"""What is different between S3 servers, and that the store knows it and makes up for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import BlobCorrupted, StoreUnsuitable
from hotswap.registry.domain.layout import blob_key
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.settings import RegistrySettings
from hotswap.registry.storage import open_store
from hotswap.registry.storage.blobs import BlobStore
from hotswap.registry.storage.objects import ObjectStore, probe
from hotswap.registry.storage.s3 import S3Store
from hotswap.registry.storage.s3_client import S3Options
from tests import s3rver
from tests.contracts.conftest import BUCKET, ON_RADOSGW, store_at
from tests.refusals import refused

MEASURED = {
    "local": Capabilities(create_once_multipart=True, enforces_checksums=True),
    "seaweedfs": Capabilities(create_once_multipart=True, enforces_checksums=True),
    "radosgw": Capabilities(create_once_multipart=False, enforces_checksums=False),
}


@pytest.fixture
def overwriting_store(
    tmp_path: Path, s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """A store in s3rver, which answers 200 to every conditional write."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3rver.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3rver.SECRET_KEY)
    with s3rver.s3rver(tmp_path, BUCKET) as url:
        store = open_store(f"s3://{BUCKET}/x", RegistrySettings(s3_endpoint=url))
        yield store
        store.close()


def test_server_that_overwrites_is_refused_with_the_reason(overwriting_store: ObjectStore) -> None:
    with refused(StoreUnsuitable):
        probe(overwriting_store)
    assert list(overwriting_store.list("")) == []


@pytest.mark.parametrize("kind", ["local", "seaweedfs", ON_RADOSGW])
def test_probe_measures_what_the_server_does(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with store_at(kind, request, tmp_path) as store:
        assert probe(store) == MEASURED[kind]


@pytest.mark.parametrize("mode", ["when_required", "when_supported"])
@pytest.mark.parametrize("kind", ["seaweedfs", ON_RADOSGW])
def test_every_checksum_mode_of_boto3_works(
    kind: str, mode: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with store_at(kind, request, tmp_path, s3_checksums=mode) as store:
        store.put("blobs/x", [b"bytes"])
        assert b"".join(store.open("blobs/x")) == b"bytes"


def options_for(endpoint: str) -> S3Options:
    return S3Options(
        region="us-east-1",
        endpoint=endpoint,
        public_endpoint=None,
        checksums="when_required",
        multipart_bytes=32 << 20,
        part_bytes=16 << 20,
        presign_expiry_s=900,
    )


class Flipping(S3Store):
    """Sends other bytes than it was given once, as a bad wire would."""

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        super().put(key, [b"".join(chunks).replace(b"good", b"gOod")])


@pytest.mark.radosgw
def test_bytes_that_changed_on_the_way_are_found_where_the_server_does_not_look(
    radosgw_url: str, request: pytest.FixtureRequest
) -> None:
    store = Flipping(BUCKET, request.node.name, options_for(radosgw_url))
    descriptor = Descriptor(
        digest=Digest.of(b"good bytes"), size_bytes=10, media_type="x", file_name="x"
    )
    blobs = BlobStore(store, probe(store))
    with refused(BlobCorrupted, "expected"):
        blobs.put(descriptor, [b"good bytes"])
    assert not blobs.settle(descriptor.digest)
    S3Store.put(store, blob_key(descriptor.digest), [b"good bytes"])
    assert blobs.settle(descriptor.digest)
    assert list(store.list("unverified/")) == []
    store.close()


def test_registry_says_what_its_store_can_do(registry: AdapterRegistry) -> None:
    assert registry.blobs.capabilities == MEASURED["local"]
    assert registry.versions.verify().store == registry.blobs.capabilities
