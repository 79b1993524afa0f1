"""From the registry to host memory: once per digest, verified, and without waiting."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobCorrupted, BlobNotFound
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.registry import Registry
from hotswap.serving.adapters import cache as adapter_cache
from hotswap.serving.adapters.cache import AdapterCache
from tests.registry.bundles import lora_shapes, make_bundle, safetensors_bytes
from tests.serving.conftest import push_adapter

TIMEOUT_S = 30
Cache = AdapterCache[bytes]
Push = Callable[[int], list[Digest]]
SIZE = len(safetensors_bytes(lora_shapes()))  # of each adapter here


class Reads:
    """Reads an adapter's weights file, noting which."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    def __call__(self, directory: Path, manifest: Manifest) -> bytes:
        self.digests.append(directory.name)
        return (directory / "adapter_model.safetensors").read_bytes()

    @property
    def count(self) -> int:
        return len(self.digests)


class Fetches:
    """In place of the threads: a fetch that was started ends when the test says so."""

    def __init__(self) -> None:
        self._begun: deque[tuple[Callable[[Digest], None], Digest]] = deque()

    def __call__(self, *_: object) -> Fetches:
        return self

    def submit(self, fetch: Callable[[Digest], None], adapter: Digest) -> None:
        self._begun.append((fetch, adapter))

    def shutdown(self, **_: object) -> None:
        self._begun.clear()

    @property
    def begun(self) -> list[Digest]:
        """What is on its way, the first first."""
        return [adapter for _, adapter in self._begun]

    def end(self, num: int = 1) -> None:
        """The oldest arrive, or fail."""
        for _ in range(num):
            fetch, adapter = self._begun.popleft()
            fetch(adapter)


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Fetches:
    """To be named before the cache is opened."""
    fetches = Fetches()
    monkeypatch.setattr(adapter_cache, "ThreadPoolExecutor", fetches)
    return fetches


@pytest.fixture
def open_cache(registry: Registry, reads: Reads, tmp_path: Path) -> Iterator[Callable[..., Cache]]:
    with ExitStack() as stack:

        def open_one(**bounds: Any) -> Cache:
            bounds = {"max_cpu_loras": 8, "max_bytes": 1e9, **bounds}
            cache: Cache = AdapterCache(registry, tmp_path / "cache", reads, size_of=len, **bounds)
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
def push_many(registry: Registry, tmp_path: Path) -> Push:
    """Pushes so many different adapters, all of SIZE bytes."""

    def push(num: int) -> list[Digest]:
        directories = [make_bundle(tmp_path / f"b{i}", i) for i in range(num)]
        return [
            push_adapter(registry, f"team/{i}", directory).manifest_digest
            for i, directory in enumerate(directories)
        ]

    return push


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
        cache.get(pushed[0])
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
    open_cache: Callable[..., Cache], push_many: Push, reads: Reads
) -> None:
    cache = open_cache(max_cpu_loras=2)
    digests = push_many(3)
    for digest in digests:
        wait_for(cache, digest)
    wait_for(cache, digests[2])
    assert reads.count == 3
    wait_for(cache, digests[0])  # the one unused for longest had to go
    assert reads.count == 4


def test_memory_holds_no_more_bytes_than_it_may(
    open_cache: Callable[..., Cache], push_many: Push
) -> None:
    digests = push_many(3)
    cache = open_cache(max_bytes=2.5 * SIZE)
    for digest in digests:
        wait_for(cache, digest)
    assert (cache.held(), cache.num_bytes) == ({*digests[1:]}, 2 * SIZE)


def test_an_adapter_above_the_bound_is_held_alone(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes]
) -> None:
    cache = open_cache(max_bytes=1)
    assert wait_for(cache, pushed[0]) == pushed[1]
    assert cache.held() == {pushed[0]}


def test_what_a_request_expects_stays_until_it_is_released(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, (first, second) = open_cache(max_cpu_loras=1), push_many(2)
    cache.expect(1, [first])
    fetches.end()
    cache.expect(2, [second])
    assert fetches.begun == []
    assert cache.get(first) is not None
    cache.release(1)
    assert fetches.begun == [second]
    assert cache.held() == {second}


def test_what_two_requests_expect_stays_until_both_have_released_it(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, (shared, other) = open_cache(max_cpu_loras=1), push_many(2)
    cache.expect(1, [shared])
    cache.expect(2, [shared])
    fetches.end()
    cache.expect(3, [other])
    for _ in range(2):  # the second time it expects nothing
        cache.release(1)
    assert fetches.begun == []
    cache.release(2)
    assert fetches.begun == [other]


def test_what_is_in_memory_and_becomes_expected_keeps_what_is_on_its_way_within_the_bound(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, digests = open_cache(max_cpu_loras=2), push_many(3)
    cache.get(digests[0])
    fetches.end()
    for request, digest in enumerate((digests[1], digests[2], digests[0])):
        cache.expect(request, [digest])
    fetches.end(len(fetches.begun))
    assert cache.num_bytes == 2 * SIZE


def test_fetches_begin_in_the_order_they_were_asked_for(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, digests = open_cache(max_cpu_loras=1), push_many(4)
    begun = []
    for request, digest in enumerate(digests):
        cache.expect(request, [digest])
    for request in range(4):
        begun += fetches.begun
        fetches.end()
        cache.release(request)
    assert begun == digests


def test_no_more_fetches_begin_than_there_are_threads(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, digests = open_cache(num_fetchers=2), push_many(3)
    for request, digest in enumerate(digests):
        cache.expect(request, [digest])
    assert fetches.begun == digests[:2]
    fetches.end()
    assert fetches.begun == digests[1:]


def test_what_is_on_its_way_counts_as_the_largest_so_far(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, digests = open_cache(max_bytes=2.5 * SIZE), push_many(4)
    cache.get(digests[0])
    fetches.end()
    for request, digest in enumerate(digests[1:]):
        cache.expect(request, [digest])
    assert fetches.begun == digests[1:3]
    fetches.end(2)
    assert fetches.begun == []
    assert cache.held() == {*digests[1:]}  # the last one in the line
    assert cache.num_bytes == 2 * SIZE


def test_a_request_that_ends_leaves_the_line_and_its_room_to_others(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, (first, second, third) = open_cache(max_cpu_loras=1), push_many(3)
    for request, digest in enumerate((first, second, third)):
        cache.expect(request, [digest])
    cache.release(1)
    cache.release(0)  # while its adapter is on its way: the room is free when that has arrived
    assert fetches.begun == [first]
    fetches.end()
    assert fetches.begun == [third]


def test_a_failed_fetch_makes_room_for_the_next(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes], fetches: Fetches
) -> None:
    cache, missing = open_cache(max_cpu_loras=1), Digest.of(b"nothing")
    cache.expect(1, [missing])
    cache.expect(2, [pushed[0]])
    fetches.end()
    assert fetches.begun == [pushed[0]]
    with pytest.raises(BlobNotFound):
        cache.get(missing)


def test_a_failure_that_nobody_has_heard_of_is_forgotten_with_its_request(
    open_cache: Callable[..., Cache], fetches: Fetches
) -> None:
    cache, missing = open_cache(), Digest.of(b"nothing")
    cache.expect(1, [missing])
    fetches.end()
    cache.release(1)
    assert cache.get(missing) is None


def test_adapters_of_one_request_come_though_they_do_not_fit_and_go_when_it_has_them(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, digests = open_cache(max_cpu_loras=2), push_many(4)
    cache.expect(1, digests[:3])
    cache.expect(2, digests[3:])
    fetches.end(3)
    assert fetches.begun == []
    assert None not in [cache.get(digest) for digest in digests[:3]]
    cache.release(1)
    fetches.end()
    assert cache.num_bytes == 2 * SIZE


def test_adapters_of_one_request_that_do_not_fit_wait_while_another_can_be_served(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, digests = open_cache(max_cpu_loras=2), push_many(3)
    cache.expect(1, digests[:1])
    cache.expect(2, digests)
    fetches.end(2)
    assert fetches.begun == []
    cache.release(1)
    assert fetches.begun == digests[2:]
    fetches.end()
    cache.release(2)
    assert cache.num_bytes == 2 * SIZE


def test_when_no_request_has_all_it_expects_the_oldest_comes_first(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, (shared, *lacking) = open_cache(max_cpu_loras=1), push_many(3)
    cache.expect(0, [shared])
    fetches.end()
    cache.get(lacking[1])  # is before the other in the line
    cache.expect(1, [shared, lacking[0]])
    cache.expect(2, [shared, lacking[1]])
    cache.release(0)
    assert fetches.begun == lacking[:1]


def test_a_fetch_that_is_tried_again_waits_for_room_even_for_the_oldest_request(
    open_cache: Callable[..., Cache], pushed: tuple[Digest, bytes], fetches: Fetches
) -> None:
    cache, missing = open_cache(max_cpu_loras=1), Digest.of(b"nothing")
    for request, digest in enumerate((missing, missing, pushed[0])):
        cache.expect(request, [digest])
    fetches.end(2)
    with pytest.raises(BlobNotFound):
        cache.get(missing)
    cache.release(0)
    assert cache.get(missing) is None
    assert fetches.begun == []
    cache.release(2)
    assert fetches.begun == [missing]


def test_an_adapter_above_the_bound_comes_while_a_request_that_expects_none_waits(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, (first, second) = open_cache(max_bytes=1), push_many(2)
    cache.get(first)
    fetches.end()
    cache.expect(1, [])
    cache.expect(2, [second])
    assert fetches.begun == [second]


def test_after_the_end_no_fetch_begins(
    open_cache: Callable[..., Cache], push_many: Push, fetches: Fetches
) -> None:
    cache, (first, second) = open_cache(max_cpu_loras=1), push_many(2)
    cache.expect(1, [first])
    cache.expect(2, [second])
    fetches.end()
    cache.close()
    cache.release(1)
    assert fetches.begun == []


@pytest.mark.parametrize(
    "bounds", [{"max_cpu_loras": 3}, {"max_bytes": 3.5 * SIZE}], ids=["count", "bytes"]
)
def test_three_times_the_adapters_that_fit_are_fetched_once_each_and_never_beyond_the_bound(
    open_cache: Callable[..., Cache],
    push_many: Push,
    reads: Reads,
    bounds: dict[str, float],
) -> None:
    """On the real threads. The newest that is here is taken first, when no more can arrive."""
    cache, num_fit = open_cache(**bounds), 3
    first, *digests = push_many(1 + 3 * num_fit)
    wait_for(cache, first)  # so that the size is known
    arrivals: queue.Queue[int] = queue.Queue()
    cache.on_arrival = lambda: arrivals.put(cache.num_bytes)
    for request, digest in enumerate(digests):
        cache.expect(request, [digest])
    waiting = dict(enumerate(digests))
    num_arrived = 0
    while waiting:
        while num_arrived < min(num_fit + len(digests) - len(waiting), len(digests)):
            assert arrivals.get(timeout=TIMEOUT_S) <= num_fit * SIZE
            num_arrived += 1
        taken = max(request for request in waiting if cache.get(waiting[request]) is not None)
        del waiting[taken]
        cache.release(taken)
    cache.close()
    assert arrivals.empty()
    assert sorted(reads.digests[1:]) == sorted(digest.hex for digest in digests)
