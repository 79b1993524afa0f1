"""Large objects: sent in parts that survive a crash, with memory for a few parts only."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from hotswap.registry.domain.errors import StoreUnavailable, UploadInterrupted
from hotswap.registry.settings import RegistrySettings
from hotswap.registry.storage import open_store
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.storage.s3 import S3Store
from hotswap.registry.upkeep.sweep import Sweep
from tests.contracts.conftest import BUCKET, ON_RADOSGW, SEAWEEDFS, make_bucket, store_at
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.refusals import refused
from tests.servers import give_up, seaweedfs, weed_binary

MEGABYTE = 1 << 20
PART_BYTES = 5 * MEGABYTE
SIZES = {"s3_multipart_bytes": 2 * PART_BYTES, "s3_part_bytes": PART_BYTES}
NUM_PARTS = 6
KEY = "blobs/large"


def chunks(num_parts: int = NUM_PARTS, seed: int = 0) -> Iterator[bytes]:
    """Five chunks a part; every one differs from the others."""
    for i in range(num_parts * 5):
        yield bytes([(seed + i) % 256]) * MEGABYTE


def content(num_parts: int = NUM_PARTS, seed: int = 0) -> bytes:
    return b"".join(chunks(num_parts, seed))


@pytest.fixture(params=["seaweedfs", ON_RADOSGW])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    with store_at(request.param, request, tmp_path, **SIZES) as opened:
        yield opened


def counted(store: ObjectStore) -> Counter[str]:
    """Counts the requests that the store makes from now on, by operation."""
    assert isinstance(store, S3Store)
    found: Counter[str] = Counter()
    store.client.meta.events.register(
        "before-call.s3", lambda model, **_: found.update([model.name])
    )
    return found


def read(store: ObjectStore) -> bytes:
    return b"".join(store.open(KEY))


class Gone(Exception):
    pass


def interrupted(num_parts: int, seed: int = 0) -> Iterator[bytes]:
    yield from chunks(num_parts, seed)
    raise Gone


def test_object_of_the_threshold_is_sent_in_parts_and_a_smaller_one_is_not(
    store: ObjectStore,
) -> None:
    sent = counted(store)
    store.put(KEY, chunks(2))
    assert (sent["UploadPart"], sent["PutObject"]) == (2, 0)
    store.put("blobs/small", [content(2)[1:]])
    assert (sent["UploadPart"], sent["PutObject"]) == (2, 1)
    assert read(store) == content(2)


def test_interrupted_upload_goes_on_with_the_parts_that_are_stored(store: ObjectStore) -> None:
    with pytest.raises(Gone):
        store.put(KEY, interrupted(4))
    assert store.stat(KEY) is None
    sent = counted(store)
    store.put(KEY, chunks())
    # The first part is sent again to show that the upload is alive.
    assert sent["UploadPart"] == NUM_PARTS - 4 + 1
    assert sent["CreateMultipartUpload"] == 0
    assert read(store) == content()
    assert list(store.unfinished()) == []


def test_stored_parts_of_other_bytes_are_not_used(store: ObjectStore) -> None:
    with pytest.raises(Gone):
        store.put(KEY, interrupted(4, seed=100))
    sent = counted(store)
    store.put(KEY, chunks())
    assert sent["UploadPart"] == NUM_PARTS
    assert read(store) == content()


def test_upload_that_was_aborted_meanwhile_says_so_and_the_next_one_succeeds(
    store: ObjectStore,
) -> None:
    def aborted() -> Iterator[bytes]:
        yield from chunks(3)
        for unfinished in store.unfinished():
            store.discard(unfinished)
        yield from chunks(3)

    with refused(UploadInterrupted):
        store.put(KEY, aborted())
    assert store.stat(KEY) is None
    store.put(KEY, chunks())
    assert read(store) == content()


def test_sweep_takes_an_upload_for_alive_from_its_last_part(store: ObjectStore) -> None:
    with pytest.raises(Gone):
        store.put(KEY, interrupted(3))
    (before,) = store.unfinished()
    assert before.size_bytes == 3 * PART_BYTES
    grace = timedelta(hours=1)
    late = before.active_at + grace - timedelta(seconds=1)
    assert Sweep(store, grace=grace, now=lambda: late).run(delete=True).unfinished == []
    (swept,) = (
        Sweep(store, grace=grace, now=lambda: late + timedelta(seconds=2))
        .run(delete=True)
        .unfinished
    )
    assert swept.key == before.name
    assert list(store.unfinished()) == []
    assert datetime.now(UTC) - before.active_at < timedelta(minutes=5)


_SENDER = """
import os, signal, sys, tracemalloc
from registry import settings as settings_module, storage

location, endpoint, num_chunks, ending = sys.argv[1:]
settings = settings_module.RegistrySettings(
    s3_endpoint=endpoint, s3_multipart_bytes=10 << 20, s3_part_bytes=5 << 20
)
store = storage.open_store(location, settings)

def chunks():
    for i in range(int(num_chunks)):
        yield bytes([i % 256]) * (1 << 20)
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)

if ending == "measured":
    store.put("blobs/small", [b"x"])  # imports and connections
    tracemalloc.start()
store.put("blobs/large", chunks())
if ending == "measured":
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.reset_peak()
    assert sum(map(len, store.open("blobs/large"))) == int(num_chunks) << 20
    print(tracemalloc.get_traced_memory()[1])
"""


def send(
    store: ObjectStore, num_chunks: int, ending: str = "done"
) -> subprocess.CompletedProcess[str]:
    """Put KEY from a process of its own."""
    assert isinstance(store, S3Store)
    location = store.location.partition(" at ")[0]
    arguments = [location, str(store.options.endpoint), str(num_chunks), ending]
    return subprocess.run(
        [sys.executable, "-c", _SENDER, *arguments], capture_output=True, text=True, timeout=120
    )


def test_upload_of_a_killed_process_is_continued_by_the_next_one(store: ObjectStore) -> None:
    assert send(store, 4 * 5, "killed").returncode == -signal.SIGKILL
    assert store.stat(KEY) is None
    sent = counted(store)
    store.put(KEY, chunks())
    # Three parts were sent before the kill; the fourth was waiting for its successor or was sent.
    assert sent["UploadPart"] - 1 in (NUM_PARTS - 4, NUM_PARTS - 3)
    assert read(store) == content()


@pytest.fixture
def proxied(request: pytest.FixtureRequest) -> Iterator[tuple[CuttingProxy, ObjectStore]]:
    """SeaweedFS behind a network that breaks."""
    port = httpx.URL(request.getfixturevalue("seaweedfs_url")).port
    assert port is not None
    with cutting_proxy(port) as proxy:
        settings = RegistrySettings(s3_endpoint=proxy.url, **SIZES)
        opened = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", settings)
        yield proxy, opened
        opened.close()


def test_read_whose_connections_break_goes_on_where_it_was(
    proxied: tuple[CuttingProxy, ObjectStore],
) -> None:
    proxy, store = proxied
    store.put(KEY, chunks())
    proxy.after_bytes, proxy.num_cuts = 7 * MEGABYTE, 4
    assert read(store) == content()
    assert proxy.num_cuts == 0


def test_read_that_gains_nothing_any_more_ends_with_an_error(
    proxied: tuple[CuttingProxy, ObjectStore],
) -> None:
    proxy, store = proxied
    store.put(KEY, chunks())
    proxy.after_bytes, proxy.num_cuts = 1, 10**6
    with refused(StoreUnavailable):
        read(store)


def test_part_whose_connection_breaks_is_sent_again(
    proxied: tuple[CuttingProxy, ObjectStore],
) -> None:
    proxy, store = proxied
    proxy.after_bytes, proxy.num_cuts = 3 * MEGABYTE, 2
    store.put(KEY, chunks())
    assert proxy.num_cuts == 0
    assert read(store) == content()


def test_upload_goes_on_after_the_server_was_killed(s3_credentials: None, tmp_path: Path) -> None:
    binary = weed_binary()
    if binary is None:
        give_up(SEAWEEDFS)
    for ending in ("interrupted", "whole"):
        with seaweedfs(binary, tmp_path) as url:  # killed, not stopped, at the end
            if ending == "interrupted":
                make_bucket(url)
            store = open_store(f"s3://{BUCKET}/x", RegistrySettings(s3_endpoint=url, **SIZES))
            sent = counted(store)
            if ending == "interrupted":
                with pytest.raises(Gone):
                    store.put(KEY, interrupted(4))
            else:
                store.put(KEY, chunks())
                assert sent["UploadPart"] == NUM_PARTS - 4 + 1
                assert read(store) == content()
            store.close()


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_object_of_300_mb_passes_both_ways_with_memory_for_a_few_parts(
    store: ObjectStore,
) -> None:
    ran = send(store, 300, "measured")
    assert ran.returncode == 0, ran.stderr
    written, read_back = map(int, ran.stdout.split())
    assert written < 32 * MEGABYTE
    assert read_back < 8 * MEGABYTE
