"""What every object store must do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hotswap.registry.storage.objects import ObjectMissing, ObjectStore, probe


def read(store: ObjectStore, key: str) -> bytes:
    return b"".join(store.open(key))


def test_create_stores_the_bytes(store: ObjectStore) -> None:
    assert store.create("a/one.json", b"first")
    assert read(store, "a/one.json") == b"first"


def test_second_create_loses_and_changes_nothing(store: ObjectStore) -> None:
    store.create("a/one.json", b"first")
    assert not store.create("a/one.json", b"second")
    assert read(store, "a/one.json") == b"first"


def test_of_racing_creates_exactly_one_wins(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        writers = [str(i).encode() for i in range(16)]
        won = list(pool.map(lambda data: store.create("race", data), writers))
    assert won.count(True) == 1
    assert read(store, "race") == writers[won.index(True)]


def test_put_streams_many_chunks(store: ObjectStore) -> None:
    chunks = [bytes([i]) * 500_000 for i in range(20)]
    store.put("blobs/big", iter(chunks))
    assert read(store, "blobs/big") == b"".join(chunks)


def test_multipart_sized_put_keeps_every_byte(store: ObjectStore) -> None:
    chunk = bytes(range(256)) * 4096
    store.put("blobs/huge", (chunk for _ in range(70)))
    stat = store.stat("blobs/huge")
    assert stat is not None
    assert stat.size_bytes == 70 << 20
    assert read(store, "blobs/huge") == chunk * 70


def test_put_replaces_the_object(store: ObjectStore) -> None:
    store.put("blobs/x", [b"old"])
    store.put("blobs/x", [b"new bytes"])
    assert read(store, "blobs/x") == b"new bytes"


def test_put_that_fails_leaves_nothing(store: ObjectStore) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the sender went away")

    with pytest.raises(RuntimeError):
        store.put("blobs/half", broken())
    assert store.stat("blobs/half") is None
    assert list(store.list("")) == []


def test_empty_object_exists(store: ObjectStore) -> None:
    store.put("blobs/empty", [])
    stat = store.stat("blobs/empty")
    assert stat is not None
    assert stat.size_bytes == 0
    assert read(store, "blobs/empty") == b""


def test_open_of_a_missing_key_raises(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        read(store, "no/such")


def test_stat_of_a_missing_key_is_none(store: ObjectStore) -> None:
    assert store.stat("no/such") is None


def test_stat_of_a_key_that_only_has_keys_below_it_is_none(store: ObjectStore) -> None:
    store.create("a/b/c", b"x")
    assert store.stat("a/b") is None


def test_reader_may_stop_early(store: ObjectStore) -> None:
    store.put("blobs/big", [b"x" * (5 << 20)])
    chunks = store.open("blobs/big")
    assert next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert store.stat("blobs/big") is not None


def test_read_gives_the_bytes_of_a_range_as_far_as_there_are_any(store: ObjectStore) -> None:
    store.put("blobs/x", [b"0123456789"])
    assert store.read("blobs/x", 0, 4) == b"0123"
    assert store.read("blobs/x", 4, 4) == b"4567"
    assert store.read("blobs/x", 8, 4) == b"89"
    assert store.read("blobs/x", 10, 4) == b""
    assert store.read("blobs/x", 11, 4) == b""
    store.put("blobs/empty", [])
    assert store.read("blobs/empty", 0, 4) == b""


def test_read_of_a_missing_key_raises(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        store.read("no/such", 0, 1)


def test_delete_removes_and_may_be_repeated(store: ObjectStore) -> None:
    store.create("a/one", b"x")
    store.delete("a/one")
    store.delete("a/one")
    assert store.stat("a/one") is None


def test_deleted_key_can_be_created_again(store: ObjectStore) -> None:
    store.create("a/one", b"x")
    store.delete("a/one")
    assert store.create("a/one", b"y")


def test_list_gives_every_key_below_a_prefix_once(store: ObjectStore) -> None:
    keys = ["v/team/1.json", "v/team/sql/1.json", "v/team/sql/2.json", "v/team-b/1.json", "w/1"]
    for key in keys:
        store.create(key, b"x")
    assert sorted(store.list("v/team/")) == keys[:3]
    assert sorted(store.list("v/")) == sorted(keys[:4])
    assert list(store.list("nothing/")) == []


def test_list_is_not_limited_to_one_page(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.create(f"many/{i:05}", b"x"), range(1100)))
    assert sum(1 for _ in store.list("many/")) == 1100


@pytest.mark.parametrize("key", ["../up", "a/../b", "/abs", "a//b", "", "a/.hidden", "a\\b/", "."])
def test_key_that_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        store.create(key, b"x")


def test_probe_accepts_the_store_and_leaves_nothing(store: ObjectStore) -> None:
    probe(store)
    assert list(store.list("")) == []
    assert list(store.unfinished()) == []
