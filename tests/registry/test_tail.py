"""What works on the store alone tells of what it did at once, and nobody tells of it twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hotswap.registry.clock import utc_now
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterVersion, VersionState
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.event import key_of
from hotswap.registry.domain.layout import EVENTS, STATES, event_key
from hotswap.registry.domain.requests import StateRequest
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import next_state
from hotswap.registry.ledger.tail import LogTail
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.tasks import OneByOne
from hotswap.registry.upkeep.sweep import MIN_GRACE, Sweep, SweepReport
from tests.contracts.pushes import NAME, push_version
from tests.registry.conftest import OpenRegistry
from tests.registry.stepping import Actor, MemoryStore


def later() -> datetime:
    return datetime.now(UTC) + MIN_GRACE + timedelta(minutes=1)


def sweep(store: object) -> SweepReport:
    return Sweep(store, grace=MIN_GRACE, now=later).run(delete=True)  # type: ignore[arg-type]


def told(registry: Registry) -> list[str | None]:
    events = registry.events.read(0, limit=1000).events
    return [event.state.state if event.state else event.kind for event in events]


def test_purge_is_told_of_by_the_sweep(open_registry: OpenRegistry, tmp_path: Path) -> None:
    registry = open_registry()
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed)
    for number in (1, 3):
        registry.versions.change(StateRequest(NAME, number, "delete", by="ann"))
    assert registry.adapters.search('state = "purged"') == []
    assert sorted(sweep(LocalStore(tmp_path / "store")).purged) == [f"{NAME}:1", f"{NAME}:3"]
    expected = ["version"] * 3 + ["deleted"] * 2 + ["purged"] * 2
    assert told(registry) == expected
    assert [v.number for v in registry.adapters.search('state = "purged"')] == [1, 3]
    assert told(open_registry("fresh")) == expected


@pytest.mark.parametrize("num_events", range(10))
def test_tail_appends_behind_any_number_of_events(num_events: int) -> None:
    store = MemoryStore(utc_now)
    records = Records(store)  # type: ignore[arg-type]
    version = AdapterVersion(
        name=NAME,
        number=1,
        manifest_digest=Digest.of(b"x"),
        created_by="ann",
        created_at=datetime.now(UTC),
    )
    state: VersionState | None = None
    states = []
    for _ in range(num_events + 2):
        state = next_state(state, NAME, 1, "yanked", "ann", "")
        states.append(state)
    for state in states[:-2]:
        LogTail(records).append(state, version)
    tail = LogTail(records)
    for state in (*states[-2:], *states[-2:]):  # the second time there is nothing to tell
        tail.append(state, version)
    events = list(records.events_from(1))
    assert [event.record_key for event in events] == [key_of(state) for state in states]
    assert len([key for key in store.objects if key.startswith(EVENTS)]) == num_events + 2


def start_over(store: MemoryStore) -> None:
    """The start of a registry, which tells of every record that has no event."""
    catalog = Catalog("sqlite://")
    try:
        Registry(store, catalog, freshness_s=0, tasks=OneByOne()).sync()  # type: ignore[arg-type]
    finally:
        catalog.close()


def test_purge_is_told_of_once_whenever_a_registry_starts_meanwhile(tmp_path: Path) -> None:
    """The sweep takes some steps, then the registry starts, then the sweep ends."""
    template = MemoryStore(utc_now)
    catalog = Catalog("sqlite://")
    registry = Registry(template, catalog, freshness_s=0, tasks=OneByOne())  # type: ignore[arg-type]
    push_version(registry, tmp_path, 1)
    registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    catalog.close()
    tellers: set[str] = set()
    num_steps = taken = -1
    while taken == num_steps:
        num_steps += 1
        store = template.copy()
        sweeper = Actor(store, sweep)
        taken = sweeper.advance(num_steps)
        is_told = event_key(3) in store.objects
        start_over(store)
        tellers.add("start" if event_key(3) in store.objects and not is_told else "sweep")
        sweeper.finish()
        assert sweeper.error is None
        assert len([key for key in store.objects if key.startswith(STATES)]) == 2
        assert len([key for key in store.objects if key.startswith(EVENTS)]) == 3
    assert tellers == {"start", "sweep"}
