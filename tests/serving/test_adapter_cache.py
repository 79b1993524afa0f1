"""From the registry to host memory: once per digest, verified, and without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.digests import Digest
from registry.errors import BlobCorrupted, BlobNotFound
from registry.manifest import Manifest
from registry.registry import Registry
from serving.adapter_cache import AdapterCache
from tests.registry.bundles import make_bundle
from tests.serving.conftest import push_adapter

TIMEOUT_S = 30
Cache = AdapterCache[bytes]


class Reads:
    """Reads an adapter's weights file, counting how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, directory: Path, manifest: Manifest) -> bytes:
        self.count += 1
        return (directory / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def open_cache(registry: Registry, reads: Reads, tmp_path: Path) -> Iterator[Callable[..., Cache]]:
    with ExitStack() as stack:

        def open_one(max_cpu_loras: int = 8, max_bytes: float = 1e9) -> Cache:
            root = tmp_path / "cache"
            cache: Cache = AdapterCache(
                registry, root, reads, max_cpu_loras=max_cpu_loras, max_bytes=max_bytes, size_of=len
            )
            stack.callback(cache.close)
            return cache

        yield open_one


def wait_for(cache: Cache, digest: Digest) -> bytes:
    """Ask, wait for the arrival, ask again."""
    arrived = threading.Event()
    cache.on_arrival = arrived.set
    found = cache.get(digest)
    if found is None:
        assert arrived.wait(TIMEOUT_S)
        found = cache.get(digest)
    assert found is not None
    return found


@pytest.fixture
def pushed(registry: Registry, tmp_path: Path) -> tuple[Digest, bytes]:
    directory = make_bundle(tmp_path / "adapter")
    digest = push_adapter(registry, "team/a", directory).manifest_digest
    return digest, (directory / "adapter_model.safetensors").read_bytes()


def test_an_adapter_arrives_with_the_bytes_that_were_pushed(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes]
) -> None:
    digest, data = pushed
    assert wait_for(open_cache(), digest) == data


def test_many_asking_at_once_fetch_once(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes], reads: Reads
) -> None:
    cache = open_cache()
    for _ in range(20):
        cache.prefetch(pushed[0])
    wait_for(cache, pushed[0])
    assert reads.count == 1


def test_an_adapter_on_disk_is_found_after_a_restart_without_the_store(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes], tmp_path: Path
) -> None:
    wait_for(open_cache(), pushed[0])
    for blob in (tmp_path / "store" / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    assert wait_for(open_cache(), pushed[0]) == pushed[1]


def test_an_adapter_damaged_on_disk_is_fetched_again(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes], tmp_path: Path
) -> None:
    wait_for(open_cache(), pushed[0])
    cached = tmp_path / "cache" / pushed[0].hex / "adapter_model.safetensors"
    cached.write_bytes(b"damaged" + cached.read_bytes()[7:])
    assert wait_for(open_cache(), pushed[0]) == pushed[1]


def test_bytes_damaged_in_the_store_are_never_handed_on(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes], tmp_path: Path
) -> None:
    digest = Digest.of(pushed[1])
    (blob,) = (tmp_path / "store" / "blobs").rglob(digest.hex)
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(pushed[1])))
    with pytest.raises(BlobCorrupted):
        wait_for(open_cache(), pushed[0])
    assert not (tmp_path / "cache" / pushed[0].hex).exists()


def test_a_failed_fetch_is_reported_once_and_then_tried_again(
    open_cache: Callable[..., Cache],
) -> None:
    cache = open_cache()
    for _ in range(2):
        with pytest.raises(BlobNotFound):
            wait_for(cache, Digest.of(b"nothing"))


def test_memory_holds_no_more_adapters_than_it_may(
    open_cache: Callable[..., Cache], registry: Registry, reads: Reads, tmp_path: Path
) -> None:
    cache = open_cache(max_cpu_loras=2)
    digests = [
        push_adapter(registry, f"team/{i}", make_bundle(tmp_path / f"b{i}", i)).manifest_digest
        for i in range(3)
    ]
    for digest in digests:
        wait_for(cache, digest)
    wait_for(cache, digests[2])
    assert reads.count == 3
    wait_for(cache, digests[0])  # the one unused for longest had to go
    assert reads.count == 4


def test_memory_holds_no_more_bytes_than_it_may(
    open_cache: Callable[..., Cache], registry: Registry, reads: Reads, tmp_path: Path
) -> None:
    digests = [
        push_adapter(registry, f"team/{i}", make_bundle(tmp_path / f"b{i}", i)).manifest_digest
        for i in range(3)
    ]
    size = len((tmp_path / "b0" / "adapter_model.safetensors").read_bytes())
    cache = open_cache(max_bytes=2.5 * size)
    for digest in digests:
        wait_for(cache, digest)
    assert (cache.held(), cache.num_bytes) == ({*digests[1:]}, 2 * size)


def test_an_adapter_above_the_bound_is_held_alone(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes]
) -> None:
    cache = open_cache(max_bytes=1)
    assert wait_for(cache, pushed[0]) == pushed[1]
    assert cache.held() == {pushed[0]}
