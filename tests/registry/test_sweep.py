"""Sweep deletes what nothing needs, late, and never what a push is about to reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from hotswap.registry.bundles import transfer
from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    BlobCorrupted,
    BlobNotFound,
    InvalidRequest,
    SweepInProgress,
    VersionDeleted,
)
from hotswap.registry.domain.integrity import IntegrityReport
from hotswap.registry.domain.layout import SERVERS, blob_key, condemned_key, manifest_key
from hotswap.registry.domain.requests import StateRequest
from hotswap.registry.domain.servers import ServerReport
from hotswap.registry.events.servers import Servers
from hotswap.registry.ledger.pins import ANNOUNCED, Note, announced, pinned
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import GONE
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.tasks import OneByOne
from hotswap.registry.upkeep.integrity import IntegrityCheck
from hotswap.registry.upkeep.sweep import Sweep, SweepReport
from tests.refusals import refused
from tests.registry.bundles import read_bundle
from tests.registry.stepping import Actor, MemoryStore

NAME = "team/sql"
GRACE = timedelta(days=7)
START = datetime.now(UTC)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def pass_grace(self) -> None:
        # The registry's own records carry the real time, so a little more than the grace.
        self.time += GRACE + timedelta(hours=1)


class World:
    """A store in memory, a registry over it, and sweeps at the time of its clock."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.tmp_path = tmp_path
        self.num_catalogs = 0
        self.opened: list[Registry] = []
        self.other_catalog = Catalog(f"sqlite:///{tmp_path}/other.sqlite")
        self.registry = self.open(self.store)
        self.bundles = {seed: read_bundle(tmp_path / f"bundle{seed}", seed) for seed in (1, 2)}

    def open(self, store: object) -> Registry:
        self.num_catalogs += 1
        catalog = Catalog(f"sqlite:///{self.tmp_path}/catalog{self.num_catalogs}.sqlite")
        self.opened.append(Registry.open(store, catalog, freshness_s=0))  # type: ignore[arg-type]
        return self.opened[-1]

    def push(self, seed: int, alias: str | None = None) -> None:
        push(self.registry, NAME, *self.bundles[seed], by="ann", alias=alias)

    def upload_only(self, seed: int) -> None:
        bundle, manifest = self.bundles[seed]
        for file in manifest.files:
            self.registry.blobs.put(file, [bundle.path(file).read_bytes()])

    def blob(self, seed: int) -> str:
        return blob_key(self.bundles[seed][1].file("adapter_model.safetensors").digest)

    def digest(self, seed: int) -> Digest:
        return self.bundles[seed][1].digest

    def sweep(self, *, delete: bool = True, loaded: tuple[Digest, ...] = ()) -> SweepReport:
        sweep = Sweep(self.store, grace=GRACE, loaded=lambda: loaded, now=self.clock)
        return sweep.run(delete=delete)

    def sweep_until_gone(self, *, loaded: tuple[Digest, ...] = ()) -> SweepReport:
        """Condemn, let the grace period pass, delete."""
        self.clock.pass_grace()
        self.sweep(loaded=loaded)
        self.clock.pass_grace()
        return self.sweep(loaded=loaded)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for registry in made.opened:
        registry.close()
    made.other_catalog.close()


def test_unreferenced_blob_is_condemned_then_deleted_after_the_grace_period(world: World) -> None:
    world.upload_only(1)
    assert not world.sweep().condemned
    world.clock.pass_grace()
    assert {each.key for each in world.sweep().condemned} >= {world.blob(1)}
    assert not world.sweep().deleted
    world.clock.pass_grace()
    report = world.sweep()
    assert {each.key for each in report.deleted} >= {world.blob(1)}
    assert report.freed_bytes == world.bundles[1][1].size_bytes
    assert not list(world.store.list("blobs/"))
    assert not list(world.store.list("condemned/"))


def test_dry_run_says_the_same_and_changes_nothing(world: World) -> None:
    world.upload_only(1)
    world.clock.pass_grace()
    world.sweep()
    world.clock.pass_grace()
    before = dict(world.store.objects)
    said = world.sweep(delete=False)
    assert world.store.objects == before
    done = world.sweep()
    assert (said.deleted, said.freed_bytes) == (done.deleted, done.freed_bytes)
    assert said.deleted


def test_everything_a_version_needs_stays(world: World) -> None:
    world.push(1)
    report = world.sweep_until_gone()
    assert not report.deleted
    assert report.num_live == 4
    assert not world.registry.versions.verify().damage


def test_push_takes_the_mark_of_what_it_finds_stored(world: World) -> None:
    world.upload_only(1)
    world.clock.pass_grace()
    world.sweep()
    assert world.store.stat(condemned_key(world.blob(1)))
    world.push(1)
    assert not world.store.stat(condemned_key(world.blob(1)))
    world.clock.pass_grace()
    assert not world.sweep().deleted


def test_deleted_version_is_purged_after_the_grace_period_and_its_blobs_go_later(
    world: World,
) -> None:
    world.push(1)
    world.push(2)
    world.registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    assert not world.sweep().purged
    world.clock.pass_grace()
    assert world.sweep().purged == [f"{NAME}:1"]
    purge = list(world.registry.access.entries())[-1]
    assert (purge.action, purge.what, purge.before) == ("purge", f"{NAME}:1", "deleted")
    with refused(VersionDeleted, f"{NAME}:1"):
        world.registry.versions.change(StateRequest(NAME, 1, "undelete", by="ann"))
    world.clock.pass_grace()
    deleted = {each.key for each in world.sweep().deleted}
    assert {world.blob(1), manifest_key(world.digest(1))} <= deleted
    assert world.blob(2) not in deleted
    assert not world.registry.versions.verify(AdapterRef.parse(f"{NAME}:2")).damage


def test_undelete_inside_the_grace_period_keeps_everything(world: World) -> None:
    world.push(1)
    world.registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    world.sweep()
    world.registry.versions.change(StateRequest(NAME, 1, "undelete", by="ann"))
    assert not world.sweep_until_gone().purged
    assert not world.registry.versions.verify(AdapterRef.parse(f"{NAME}:1")).damage


def test_pushing_a_purged_version_again_brings_its_number_back(world: World) -> None:
    world.push(1)
    world.registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    world.sweep_until_gone()
    world.push(1)
    assert [version.number for version in world.registry.adapters.versions(NAME)] == [1]
    assert not world.registry.versions.verify().damage


@pytest.mark.parametrize("kept_by", ["history", "server"])
def test_deleted_version_that_is_needed_stays(world: World, kept_by: str) -> None:
    world.push(1, alias="prod" if kept_by == "history" else None)
    world.push(2, alias="prod")
    world.registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    loaded = (world.digest(1),) if kept_by == "server" else ()
    report = world.sweep_until_gone(loaded=loaded)
    assert not report.purged
    assert not report.deleted
    world.registry.versions.change(StateRequest(NAME, 1, "undelete", by="ann"))
    assert not world.registry.versions.verify(AdapterRef.parse(f"{NAME}:1")).damage


def test_what_a_server_reports_as_loaded_is_kept_until_it_says_goodbye(world: World) -> None:
    world.push(1)
    world.registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    servers = Servers(world.store, world.clock)
    loaded = ServerReport(base="tiny", cursor=0, aliases={}, loaded=(world.digest(1),))
    for _ in range(3):
        world.clock.pass_grace()
        servers.report("gpu1", loaded, by="")
        report = world.sweep()
        assert not report.purged
        assert not report.condemned
    servers.forget("gpu1", by="")
    assert world.sweep().purged == [f"{NAME}:1"]


def test_note_of_a_server_that_ended_without_a_goodbye_is_removed(world: World) -> None:
    loaded = ServerReport(base="tiny", cursor=0, aliases={}, loaded=())
    Servers(world.store, world.clock).report("gpu1", loaded, by="")
    world.sweep()
    assert list(world.store.list(SERVERS))
    world.clock.pass_grace()
    world.sweep()
    assert not list(world.store.list(SERVERS))


def test_digest_that_another_store_gave_a_server_is_no_obstacle(world: World) -> None:
    assert not world.sweep(loaded=(Digest.of(b"elsewhere"),)).deleted


def test_sweep_that_cannot_read_a_manifest_deletes_nothing(world: World) -> None:
    world.push(1)
    world.upload_only(2)
    world.clock.pass_grace()
    world.sweep()
    world.clock.pass_grace()
    world.store.put(manifest_key(world.digest(1)), [b"{}"])
    with refused(BlobCorrupted, manifest_key(world.digest(1))):
        world.sweep()
    assert world.store.stat(world.blob(2))


def test_grace_period_shorter_than_a_push_is_refused(world: World) -> None:
    with refused(InvalidRequest, "1:00:00"):
        Sweep(world.store, grace=timedelta(minutes=1))


def test_push_is_refused_while_a_sweep_deletes_what_it_needs(world: World) -> None:
    with announced(world.store, ["blobs/a"], world.clock):
        with refused(SweepInProgress, "blobs/a"):
            with pinned(world.store, ["blobs/a", "blobs/b"], world.clock):
                pass
        with pinned(world.store, ["blobs/b"], world.clock):
            pass
    assert not list(world.store.list("pins/"))


def test_announcement_of_a_crashed_sweep_stops_no_push_once_it_has_run_out(world: World) -> None:
    Note("sweeps/crashed.json", ["blobs/a"], world.clock() + ANNOUNCED).write(world.store)
    world.clock.time += ANNOUNCED
    with pinned(world.store, ["blobs/a"], world.clock):
        pass


def test_notes_of_crashed_processes_are_removed_after_the_grace_period(world: World) -> None:
    for prefix in ("pins/", "sweeps/"):
        Note(f"{prefix}crashed.json", ["blobs/a"], world.clock()).write(world.store)
    world.sweep()
    assert len(list(world.store.list("pins/"))) == 1
    world.clock.pass_grace()
    world.sweep()
    assert not list(world.store.list("pins/"))
    assert not list(world.store.list("sweeps/"))


def test_old_temporary_files_of_a_directory_are_removed_and_new_ones_kept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for name, age in (("old", GRACE + timedelta(hours=1)), ("new", timedelta())):
        path = tmp_path / "store/.tmp" / name
        path.write_bytes(b"x" * 10)
        then = (datetime.now(UTC) - age).timestamp()
        os.utime(path, (then, then))
    assert [each.key for each in Sweep(store, grace=GRACE).run().unfinished] == ["old"]
    report = Sweep(store, grace=GRACE).run(delete=True)
    assert report.freed_bytes == 10
    assert [path.name for path in (tmp_path / "store/.tmp").iterdir()] == ["new"]


# Each scenario leaves the store as it is when a deleting sweep is due and a push needs the same.
def _condemned_upload(world: World) -> None:
    world.upload_only(1)
    world.clock.pass_grace()
    world.sweep()
    world.clock.pass_grace()


def _expired_deletion(world: World) -> None:
    world.push(1)
    world.registry.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    world.clock.pass_grace()


def _purged_version(world: World) -> None:
    _expired_deletion(world)
    world.sweep()
    world.clock.pass_grace()


def push_over(store: object, world: World) -> None:
    """A push through a registry of its own, as another process would do it."""
    world.other_catalog.bind(str(uuid4()))  # which empties it
    registry = Registry(  # type: ignore[arg-type]
        store,
        world.other_catalog,
        freshness_s=0,
        now=world.clock,
        capabilities=store.measure("probe"),
        tasks=OneByOne(),
    )
    push(registry, NAME, *world.bundles[1], by="bob", alias="prod")


def damage_of(store: MemoryStore) -> IntegrityReport:
    """Everything that is wrong with a version that is not deleted, or that an alias points to."""
    versions, moves, states = Records(store).everything()
    newest = {(s.name, s.number): s.state for s in states}
    pointed = {(m.name, m.to_number) for m in moves}
    assert not [key for key in pointed if newest.get(key) in GONE]
    check = IntegrityCheck(store)
    check.versions(v for v in versions if newest.get((v.name, v.number)) not in GONE)
    return check.report(store.measure("probe"))


# A sweep replaces none of them; what it tells of there changes nothing that a push does.
OF_NO_INTEREST = ("events/", "names/", "audit/")


def race(world: World, first: str, num_first: int, num_second: int) -> tuple[int, int]:
    """One schedule: the first actor takes some steps, the other some, the first ends, the other
    ends. Nothing referenced is lost. How many steps were taken of those that were asked for."""
    store = world.store.copy()
    actors = {
        "push": Actor(store, lambda stepped: push_over(stepped, world), OF_NO_INTEREST),
        "sweep": Actor(
            store,
            lambda stepped: Sweep(stepped, grace=GRACE, now=world.clock).run(delete=True),
            OF_NO_INTEREST,
        ),
    }
    one = actors.pop(first)
    (two,) = actors.values()
    taken = one.advance(num_first), two.advance(num_second)
    one.finish()
    two.finish()
    pusher, sweeper = (one, two) if first == "push" else (two, one)
    assert sweeper.error is None
    assert not damage_of(store).damage
    if pusher.error is not None:
        # Without pauses the last attempt may come before the sweep has gone on.
        assert isinstance(pusher.error, SweepInProgress | BlobNotFound)
        push_over(store, world)
    versions, moves, _ = Records(store).everything()
    assert [(v.name, v.number) for v in versions] == [(NAME, 1)]
    assert [m.to_number for m in moves] == [1]
    assert not damage_of(store).damage
    assert not list(store.list("pins/"))
    assert not list(store.list("sweeps/"))
    return taken


@pytest.mark.parametrize("first", ["push", "sweep"])
@pytest.mark.parametrize(
    "prepare", [_condemned_upload, _expired_deletion, _purged_version], ids=lambda f: f.__name__
)
def test_at_every_interleaving_of_a_push_and_a_sweep_nothing_referenced_is_lost(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[World], None],
    first: str,
) -> None:
    monkeypatch.setattr(transfer, "PAUSES_S", (0.0,) * len(transfer.PAUSES_S))
    prepare(world)
    num_schedules = 0
    num_first = 0
    while True:
        num_second = 0
        while True:
            first_taken, second_taken = race(world, first, num_first, num_second)
            num_schedules += 1
            if second_taken < num_second:
                break
            num_second += 1
        if first_taken < num_first:
            break
        num_first += 1
    assert num_schedules > 300
