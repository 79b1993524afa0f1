"""Lists and searches of one process have what the others did, each with a catalog of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotswap.registry.clock import utc_now
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import StateVerb
from hotswap.registry.domain.errors import CursorAhead, StoreUnavailable
from hotswap.registry.domain.layout import ALIASES, EVENTS, STATES, VERSIONS, event_key, version_key
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from hotswap.registry.ledger import log, reconcile
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from tests.contracts.pushes import NAME, push_version
from tests.registry.conftest import CatalogUrl, OpenRegistry
from tests.registry.stepping import MemoryStore
from tests.registry.stores import MeanwhileStore

TIMEOUT_S = 60


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(open_registry: OpenRegistry) -> Registry:
    return open_registry("here")


@pytest.fixture
def elsewhere(open_registry: OpenRegistry, here: Registry) -> Registry:
    """Another process's registry over the same store, opened after this one's."""
    return open_registry("elsewhere")


def numbers(registry: Registry, expression: str) -> list[int]:
    return [version.number for version in registry.adapters.search(expression)]


def test_push_through_another_process_is_listed_and_found(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    assert here.adapters.all() == []
    version = push_version(elsewhere, tmp_path, 1, alias="prod")
    assert here.adapters.all() == elsewhere.adapters.all()
    assert [summary.aliases for summary in here.adapters.all()] == [{"prod": 1}]
    assert here.adapters.search("lora.r = 4") == [version]  # a fact, read from its manifest


def test_move_and_rollback_through_another_process_are_listed_and_found(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    for seed in (1, 2):
        push_version(elsewhere, tmp_path, seed, alias="prod")
    assert numbers(here, 'alias = "prod"') == [2]
    elsewhere.aliases.rollback(MoveRequest(NAME, "prod", by="bob"))
    assert numbers(here, 'alias = "prod"') == [1]
    assert [summary.aliases for summary in here.adapters.all()] == [{"prod": 1}]


@pytest.mark.parametrize(
    ("verb", "state", "num_listed"), [("yank", "yanked", 2), ("delete", "deleted", 1)]
)
def test_state_that_another_process_gave_is_listed_and_found(
    here: Registry,
    elsewhere: Registry,
    tmp_path: Path,
    verb: StateVerb,
    state: str,
    num_listed: int,
) -> None:
    for seed in (1, 2):
        push_version(here, tmp_path, seed)
    assert numbers(here, f'state = "{state}"') == []
    elsewhere.versions.change(StateRequest(NAME, 1, verb, by="bob"))
    assert numbers(here, f'state = "{state}"') == [1]
    assert [summary.num_versions for summary in here.adapters.all()] == [num_listed]


def test_last_version_that_another_process_deletes_takes_its_name_from_the_list(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    push_version(here, tmp_path, 1)
    assert [summary.name for summary in here.adapters.all()] == [NAME]
    elsewhere.versions.change(StateRequest(NAME, 1, "delete", by="bob"))
    assert here.adapters.all() == []
    elsewhere.versions.change(StateRequest(NAME, 1, "undelete", by="bob"))
    assert [summary.name for summary in here.adapters.all()] == [NAME]


def test_what_was_read_for_an_own_push_is_listed_too(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    """The push reads the log to its end, so the look of the list finds nothing new in it."""
    push_version(elsewhere, tmp_path, 1, name="other", alias="prod")
    push_version(here, tmp_path, 2)
    assert [summary.name for summary in here.adapters.all()] == ["other", NAME]


def test_event_that_came_before_those_of_lower_numbers_leaves_no_gap(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    """As when the process that claimed version 1 and the first move has not told of them yet."""
    for seed in (1, 2):
        push_version(elsewhere, tmp_path, seed, alias="prod")
    store = LocalStore(tmp_path / "store")
    told = [b"".join(store.open(event_key(sequence))) for sequence in (3, 4)]
    for key in list(store.list(EVENTS)):
        store.delete(key)
    for sequence, data in enumerate(told, 1):
        renumbered = data.replace(
            b'"sequence": %d,\n "at"' % (sequence + 2), b'"sequence": %d,\n "at"' % sequence
        )
        assert renumbered != data
        store.create(event_key(sequence), renumbered)
    assert [summary.num_versions for summary in here.adapters.all()] == [2]
    assert [move.to_number for move in here.aliases.history(NAME, "prod")] == [1, 2]


class BrokenStore(LocalStore):
    """Cannot be read below a prefix for a while."""

    broken: str | None = None

    def open(self, key: str) -> Iterator[bytes]:
        if self.broken is not None and key.startswith(self.broken):
            raise StoreUnavailable("power cut")
        return super().open(key)


def test_what_could_not_be_read_is_in_the_next_list(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = BrokenStore(tmp_path / "store")
    here, elsewhere = open_registry("here", store=store), open_registry("elsewhere")
    push_version(elsewhere, tmp_path, 1)
    store.broken = VERSIONS
    with pytest.raises(StoreUnavailable):
        here.adapters.all()
    store.broken = None
    assert [summary.name for summary in here.adapters.all()] == [NAME]


def test_damaged_record_hides_no_other_name(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    push_version(elsewhere, tmp_path, 1, name="a")
    push_version(elsewhere, tmp_path, 1, name="b")
    LocalStore(tmp_path / "store").put(version_key("a", 1), [b"{"])
    assert [summary.name for summary in here.adapters.all()] == ["b"]


def put_back(store: LocalStore, num_events: int, *prefixes: str) -> None:
    """Take away the records below the prefixes and what was told behind `num_events`."""
    for prefix in prefixes:
        for key in list(store.list(prefix)):
            store.delete(key)
    for key in list(store.list(EVENTS)):
        if key > event_key(num_events):
            store.delete(key)


def test_store_that_was_put_back_under_a_running_process_is_believed(
    here: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    push_version(here, tmp_path, 1, name="kept")
    push_version(here, tmp_path, 1, name="gone", alias="prod")
    assert [summary.name for summary in here.adapters.all()] == ["gone", "kept"]
    put_back(LocalStore(tmp_path / "store"), 1, f"{VERSIONS}gone/", f"{ALIASES}gone/")
    assert [summary.name for summary in here.adapters.all()] == ["kept"]
    with pytest.raises(CursorAhead):
        here.events.read(3)


def test_store_that_was_put_back_and_went_on_as_far_is_believed(
    here: Registry, open_registry: OpenRegistry, tmp_path: Path
) -> None:
    push_version(here, tmp_path, 1, name="kept")
    push_version(here, tmp_path, 1, name="gone")
    put_back(LocalStore(tmp_path / "store"), 1, f"{VERSIONS}gone/")
    other = open_registry("after")
    push_version(other, tmp_path, 2, name="new")
    other.versions.change(StateRequest("kept", 1, "yank", by="bob"))
    assert [summary.name for summary in here.adapters.all()] == ["kept", "new"]
    assert [version.name for version in here.adapters.search('state = "yanked"')] == ["kept"]


def test_store_that_was_put_back_while_nothing_ran_is_listed_and_caught_up_with(
    here: Registry, open_registry: OpenRegistry, tmp_path: Path
) -> None:
    push_version(here, tmp_path, 1, name="kept")
    push_version(here, tmp_path, 1, name="gone")
    here.versions.change(StateRequest("kept", 1, "yank", by="ann"))
    here.close()
    put_back(LocalStore(tmp_path / "store"), 1, f"{VERSIONS}gone/", STATES)
    elsewhere, again = open_registry("elsewhere"), open_registry("here")
    assert [summary.name for summary in again.adapters.all()] == ["kept"]
    assert again.adapters.search('state = "yanked"') == []
    push_version(elsewhere, tmp_path, 2, name="new", alias="prod")
    assert [summary.name for summary in again.adapters.all()] == ["kept", "new"]


def test_push_between_the_listing_and_the_log_of_a_start_or_rebuild_is_listed(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    elsewhere = open_registry("elsewhere")
    store = MeanwhileStore(tmp_path / "store")
    store.meanwhile = lambda: push_version(elsewhere, tmp_path, 1, name="one")
    here = open_registry("here", store=store)
    assert [summary.name for summary in here.adapters.all()] == ["one"]
    store.meanwhile = lambda: push_version(elsewhere, tmp_path, 2, name="two")
    here.rebuild()
    assert store.meanwhile is None
    assert [summary.name for summary in here.adapters.all()] == ["one", "two"]


def test_pushes_and_lists_of_several_processes_do_not_block_each_other(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    registries = [open_registry(f"catalog{i}") for i in range(3)]

    def act(i: int) -> None:
        push_version(registries[i % 3], tmp_path, i, name=f"team/a{i % 4}", alias="prod")
        registries[(i + 1) % 3].adapters.all()
        registries[(i + 2) % 3].adapters.search("lora.r = 4")
        if i == 7:
            registries[0].rebuild()

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(act, i) for i in range(18)]:
            each.result(TIMEOUT_S)
    expected = open_registry("fresh").adapters.all()
    assert sum(summary.num_versions for summary in expected) == 18
    for registry in registries:
        assert registry.adapters.all() == expected
        assert len(registry.adapters.search("lora.r = 4")) == 18


class WatchedStore(MemoryStore):
    num_requests = 0

    def open(self, key: str) -> Iterator[bytes]:
        self.num_requests += 1
        return super().open(key)

    def stat(self, key: str):  # type: ignore[no-untyped-def]
        self.num_requests += 1
        return super().stat(key)

    def list(self, prefix: str) -> Iterator[str]:
        self.num_requests += 1
        return super().list(prefix)


def test_store_is_asked_once_in_the_time_a_list_may_be_old(
    catalog_url: CatalogUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    for module in (reconcile, log):
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
    store = WatchedStore(utc_now)
    here = Registry.open(store, Catalog(catalog_url("here")), freshness_s=1.0)  # type: ignore[arg-type]
    elsewhere = Registry.open(store, Catalog(catalog_url("elsewhere")))  # type: ignore[arg-type]
    push_version(elsewhere, tmp_path, 1, name="one")
    now += 1.0
    assert [summary.name for summary in here.adapters.all()] == ["one"]
    push_version(elsewhere, tmp_path, 2, name="two")
    before = store.num_requests
    now += 0.9
    assert [summary.name for summary in here.adapters.all()] == ["one"]
    assert here.adapters.search("lora.r = 4") == here.adapters.search("lora.r > 3")
    assert store.num_requests == before
    now += 0.1
    assert [summary.name for summary in here.adapters.all()] == ["one", "two"]
    here.close()
    elsewhere.close()
