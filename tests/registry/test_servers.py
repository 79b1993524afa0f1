"""Which servers count as live, whose reports are believed, and who sees what they serve."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobCorrupted, Forbidden
from hotswap.registry.domain.layout import server_key
from hotswap.registry.events.servers import LIVE, NOTE_AGE, NOTE_COUNTS, Servers, read_servers
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from tests.contracts.test_servers import DIGEST, NAME, report_at
from tests.refusals import refused
from tests.registry.conftest import OpenRegistry
from tests.servers import serving_app

OTHER = Digest.of(b"another adapter")


class World:
    """Servers over one store at a time that stands still until it is moved."""

    def __init__(self, root: Path) -> None:
        self.store = LocalStore(root)
        self.now = datetime(2026, 11, 24, tzinfo=UTC)
        self.servers = self.started()

    def started(self) -> Servers:
        return Servers(self.store, lambda: self.now)

    def noted(self) -> list[tuple[str, datetime]]:
        return [(info.server_id, info.seen_at) for info in read_servers(self.store, self.now)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


def ids(servers: Servers) -> list[str]:
    return [info.server_id for info in servers.all()]


def test_server_that_is_not_heard_of_is_no_longer_live(world: World) -> None:
    world.now += LIVE  # the notes of before the start count no more
    world.servers.report("a", report_at(1), by="")
    world.now += LIVE
    world.servers.report("b", report_at(1), by="")
    assert ids(world.servers) == ["a", "b"]
    world.now += timedelta(seconds=1)
    assert ids(world.servers) == ["b"]


def test_after_a_start_the_noted_servers_count_until_they_had_time_to_report(world: World) -> None:
    world.servers.report("a", report_at(1), by="")
    restarted = world.started()
    assert ids(restarted) == ["a"]
    world.now += LIVE
    assert ids(restarted) == []


def test_after_a_start_a_server_still_belongs_to_its_token(world: World) -> None:
    world.servers.report("a", report_at(1), by="one")
    restarted = world.started()
    with refused(Forbidden, "server a", "'two'"):
        restarted.report("a", report_at(9), by="two")
    restarted.report("a", report_at(2), by="one")
    assert [info.cursor for info in restarted.all()] == [2]


def test_note_is_written_again_when_what_is_loaded_changes_or_it_gets_old(world: World) -> None:
    start = world.now
    world.servers.report("a", report_at(1), by="")
    world.now += timedelta(seconds=10)
    world.servers.report("a", report_at(2), by="")
    assert world.noted() == [("a", start)]
    more = report_at(2).model_copy(update={"loaded": (DIGEST, OTHER)})
    world.servers.report("a", more, by="")
    assert world.noted() == [("a", world.now)]
    world.now += NOTE_AGE
    world.servers.report("a", more, by="")
    assert world.noted() == [("a", world.now)]


def test_note_of_a_server_that_ended_without_a_goodbye_counts_no_more(world: World) -> None:
    world.servers.report("a", report_at(1), by="")
    world.now += NOTE_COUNTS
    assert world.noted() != []
    world.now += timedelta(seconds=1)
    assert world.noted() == []


def test_damaged_note_is_named(world: World) -> None:
    world.store.create(server_key("a"), b"{")
    with refused(BlobCorrupted, "servers/a.json"):
        world.noted()


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


@pytest.fixture
def url(registry: Registry) -> Iterator[str]:
    with serving_app(assemble([registry_plane(registry)], registry.access)) as found:
        yield found


def login(registry: Registry, url: str, name: str, scope: str) -> RegistryClient:
    return RegistryClient(url, token=registry.access.create(name, [scope], by="tests").token)


def test_nobody_answers_for_a_server_of_another_token(registry: Registry, url: str) -> None:
    with (
        login(registry, url, "one", "pull:*") as one,
        login(registry, url, "two", "pull:*") as two,
    ):
        assert one.events.report("gpu1", report_at(1)).by == "one"
        with refused(Forbidden, "server gpu1", "'two'"):
            two.events.report("gpu1", report_at(9))
        with refused(Forbidden, "server gpu1", "'two'"):
            two.events.forget("gpu1")
        assert [(s.server_id, s.cursor) for s in two.events.servers()] == [("gpu1", 1)]


def test_digests_are_shown_to_those_who_may_pull_the_names(registry: Registry, url: str) -> None:
    registry.events.report("gpu1", report_at(1).model_copy(update={"loaded": (DIGEST, OTHER)}))
    for number, (scope, aliases, loaded) in enumerate(
        [
            ("pull:team/*", [f"{NAME}@prod"], [DIGEST]),
            ("pull:other", [], []),
            ("move:other", [], []),
            ("admin", [f"{NAME}@prod"], [DIGEST, OTHER]),
        ]
    ):
        with login(registry, url, f"t{number}", scope) as client:
            (shown,) = client.events.servers()
            assert (list(shown.aliases), list(shown.loaded)) == (aliases, loaded)


def test_infer_neither_reports_nor_looks(registry: Registry, url: str) -> None:
    with login(registry, url, "app", "infer:*") as client:
        with pytest.raises(Forbidden):
            client.events.report("gpu1", report_at(1))
        with pytest.raises(Forbidden):
            client.events.servers()
