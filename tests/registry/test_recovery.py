"""Whatever fails and whenever: nothing dangles, and the same push again succeeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hotswap.registry.bundles.transfer import pull, push
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    BlobCorrupted,
    StoreUnavailable,
    StoreUnsuitable,
)
from hotswap.registry.domain.layout import blob_key, manifest_key
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.storage.objects import probe
from hotswap.registry.tasks import OneByOne, Tasks, Threads
from tests.refusals import refused
from tests.registry.bundles import read_bundle
from tests.registry.conftest import OpenRegistry
from tests.registry.stores import FailingStore

NAME = "team/sql"
# blobs 3, pin, name, manifest, version with its event and audit entry, alias move with its event
# and audit entry
NUM_WRITES = 12


def assert_nothing_dangles(registry: AdapterRegistry) -> None:
    for summary in registry.adapters.all():
        versions = registry.adapters.versions(summary.name)
        for version in versions:
            for descriptor in registry.versions.manifest(version.manifest_digest).files:
                data = b"".join(registry.blobs.open(descriptor.digest))
                assert len(data) == descriptor.size_bytes
        for current in registry.aliases.all(summary.name):
            for move in registry.aliases.history(summary.name, current.alias):
                assert move.to_number in {version.number for version in versions}


def state(registry: AdapterRegistry) -> list[object]:
    """All that a registry knows."""
    found: list[object] = []
    for summary in registry.adapters.all():
        found += [summary, *registry.adapters.versions(summary.name)]
        for current in registry.aliases.all(summary.name):
            found += registry.aliases.history(summary.name, current.alias)
    return found


def fill(registry: Registry, tmp_path: Path) -> None:
    for name in (NAME, "other"):
        for seed in (1, 2, 3):
            bundle, manifest = read_bundle(tmp_path / f"{name.replace('/', '-')}{seed}", seed)
            push(registry, name, bundle, manifest, by="ann", alias="prod", why=f"{seed}")
    registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob", why="broken"))


# One by one the writes have the same order each time. Failing once and failing for good together
# leave every state that a crash can leave when two of them are made at the same time.
@pytest.mark.parametrize("make_tasks", [OneByOne, lambda: Threads(4)], ids=["in order", "threads"])
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("fail_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fail_at", range(1, NUM_WRITES + 1))
def test_crash_at_any_write_leaves_nothing_dangling_and_the_push_can_be_repeated(
    open_registry: OpenRegistry,
    tmp_path: Path,
    fail_at: int,
    fail_after: bool,
    for_good: bool,
    make_tasks: Callable[[], Tasks],
) -> None:
    store = FailingStore(LocalStore(tmp_path / "store"))
    crashed = open_registry(store=store, tasks=make_tasks())
    store.fail_at, store.fail_after, store.for_good = fail_at, fail_after, for_good
    bundle, manifest = read_bundle(tmp_path / "bundle")
    with refused(StoreUnavailable, "power cut"):
        push(crashed, NAME, bundle, manifest, by="ann", alias="prod")

    reopened = open_registry(catalog="after")
    assert_nothing_dangles(reopened)
    push(reopened, NAME, bundle, manifest, by="ann", alias="prod")
    assert [version.number for version in reopened.adapters.versions(NAME)] == [1]
    assert [move.to_number for move in reopened.aliases.history(NAME, "prod")] == [1]
    assert [event.kind for event in reopened.events.read(0).events] == ["version", "move"]


def test_push_makes_the_number_of_writes_that_are_tested(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = FailingStore(LocalStore(tmp_path / "store"))
    opened = open_registry(store=store)
    store.fail_at = 10**9
    bundle, manifest = read_bundle(tmp_path / "bundle")
    push(opened, NAME, bundle, manifest, by="ann", alias="prod")
    assert store.num_writes == NUM_WRITES


def test_same_registry_goes_on_after_a_failed_claim(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = FailingStore(LocalStore(tmp_path / "store"))
    opened = open_registry(store=store, tasks=OneByOne())
    store.fail_at, store.fail_after = 7, True  # the version is claimed, the row is missing
    bundle, manifest = read_bundle(tmp_path / "bundle")
    with pytest.raises(StoreUnavailable):
        push(opened, NAME, bundle, manifest, by="ann")
    store.fail_at = None
    assert push(opened, NAME, bundle, manifest, by="ann").number == 1


def test_claim_whose_answer_was_lost_is_known_to_be_ours(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    class ForgetfulStore(FailingStore):
        def create(self, key: str, data: bytes) -> bool:
            created = self._store.create(key, data)
            return created and self.fail_at is None

    store = ForgetfulStore(LocalStore(tmp_path / "store"))
    opened = open_registry(store=store)
    store.fail_at = 0
    bundle, manifest = read_bundle(tmp_path / "bundle")
    assert push(opened, NAME, bundle, manifest, by="ann", alias="prod").number == 1
    assert [move.sequence for move in opened.aliases.history(NAME, "prod")] == [1]


def test_alias_history_survives_a_restart(open_registry: OpenRegistry, tmp_path: Path) -> None:
    first = open_registry()
    fill(first, tmp_path)
    moves = first.aliases.history(NAME, "prod")
    first.close()
    assert open_registry().aliases.history(NAME, "prod") == moves


def test_deleted_catalog_is_made_again_the_same(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    first = open_registry()
    fill(first, tmp_path)
    before = state(first)
    first.close()
    for path in tmp_path.glob("catalog.sqlite*"):
        path.unlink()
    assert state(open_registry()) == before


def corrupt(store_root: Path, key: str) -> None:
    path = store_root / key
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_corrupted_blob_is_named_and_nothing_is_pulled(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    opened = open_registry()
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann", alias="prod")
    digest = manifest.file("adapter_model.safetensors").digest
    corrupt(tmp_path / "store", blob_key(digest))
    with refused(BlobCorrupted, digest.hex):
        pull(opened, AdapterRef.parse(NAME), tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    assert not list(tmp_path.glob(".pulled*"))


def test_end_of_a_corrupted_blob_is_never_handed_on(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    opened = open_registry()
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann")
    digest = manifest.file("adapter_config.json").digest
    corrupt(tmp_path / "store", blob_key(digest))
    received: list[bytes] = []
    with pytest.raises(BlobCorrupted):
        received.extend(opened.blobs.open(digest))
    assert not received


def test_corrupted_manifest_is_named(open_registry: OpenRegistry, tmp_path: Path) -> None:
    opened = open_registry()
    bundle, manifest = read_bundle(tmp_path / "a")
    version = push(opened, NAME, bundle, manifest, by="ann")
    corrupt(tmp_path / "store", manifest_key(version.manifest_digest))
    with refused(BlobCorrupted, version.manifest_digest.hex):
        opened.versions.manifest(version.manifest_digest)


def test_pushing_again_heals_a_lost_blob(open_registry: OpenRegistry, tmp_path: Path) -> None:
    opened = open_registry()
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann", alias="prod")
    LocalStore(tmp_path / "store").delete(blob_key(manifest.files[0].digest))
    push(opened, NAME, bundle, manifest, by="ann")
    pull(opened, AdapterRef.parse(NAME), tmp_path / "pulled")
    assert (tmp_path / "pulled").is_dir()


def test_damaged_record_is_named_at_start(open_registry: OpenRegistry, tmp_path: Path) -> None:
    fill(open_registry(), tmp_path)
    (tmp_path / "store/versions/other/0000000002.json").write_text("{")
    with refused(BlobCorrupted, "versions/other/0000000002"):
        open_registry(catalog="fresh")


class OverwritingStore(FailingStore):
    """Honours no create-once: what the probe must refuse."""

    def create(self, key: str, data: bytes) -> bool:
        self._store.put(key, [data])
        return True


def test_store_that_lets_two_writers_win_is_refused(tmp_path: Path) -> None:
    store = OverwritingStore(LocalStore(tmp_path / "store"))
    with refused(StoreUnsuitable):
        probe(store)
    assert list(store.list("")) == []


def test_catalog_that_is_no_database_says_it_can_be_removed(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"no database" * 1000)
    with refused(StoreUnavailable, "catalog.sqlite"):
        open_registry()


def test_digest_identifies_the_manifest_everywhere(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    version = push(open_registry(), NAME, bundle, manifest, by="ann")
    stored = (tmp_path / "store" / manifest_key(manifest.digest)).read_bytes()
    assert version.manifest_digest == manifest.digest == Digest.of(stored)
