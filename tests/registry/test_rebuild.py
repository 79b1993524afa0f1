"""A catalog is an index: filled from the store, in SQLite and on PostgreSQL, whoever uses it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from tests.registry.bundles import make_bundle, read_bundle
from tests.registry.conftest import CatalogUrl, OpenRegistry
from tests.registry.stores import MeanwhileStore
from tests.registry.test_recovery import NAME, fill, state


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_empty_catalog_is_made_again_the_same(open_registry: OpenRegistry, tmp_path: Path) -> None:
    first = open_registry()
    fill(first, tmp_path)
    assert state(open_registry("empty")) == state(first)


def test_rebuild_changes_nothing(open_registry: OpenRegistry, tmp_path: Path) -> None:
    opened = open_registry()
    fill(opened, tmp_path)
    before = state(opened)
    opened.rebuild()
    assert state(opened) == before


def test_catalog_of_another_store_is_not_believed(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    fill(open_registry(), tmp_path)
    other = open_registry(store=LocalStore(tmp_path / "other store"))
    assert other.adapters.all() == []


def test_store_put_back_to_an_earlier_state_is_believed(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    opened = open_registry()
    fill(opened, tmp_path)
    opened.close()
    store = LocalStore(tmp_path / "store")
    for key in list(store.list("aliases/other/")) + list(store.list("versions/other/")):
        store.delete(key)
    assert [summary.name for summary in open_registry().adapters.all()] == [NAME]


def test_registries_with_one_store_see_each_others_claims(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    one, two = open_registry("one"), open_registry("two")
    bundle, manifest = read_bundle(tmp_path / "a", 1)
    other_bundle, other_manifest = read_bundle(tmp_path / "b", 2)
    first = push(one, NAME, bundle, manifest, by="ann", alias="prod")
    second = push(two, NAME, other_bundle, other_manifest, by="bob", alias="prod")
    assert (first.number, second.number) == (1, 2)
    assert one.versions.resolve(AdapterRef.parse(NAME)) == second
    assert one.aliases.rollback(MoveRequest(NAME, "prod", by="ann")).to_number == 1
    assert two.versions.resolve(AdapterRef.parse(NAME)) == first
    assert one.aliases.all(NAME) == two.aliases.all(NAME)


def test_concurrent_pushes_through_several_registries_lose_nothing(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    registries = [open_registry(f"catalog{i}") for i in range(4)]
    bundles = [read_bundle(tmp_path / str(seed), seed) for seed in range(20)]

    def push_one(i: int) -> int:
        bundle, manifest = bundles[i]
        return push(registries[i % 4], NAME, bundle, manifest, by="ann", alias="prod").number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(push_one, range(20)))
    assert sorted(numbers) == list(range(1, 21))
    sequences = [move.sequence for move in registries[0].aliases.history(NAME, "prod")]
    assert sequences == list(range(1, 21))
    assert state(registries[0]) == state(open_registry("fresh"))


def test_concurrent_pushes_through_one_catalog_lose_nothing(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    registries = [open_registry("shared") for _ in range(4)]
    bundles = [read_bundle(tmp_path / str(seed), seed) for seed in range(20)]

    def push_one(i: int) -> int:
        bundle, manifest = bundles[i]
        if i % 5 == 0:
            registries[(i + 1) % 4].rebuild()
        return push(registries[i % 4], NAME, bundle, manifest, by="ann", alias="prod").number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(push_one, range(20)))
    assert sorted(numbers) == list(range(1, 21))
    assert state(registries[0]) == state(open_registry("fresh"))


PUSHER = """
import sys
from pathlib import Path
from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore

store, catalog, *directories = sys.argv[1:]
registry = Registry.open(LocalStore(Path(store)), Catalog(catalog))
sys.stdin.readline()
for directory in directories:
    bundle = Bundle.read(Path(directory))
    push(registry, "team/sql", bundle, bundle.manifest(), by="ann", alias="prod")
    registry.rebuild()
registry.close()
"""


def test_processes_that_push_and_rebuild_one_catalog_lose_nothing(
    open_registry: OpenRegistry, catalog_url: CatalogUrl, tmp_path: Path
) -> None:
    names = [[f"{process}-{i}" for i in range(4)] for process in range(3)]
    for process, some in enumerate(names):
        for i, name in enumerate(some):
            make_bundle(tmp_path / name, seed=10 * process + i)
    pushers = [
        subprocess.Popen(
            [sys.executable, "-c", PUSHER, tmp_path / "store", catalog_url("shared"), *some],
            cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for some in names
    ]  # fmt: skip
    with ThreadPoolExecutor(len(pushers)) as pool:
        ends = list(pool.map(lambda pusher: pusher.communicate("\n"), pushers))
    assert [(pusher.returncode, end[1]) for pusher, end in zip(pushers, ends, strict=True)] == [
        (0, "")
    ] * len(pushers)
    shared = Catalog(catalog_url("shared"))
    open_registry("fresh")
    fresh = Catalog(catalog_url("fresh"))
    assert shared.keys() == fresh.keys()
    assert shared.latest_number(NAME) == 12
    shared.close()
    fresh.close()


def test_what_is_pushed_during_a_rebuild_stays_in_the_catalog(
    open_registry: OpenRegistry, catalog_url: CatalogUrl, tmp_path: Path
) -> None:
    store = MeanwhileStore(tmp_path / "store")
    rebuilding, other = open_registry("shared", store=store), open_registry("shared")
    fill(other, tmp_path)
    bundle, manifest = read_bundle(tmp_path / "late", 9)
    store.meanwhile = lambda: push(other, NAME, bundle, manifest, by="ann", alias="prod")
    rebuilding.rebuild()
    assert store.meanwhile is None
    index = Catalog(catalog_url("shared"))
    assert index.version(NAME, 4) is not None
    assert [move.to_number for move in index.history(NAME, "prod")] == [1, 2, 3, 2, 4]
    index.close()


def test_rebuild_drops_what_the_store_no_longer_has(
    open_registry: OpenRegistry, catalog_url: CatalogUrl, tmp_path: Path
) -> None:
    opened: Registry = open_registry("shared")
    fill(opened, tmp_path)
    store = LocalStore(tmp_path / "store")
    for key in [*store.list("aliases/other/"), *store.list("versions/other/")]:
        store.delete(key)
    opened.rebuild()
    assert [summary.name for summary in opened.adapters.all()] == [NAME]
