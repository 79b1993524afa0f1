"""The log of events when processes race, crash, or the store is put back; and its HTTP forms."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.errors import CursorAhead, StoreUnavailable
from hotswap.registry.domain.event import Event, EventPage
from hotswap.registry.domain.layout import EVENTS, event_key
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.tasks import OneByOne
from tests.contracts.pushes import NAME, push_version
from tests.registry.conftest import OpenRegistry
from tests.registry.stepping import Actor, MemoryStore, SteppedStore
from tests.registry.stores import FailingStore
from tests.servers import serving_app

TIMEOUT_S = 30
SSE = {"Accept": "text/event-stream"}


def all_events(registry: Registry) -> list[Event]:
    return list(registry.events.read(0, limit=1000).events)


def keys(registry: Registry) -> list[str]:
    return [event.record_key for event in all_events(registry)]


def test_appenders_of_two_registries_share_one_dense_log(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    registries = [open_registry("one"), open_registry("two")]
    push_version(registries[0], tmp_path, 1)
    push_version(registries[0], tmp_path, 2)

    def move(i: int) -> None:
        for to in (1, 2, 1):
            registries[i % 2].aliases.move(MoveRequest(NAME, f"alias{i}", to, by="ann"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(move, range(8)))
    for registry in (*registries, open_registry("fresh")):
        events = all_events(registry)
        assert [event.sequence for event in events] == list(range(1, 27))
        assert len({event.record_key for event in events}) == 26


def move_over(store: SteppedStore, catalog: Catalog, alias: str) -> None:
    """A move through a registry of its own, as another process would make it."""
    catalog.bind(str(uuid4()))  # which empties it
    registry = Registry(store, catalog, freshness_s=0, tasks=OneByOne())
    registry.aliases.move(MoveRequest(NAME, alias, 1, by="ann"))


def race(
    template: MemoryStore, catalogs: Sequence[Catalog], num_first: int, num_second: int
) -> tuple[int, int]:
    """One schedule of two moves: the first takes some steps, the second some, the first ends, the
    second ends. Both are told once. How many steps were taken of those that were asked for."""
    store = template.copy()
    one = Actor(store, lambda stepped: move_over(stepped, catalogs[0], "one"))
    two = Actor(store, lambda stepped: move_over(stepped, catalogs[1], "two"))
    taken = one.advance(num_first), two.advance(num_second)
    one.finish()
    two.finish()
    assert one.error is None
    assert two.error is None
    told = [key for key in sorted(store.objects) if key.startswith(EVENTS)]
    kinds = [json.loads(store.objects[key][0])["kind"] for key in told]
    assert (told, kinds) == ([event_key(n) for n in (1, 2, 3)], ["version", "move", "move"])
    return taken


def test_two_moves_are_each_told_once_at_every_pair_of_switch_points(tmp_path: Path) -> None:
    template = MemoryStore(lambda: datetime.now(UTC))
    catalog = Catalog("sqlite://")
    pusher = Registry(template, catalog, tasks=OneByOne())  # type: ignore[arg-type]
    push_version(pusher, tmp_path, 1)
    catalog.close()
    catalogs = [Catalog(f"sqlite:///{tmp_path}/catalog{i}.sqlite") for i in range(2)]
    num_first = num_second = num_schedules = 0
    while True:
        first_taken, second_taken = race(template, catalogs, num_first, num_second)
        num_schedules += 1
        if second_taken == num_second:
            num_second += 1
        elif first_taken == num_first:
            num_first, num_second = num_first + 1, 0
        else:
            break
    assert num_schedules > 100
    for catalog in catalogs:
        catalog.close()


def test_events_that_a_crash_left_out_are_appended_at_the_next_start(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = FailingStore(LocalStore(tmp_path / "store"))
    crashed = open_registry(store=store, tasks=OneByOne())
    push_version(crashed, tmp_path, 1)
    store.fail_at = 2  # the move is claimed, its event is not
    with pytest.raises(StoreUnavailable):
        crashed.aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
    reopened = open_registry("other")
    assert [event.kind for event in all_events(reopened)] == ["version", "move"]
    assert keys(open_registry()) == keys(reopened)


def test_process_that_goes_on_after_a_failed_append_tells_of_it_later(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = FailingStore(LocalStore(tmp_path / "store"))
    registry = open_registry(store=store, tasks=OneByOne())
    push_version(registry, tmp_path, 1)
    store.fail_at = 2
    with pytest.raises(StoreUnavailable):
        registry.aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
    store.fail_at = None
    assert [event.kind for event in registry.events.read(1, wait_s=TIMEOUT_S).events] == ["move"]


def test_store_without_a_log_gets_one_in_order_of_time(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    registry = open_registry()
    push_version(registry, tmp_path, 1, alias="prod")
    push_version(registry, tmp_path, 2, alias="prod")
    registry.versions.change(StateRequest(NAME, 1, "yank", by="ann"))
    before = keys(registry)
    store = LocalStore(tmp_path / "store")
    for key in list(store.list(EVENTS)):
        store.delete(key)
    assert keys(open_registry("old store")) == before
    assert keys(open_registry()) == before  # this catalog knew events that were gone


def test_log_survives_the_loss_of_the_catalog(open_registry: OpenRegistry, tmp_path: Path) -> None:
    registry = open_registry()
    push_version(registry, tmp_path, 1, alias="prod")
    before = all_events(registry)
    assert all_events(open_registry("fresh")) == before
    registry.rebuild()
    assert all_events(registry) == before
    push_version(registry, tmp_path, 2)
    assert [event.sequence for event in all_events(registry)] == [1, 2, 3]


def test_cursor_is_ahead_once_the_store_was_put_back(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    registry = open_registry()
    push_version(registry, tmp_path, 1, alias="prod")
    store = LocalStore(tmp_path / "store")
    for prefix in ("aliases/", f"{EVENTS}0000000002"):
        for key in list(store.list(prefix)):
            store.delete(key)
    with pytest.raises(CursorAhead):
        open_registry().events.read(2)


def test_who_waits_sees_what_another_process_did(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    here, elsewhere = open_registry("here"), open_registry("elsewhere")
    cursor = here.events.read().cursor
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(here.events.read, cursor, wait_s=TIMEOUT_S)
        version = push_version(elsewhere, tmp_path, 1)
        assert [event.version for event in waiting.result(TIMEOUT_S).events] == [version]


def test_cursor_that_another_process_gave_is_not_ahead(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/here.sqlite")
    here = Registry.open(LocalStore(tmp_path / "store"), catalog, freshness_s=3600)
    push_version(open_registry("elsewhere"), tmp_path, 1, alias="prod")
    assert here.events.read(1).cursor == 2
    here.close()


def test_waiting_requests_leave_the_server_free_for_others(
    registry: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_waiting = 60  # more than the threads that answer everything else
    arrived = threading.Semaphore(0)
    events = registry.events.read

    def noted(after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        if wait_s > 0:
            arrived.release()
        return events(after, limit=limit, wait_s=wait_s)

    monkeypatch.setattr(registry.events, "read", noted)
    with RegistryClient(url) as client, ThreadPoolExecutor(num_waiting) as pool:
        waiting = [pool.submit(client.events.read, 0, wait_s=TIMEOUT_S) for _ in range(num_waiting)]
        for _ in waiting:
            assert arrived.acquire(timeout=TIMEOUT_S)
        assert client.adapters.all() == []
        assert not any(each.done() for each in waiting)
        registry.wake()
        assert {each.result(TIMEOUT_S).cursor for each in waiting} == {0}


def test_server_that_stops_ends_what_waits(
    open_registry: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry()
    arrived = threading.Semaphore(0)
    events = registry.events.read

    def noted(after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        if wait_s > 0:
            arrived.release()
        return events(after, limit=limit, wait_s=wait_s)

    monkeypatch.setattr(registry.events, "read", noted)
    with ExitStack() as server, ThreadPoolExecutor(2) as pool:
        url = server.enter_context(serving_app(assemble([registry_plane(registry)])))
        with RegistryClient(url) as client:
            with httpx.stream("GET", f"{url}/v1/events?after=0", headers=SSE) as streamed:
                polled = pool.submit(client.events.read, 0, wait_s=TIMEOUT_S)
                read = pool.submit(list, streamed.iter_lines())
                for _ in range(2):
                    assert arrived.acquire(timeout=TIMEOUT_S)
                server.close()
                assert polled.result(TIMEOUT_S / 3).events == ()
                assert read.result(TIMEOUT_S / 3)[:2] == [": ", "id: 0"]


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


@pytest.fixture
def url(registry: Registry) -> Iterator[str]:
    with serving_app(assemble([registry_plane(registry)], registry.access)) as found:
        yield found


def read_stream(url: str, count: int, **headers: str) -> list[tuple[str, str, Event]]:
    """The next `count` server-sent events: id, kind, event."""
    found: list[tuple[str, str, Event]] = []
    fields: dict[str, str] = {}
    with httpx.stream("GET", url, headers={**SSE, **headers}, timeout=TIMEOUT_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        while len(found) < count:
            line = next(lines)
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                event = Event.model_validate_json(fields.pop("data"))
                found.append((fields["id"], fields["event"], event))
    return found


def test_stream_gives_old_and_new_events_and_goes_on_after_the_last_id(
    registry: Registry, url: str, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_stream, f"{url}/v1/events?after=0", 4)
        push_version(registry, tmp_path, 2, alias="prod")
        streamed = reading.result(TIMEOUT_S)
    assert [event for _, _, event in streamed] == all_events(registry)
    assert [(i, kind) for i, kind, _ in streamed] == [
        ("1", "version"),
        ("2", "move"),
        ("3", "version"),
        ("4", "move"),
    ]
    resumed = read_stream(f"{url}/v1/events?after=0", 1, **{"Last-Event-ID": "3"})
    assert resumed == streamed[3:]


def test_stream_with_a_cursor_ahead_is_an_error_answer(url: str) -> None:
    response = httpx.get(f"{url}/v1/events?after=7", headers=SSE)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "cursor_ahead")
    response = httpx.get(f"{url}/v1/events", headers={**SSE, "Last-Event-ID": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def test_stream_without_events_is_kept_alive(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotswap.registry.http.routes.events.KEEP_ALIVE_S", 0.01)
    with httpx.stream("GET", f"{url}/v1/events?after=0", headers=SSE) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(6)] == [": ", "id: 0", ""] * 2


def test_token_sees_events_of_names_it_may_pull_and_its_cursor_passes_the_others(
    registry: Registry, url: str, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    push_version(registry, tmp_path, 1, name="other")
    made = {
        scope: registry.access.create(f"t{number}", [scope], by="tests").token
        for number, scope in enumerate(("pull:team/*", "pull:*", "move:*", "infer:*"))
    }

    def read(scope: str) -> tuple[list[str], int]:
        with RegistryClient(url, token=made[scope]) as client:
            page = client.events.read(0)
            return [event.version.name for event in page.events], page.cursor

    assert read("pull:team/*") == ([NAME], 2)
    assert read("pull:*") == ([NAME, "other"], 2)
    assert read("move:*") == ([], 2)
    response = httpx.get(f"{url}/v1/events", headers={"Authorization": f"Bearer {made['infer:*']}"})
    assert response.status_code == 403


def test_wait_is_ended_by_an_event_the_token_may_not_see_so_that_its_cursor_passes_it(
    registry: Registry, url: str, tmp_path: Path
) -> None:
    token = registry.access.create("t", ["pull:team/*"], by="tests").token
    with RegistryClient(url, token=token) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.events.read, 0, wait_s=TIMEOUT_S)
        push_version(registry, tmp_path, 1, name="other")
        page = waiting.result(TIMEOUT_S)
    assert (page.events, page.cursor) == ((), 1)
