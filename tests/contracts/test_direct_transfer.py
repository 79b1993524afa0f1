"""Bytes that go between client and store alone: bound, verified, and not through the registry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from hotswap.registry.bundles.peft_config import WEIGHTS_FILE
from hotswap.registry.bundles.transfer import pull, push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    BlobCorrupted,
    BlobNotFound,
    DigestMismatch,
    InvalidRequest,
    InvalidSettings,
    UploadInterrupted,
)
from hotswap.registry.domain.layout import blob_key, unverified_prefix
from hotswap.registry.domain.requests import PushRequest
from hotswap.registry.domain.uploads import SentPart, SignedRequest, UploadOffer
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.http.direct import send_directly
from hotswap.registry.registry import Registry
from hotswap.registry.settings import RegistrySettings, read_section
from hotswap.registry.storage.blobs import BlobStore
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.upkeep.sweep import Sweep
from tests.contracts.conftest import ON_RADOSGW, store_at
from tests.refusals import refused
from tests.registry.bundles import file_bytes, read_bundle
from tests.servers import serving_app

ROOT = Path(__file__).parent.parent.parent
MEGABYTE = 1 << 20
SIZES = {"s3_multipart_bytes": 10 * MEGABYTE, "s3_part_bytes": 5 * MEGABYTE}
BOTH = pytest.mark.parametrize("world", ["seaweedfs", ON_RADOSGW], indirect=True)
SEAWEEDFS = pytest.mark.parametrize("world", ["seaweedfs"], indirect=True)
RADOSGW = pytest.mark.parametrize("world", [ON_RADOSGW], indirect=True)


class Counting(httpx.HTTPTransport):
    """Counts the requests to the registry by method and kind of route."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        route = "/".join(request.url.path.split("/")[:3])
        self.requests[f"{request.method} {route} {response.status_code}"] += 1
        return response


@dataclass
class World:
    store: ObjectStore
    registry: Registry
    client: RegistryClient
    transport: Counting
    directory: Path

    def file(self, num_bytes: int) -> tuple[Descriptor, Path]:
        data = os.urandom(num_bytes)
        path = self.directory / Digest.of(data).short
        path.write_bytes(data)
        descriptor = Descriptor(
            digest=Digest.of(data), size_bytes=num_bytes, media_type="x", file_name="f"
        )
        return descriptor, path

    def put_offer(self, descriptor: Descriptor) -> SignedRequest:
        offer = self.client.blobs.offer(descriptor)
        assert offer is not None
        assert offer.put is not None
        return offer.put

    def is_marked(self, descriptor: Descriptor) -> bool:
        return bool(list(self.store.list(unverified_prefix(descriptor.digest))))


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    with store_at(request.param, request, tmp_path, **SIZES) as store:
        registry = Registry.open(store, catalog)
        transport = Counting()
        with serving_app(assemble([registry_plane(registry)])) as url:
            with RegistryClient(url, transport) as client:
                yield World(store, registry, client, transport, tmp_path)
        registry.close()


@BOTH
@pytest.mark.parametrize("num_bytes", [2 * MEGABYTE, 12 * MEGABYTE + 7], ids=["one", "parts"])
def test_file_goes_to_the_store_and_back_without_passing_the_registry(
    world: World, num_bytes: int
) -> None:
    descriptor, path = world.file(num_bytes)
    world.client.blobs.send([(descriptor, path)])
    assert world.client.blobs.has(descriptor.digest)
    assert b"".join(world.client.blobs.open(descriptor.digest)) == path.read_bytes()
    requests = world.transport.requests
    assert not [name for name in requests if name.startswith("PUT")]
    assert requests["GET /v1/blobs 307"] == 1
    assert requests["GET /v1/blobs 200"] == 0
    assert not world.is_marked(descriptor)


@BOTH
def test_push_and_pull_over_http_move_the_weights_past_the_registry(world: World) -> None:
    bundle, manifest = read_bundle(world.directory / "a", size=400_000)
    version = push(world.client, "team/sql", bundle, manifest, by="ann")
    pull(world.client, version.ref, world.directory / "pulled")
    assert file_bytes(world.directory / "pulled") == file_bytes(world.directory / "a")
    requests = world.transport.requests
    assert requests["PUT /v1/blobs 201"] == len(manifest.files) - 1
    assert requests["GET /v1/blobs 307"] == 1
    assert world.registry.versions.verify().damage == ()


@SEAWEEDFS
def test_second_push_asks_once_for_each_file_and_sends_none(world: World) -> None:
    bundle, manifest = read_bundle(world.directory / "a", size=400_000)
    for _ in range(2):
        world.transport.requests.clear()
        push(world.client, "team/sql", bundle, manifest, by="ann")
    num_files = len(manifest.files)
    assert world.transport.requests == {
        "POST /v1/uploads 200": num_files,
        "POST /v1/adapters 201": 1,
    }


@RADOSGW
def test_commit_hashes_what_was_sent_past_the_registry_and_refuses_other_bytes(
    world: World,
) -> None:
    bundle, manifest = read_bundle(world.directory / "a", size=100_000)
    weights = manifest.file(WEIGHTS_FILE)
    for file in manifest.files:
        if file != weights:
            world.client.blobs.send([(file, bundle.path(file))])
    signed = world.put_offer(weights)
    data = bundle.path(weights).read_bytes()
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    assert httpx.put(signed.url, content=wrong, headers=signed.headers).is_success
    with refused(BlobNotFound, weights.digest):
        world.client.versions.commit(PushRequest("team/sql", manifest, by="eve"))
    with pytest.raises(AdapterNotFound):
        world.client.adapters.versions("team/sql")
    push(world.client, "team/sql", bundle, manifest, by="ann")
    assert world.registry.versions.verify().damage == ()


@pytest.mark.parametrize("kind", ["seaweedfs", ON_RADOSGW])
def test_requests_signed_in_the_other_checksum_mode_are_accepted_too(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = os.urandom(MEGABYTE)
    with store_at(kind, request, tmp_path, s3_checksums="when_supported") as store:
        assert store.direct is not None
        signed = store.direct.sign_put("blobs/x", len(data), Digest.of(data))
        assert httpx.put(signed.url, content=data, headers=signed.headers).status_code == 200
        assert httpx.get(store.direct.sign_get("blobs/x")).content == data


@pytest.mark.parametrize("kind", ["seaweedfs", ON_RADOSGW])
def test_urls_are_signed_for_the_address_that_clients_use(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    inside = httpx.URL(request.getfixturevalue(f"{kind}_url"))
    public = str(inside.copy_with(host="localhost"))
    with store_at(kind, request, tmp_path, s3_public_endpoint=public) as store:
        assert store.direct is not None
        signed = store.direct.sign_put("blobs/x", 5, Digest.of(b"bytes"))
        assert httpx.URL(signed.url).host == "localhost"
        assert httpx.put(signed.url, content=b"bytes", headers=signed.headers).is_success
        assert b"".join(store.open("blobs/x")) == b"bytes"


def test_expiry_is_bounded_and_zero_signs_nothing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with store_at("seaweedfs", request, tmp_path, s3_presign_expiry_s=0) as store:
        assert store.direct is None
    with refused(InvalidSettings, "s3_presign_expiry_s"):
        read_section("registry", RegistrySettings, {"s3_presign_expiry_s": 3601}, {})


@pytest.mark.parametrize("world", ["local"], indirect=True)
def test_directory_store_gets_every_byte_through_the_registry(world: World) -> None:
    descriptor, path = world.file(2 * MEGABYTE)
    assert world.client.blobs.offer(descriptor) is None
    assert world.client.blobs.send([(descriptor, path)]) is None
    assert world.client.blobs.url(descriptor.digest) is None
    assert b"".join(world.client.blobs.open(descriptor.digest)) == path.read_bytes()
    assert world.transport.requests["PUT /v1/blobs 201"] == 1


_SERVER = """
import sys, tracemalloc
from pathlib import Path
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.digests import Descriptor, Digest, Hasher
from hotswap.registry.registry import Registry
from hotswap.registry.settings import RegistrySettings
from hotswap.registry.storage import open_store
from tests.servers import serving_app

location, endpoint, directory, num_megabytes = sys.argv[1:]

def chunks():
    for i in range(int(num_megabytes)):
        yield bytes([i % 256]) * (1 << 20)

hasher = Hasher()
for chunk in chunks():
    hasher.update(chunk)
blob = Descriptor(
    digest=hasher.digest, size_bytes=hasher.size_bytes, media_type="x", file_name="f"
)
store = open_store(location, RegistrySettings(s3_endpoint=endpoint or None, s3_presign_expiry_s=0))
registry = Registry.open(store, Catalog(f"sqlite:///{directory}/catalog.sqlite"))
with serving_app(assemble([registry_plane(registry)])) as url, RegistryClient(url) as client:
    tracemalloc.start()
    client.blobs.put(blob, chunks())
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.reset_peak()
    assert sum(map(len, client.blobs.open(blob.digest))) == blob.size_bytes
    print(tracemalloc.get_traced_memory()[1])
registry.close()
"""


@pytest.mark.parametrize("kind", ["local", "seaweedfs"])
def test_200_mb_through_the_registry_never_sit_in_its_memory(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with store_at(kind, request, tmp_path) as store:
        location = store.location.partition(" at ")[0]
    endpoint = "" if kind == "local" else request.getfixturevalue("seaweedfs_url")
    ran = subprocess.run(
        [sys.executable, "-c", _SERVER, location, endpoint, str(tmp_path), "200"],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    put, read = map(int, ran.stdout.split())
    assert put < 80 * MEGABYTE
    assert read < 24 * MEGABYTE


@SEAWEEDFS
def test_small_file_passes_through_the_registry(world: World) -> None:
    descriptor, path = world.file(MEGABYTE - 1)
    world.client.blobs.send([(descriptor, path)])
    assert world.transport.requests["PUT /v1/blobs 201"] == 1
    assert world.client.blobs.url(descriptor.digest) is None


@SEAWEEDFS
def test_wrong_body_length_or_second_write_is_refused_by_the_store(world: World) -> None:
    descriptor, path = world.file(2 * MEGABYTE)
    signed, data = world.put_offer(descriptor), path.read_bytes()
    longer = {**signed.headers, "content-length": str(len(data) + 1)}
    unconditional = {k: v for k, v in signed.headers.items() if k != "if-none-match"}
    assert httpx.put(signed.url, content=data[::-1], headers=signed.headers).status_code == 400
    assert httpx.put(signed.url, content=data + b"x", headers=longer).status_code == 403
    assert httpx.put(signed.url, content=data, headers=unconditional).status_code == 403
    assert world.store.stat(blob_key(descriptor.digest)) is None
    assert httpx.put(signed.url, content=data, headers=signed.headers).status_code == 200
    assert httpx.put(signed.url, content=data, headers=signed.headers).status_code == 412


@RADOSGW
def test_wrong_body_that_the_store_took_is_found_by_hashing_and_can_be_replaced(
    world: World,
) -> None:
    descriptor, path = world.file(2 * MEGABYTE)
    signed, data = world.put_offer(descriptor), path.read_bytes()
    longer = {**signed.headers, "content-length": str(len(data) + 1)}
    assert httpx.put(signed.url, content=data + b"x", headers=longer).status_code == 403
    assert httpx.put(signed.url, content=data[::-1], headers=signed.headers).status_code == 200
    assert httpx.put(signed.url, content=data, headers=signed.headers).status_code == 412
    assert not world.client.blobs.has(descriptor.digest)
    with pytest.raises(BlobCorrupted):
        b"".join(world.client.blobs.open(descriptor.digest))
    assert world.client.blobs.offer(descriptor) is None
    world.client.blobs.send([(descriptor, path)])
    assert world.client.blobs.has(descriptor.digest)
    assert not world.is_marked(descriptor)


@SEAWEEDFS
def test_part_of_other_bytes_or_length_is_refused_by_the_store(world: World) -> None:
    descriptor, path = world.file(12 * MEGABYTE)
    parts = split(path)
    offer = world.client.blobs.offer(descriptor, [Digest.of(part) for part in parts])
    assert offer is not None
    signed = offer.parts[2]
    longer = {**signed.headers, "content-length": str(len(parts[2]) + 1)}
    assert httpx.put(signed.url, content=parts[2][::-1], headers=signed.headers).is_error
    assert httpx.put(signed.url, content=parts[2] + b"x", headers=longer).is_error
    assert httpx.put(signed.url, content=parts[2], headers=signed.headers).is_success


def split(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[i : i + 5 * MEGABYTE] for i in range(0, len(data), 5 * MEGABYTE)]


@SEAWEEDFS
def test_parts_that_are_not_the_blob_together_are_never_relied_on(world: World) -> None:
    descriptor, path = world.file(12 * MEGABYTE)
    _, other = world.file(12 * MEGABYTE)
    digests = [Digest.of(part) for part in split(other)]
    offer = world.client.blobs.offer(descriptor, digests)
    assert offer is not None
    sent = [
        SentPart(
            etag=httpx.put(signed.url, content=part, headers=signed.headers).headers["etag"],
            digest=digest,
        )
        for signed, part, digest in zip(offer.parts, split(other), digests, strict=True)
    ]
    with refused(DigestMismatch, descriptor.digest):
        world.client.blobs.finish(descriptor, sent)
    assert not world.client.blobs.has(descriptor.digest)
    world.client.blobs.send([(descriptor, path)])
    assert world.client.blobs.has(descriptor.digest)
    assert b"".join(world.client.blobs.open(descriptor.digest)) == path.read_bytes()


@SEAWEEDFS
def test_completed_parts_of_a_registry_that_crashed_before_hashing_are_hashed_by_the_next_look(
    world: World,
) -> None:
    descriptor, path = world.file(12 * MEGABYTE)
    sent = send_parts(world, descriptor, path, 3)
    BlobStore(world.store, world.registry.blobs.capabilities).mark(descriptor.digest)
    direct = world.store.direct
    assert direct is not None
    direct.complete(blob_key(descriptor.digest), sent)
    assert world.is_marked(descriptor)
    assert world.client.blobs.has(descriptor.digest)
    assert not world.is_marked(descriptor)


def send_parts(world: World, descriptor: Descriptor, path: Path, num_parts: int) -> list[SentPart]:
    parts = split(path)
    digests = [Digest.of(part) for part in parts]
    offer = world.client.blobs.offer(descriptor, digests)
    assert offer is not None
    return [
        SentPart(
            etag=httpx.put(signed.url, content=part, headers=signed.headers).headers["etag"],
            digest=digest,
        )
        for signed, part, digest in list(zip(offer.parts, parts, digests, strict=True))[:num_parts]
    ]


@SEAWEEDFS
def test_interrupted_parts_are_not_sent_again(world: World) -> None:
    descriptor, path = world.file(20 * MEGABYTE)
    send_parts(world, descriptor, path, 3)
    offers: list[UploadOffer] = []

    def offer(*arguments: object) -> UploadOffer | None:
        found = world.client.blobs.offer(*arguments)  # type: ignore[arg-type]
        if found is not None and found.parts:
            # Whatever would send parts 2 and 3 again fails.
            parts = [p.model_copy(update={"url": "http://127.0.0.1:1"}) for p in found.parts[1:3]]
            found = found.model_copy(update={"parts": (found.parts[0], *parts, found.parts[3])})
            offers.append(found)
        return found

    assert send_directly(offer, world.client.blobs.finish, descriptor, path)
    assert [part.stored_etag is not None for part in offers[0].parts] == [True, True, True, False]
    assert world.client.blobs.has(descriptor.digest)
    assert world.transport.requests["PUT /v1/blobs 201"] == 0


@SEAWEEDFS
def test_two_uploads_of_the_same_parts_leave_one_blob(world: World) -> None:
    descriptor, path = world.file(12 * MEGABYTE)
    sent = send_parts(world, descriptor, path, 3)
    world.client.blobs.finish(descriptor, sent)
    with pytest.raises(UploadInterrupted):
        world.client.blobs.finish(descriptor, sent)
    assert b"".join(world.client.blobs.open(descriptor.digest)) == path.read_bytes()
    assert list(world.store.unfinished()) == []


@SEAWEEDFS
def test_number_of_parts_that_does_not_fit_the_size_is_refused(world: World) -> None:
    descriptor, _ = world.file(12 * MEGABYTE)
    with refused(InvalidRequest, "3", "5242880", "1"):
        world.client.blobs.offer(descriptor, [descriptor.digest])


@BOTH
def test_store_that_the_client_cannot_reach_is_no_obstacle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.store.direct is not None
    kind = type(world.store.direct)
    sign = kind.sign

    def sign_elsewhere(self: object, *arguments: object) -> str:
        url = httpx.URL(sign(self, *arguments))  # type: ignore[arg-type]
        return str(url.copy_with(port=1))

    monkeypatch.setattr(kind, "sign", sign_elsewhere)
    descriptor, path = world.file(2 * MEGABYTE)
    world.client.blobs.send([(descriptor, path)])
    assert b"".join(world.client.blobs.open(descriptor.digest)) == path.read_bytes()
    assert world.transport.requests["PUT /v1/blobs 201"] == 1
    assert world.transport.requests["GET /v1/blobs 200"] == 1


@SEAWEEDFS
def test_file_that_changed_since_it_was_hashed_is_refused(world: World) -> None:
    descriptor, path = world.file(2 * MEGABYTE)
    path.write_bytes(os.urandom(2 * MEGABYTE))
    with pytest.raises(DigestMismatch):
        world.client.blobs.send([(descriptor, path)])
    assert not world.client.blobs.has(descriptor.digest)


@BOTH
def test_url_of_a_missing_blob_is_not_found(world: World) -> None:
    with pytest.raises(BlobNotFound):
        world.client.blobs.url(Digest.of(b"never stored"))


@RADOSGW
def test_mark_of_an_upload_that_never_came_is_swept(world: World) -> None:
    descriptor, _ = world.file(2 * MEGABYTE)
    world.put_offer(descriptor)
    (mark,) = world.store.list(unverified_prefix(descriptor.digest))
    stat = world.store.stat(mark)
    assert stat is not None
    grace = timedelta(hours=1)
    for late, is_kept in ((grace / 2, True), (grace * 2, False)):
        at = stat.modified_at + late
        Sweep(world.store, grace=grace, now=lambda at=at: at).run(delete=True)  # type: ignore[misc]
        assert world.is_marked(descriptor) is is_kept
