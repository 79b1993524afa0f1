"""Resolution from memory: fast, and never behind what this process did itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion
from hotswap.registry.domain.errors import AdapterNotFound, VersionDeleted
from hotswap.registry.domain.layout import ALIASES, VERSIONS
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from hotswap.registry.registry import Registry
from hotswap.registry.storage import recent
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.storage.recent import Recent
from hotswap.registry.tasks import OneByOne
from tests.registry.bundles import read_bundle

NAME = "team/sql"
FOREVER_S = 3600.0


class WatchedStore(LocalStore):
    """Counts what is read, and runs `meanwhile` once, right after something was not found."""

    num_reads = 0
    meanwhile: Callable[[], object] | None = None

    def open(self, key: str) -> Iterator[bytes]:
        self.num_reads += 1
        try:
            yield from super().open(key)
        except Exception:
            if self.meanwhile is not None:
                act, self.meanwhile = self.meanwhile, None
                act()
            raise


class CountingCatalog(Catalog):
    num_reads = 0

    def version(self, name: str, number: int) -> AdapterVersion | None:
        self.num_reads += 1
        return super().version(name, number)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "store")


@pytest.fixture
def catalog(tmp_path: Path) -> CountingCatalog:
    return CountingCatalog(f"sqlite:///{tmp_path}/catalog.sqlite")


@pytest.fixture
def registry(store: WatchedStore, catalog: CountingCatalog, tmp_path: Path) -> Iterator[Registry]:
    """Versions 1, 2 and 3, prod at 1; believes what it has read for an hour."""
    opened = Registry.open(store, catalog, freshness_s=FOREVER_S)
    for seed in (1, 2, 3):
        bundle, manifest = read_bundle(tmp_path / str(seed), seed)
        alias = "prod" if seed == 1 else None
        push(opened, NAME, bundle, manifest, by="ann", alias=alias)
    yield opened
    opened.close()


def number(registry: Registry, text: str = NAME) -> int:
    return registry.versions.resolve(AdapterRef.parse(text)).number


@pytest.mark.parametrize("text", [NAME, f"{NAME}:2"])
def test_second_resolution_reads_neither_store_nor_catalog(
    registry: Registry, store: WatchedStore, catalog: CountingCatalog, text: str
) -> None:
    first = registry.versions.resolve(AdapterRef.parse(text))
    before = (store.num_reads, catalog.num_reads)
    assert registry.versions.resolve(AdapterRef.parse(text)) == first
    assert (store.num_reads, catalog.num_reads) == before


def test_first_resolution_of_an_alias_asks_the_catalog_once(registry: Registry) -> None:
    registry.sync()
    begun: list[object] = []

    def note(connection: object) -> None:
        begun.append(connection)

    event.listen(Engine, "begin", note)
    try:
        number(registry)
    finally:
        event.remove(Engine, "begin", note)
    assert len(begun) == 1


def test_own_move_is_seen_at_once(registry: Registry) -> None:
    assert number(registry) == 1
    registry.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))
    assert number(registry) == 2
    registry.aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert number(registry) == 1


def test_own_move_during_a_resolution_is_not_hidden_by_what_that_one_read(
    registry: Registry, store: WatchedStore
) -> None:
    registry.sync()  # forgets, so that the next resolution looks
    store.meanwhile = lambda: registry.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))
    number(registry)
    assert store.meanwhile is None
    assert number(registry) == 2


def test_own_deletion_during_a_resolution_is_not_hidden_by_what_that_one_read(
    registry: Registry, store: WatchedStore
) -> None:
    registry.sync()
    store.meanwhile = lambda: registry.versions.change(StateRequest(NAME, 2, "delete", by="ann"))
    number(registry, f"{NAME}:2")
    assert store.meanwhile is None
    with pytest.raises(VersionDeleted):
        number(registry, f"{NAME}:2")


def test_own_deletion_is_seen_at_once(registry: Registry) -> None:
    number(registry, f"{NAME}:2")
    registry.versions.change(StateRequest(NAME, 2, "delete", by="ann"))
    with pytest.raises(VersionDeleted):
        number(registry, f"{NAME}:2")


def test_move_of_another_registry_is_seen_when_it_is_met(
    registry: Registry, tmp_path: Path
) -> None:
    # A catalog in memory is one thread's.
    other = Registry.open(LocalStore(tmp_path / "store"), Catalog("sqlite://"), tasks=OneByOne())
    for look, to in ((registry.sync, 2), (lambda: registry.aliases.all(NAME), 3)):
        assert number(registry) == to - 1
        other.aliases.move(MoveRequest(NAME, "prod", to, by="bob"))
        look()
        assert number(registry) == to
    other.close()


def test_rebuild_forgets_what_the_store_lost(registry: Registry, store: WatchedStore) -> None:
    assert (number(registry), number(registry, f"{NAME}:2")) == (1, 2)
    for key in [*store.list(f"{ALIASES}{NAME}/"), *store.list(f"{VERSIONS}{NAME}/")]:
        store.delete(key)
    registry.rebuild()
    for text in (NAME, f"{NAME}:2"):
        with pytest.raises(AdapterNotFound):
            number(registry, text)


def test_fact_is_kept_until_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(recent.time, "monotonic", lambda: now)
    facts: Recent[str, int] = Recent(max_age_s=1.0)
    mark = facts.mark()
    now = 100.5  # the age counts from the look, not from the keeping
    facts.keep("a", 1, mark)
    now = 100.9
    assert facts.get("a") == 1
    now = 101.0
    assert facts.get("a") is None


def test_of_too_many_facts_the_one_used_longest_ago_goes() -> None:
    facts: Recent[int, str] = Recent(FOREVER_S, size=2)
    for key in (1, 2):
        facts.keep(key, "kept", facts.mark())
    facts.get(1)
    facts.keep(3, "kept", facts.mark())
    assert [facts.get(key) for key in (1, 2, 3)] == ["kept", None, "kept"]


def test_fact_read_before_a_forget_is_not_kept_after_it() -> None:
    facts: Recent[str, int] = Recent(FOREVER_S)
    mark = facts.mark()
    facts.forget("a")
    facts.keep("a", 1, mark)
    assert facts.get("a") is None
