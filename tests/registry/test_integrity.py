"""Damage is found, named and healed; states of versions are kept and respected."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.registry.bundles.transfer import pull, push
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import AliasConflict, VersionDeleted, VersionInUse
from hotswap.registry.domain.layout import blob_key, manifest_key
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from hotswap.registry.ledger.records import Records
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from tests.refusals import refused
from tests.registry.bundles import read_bundle
from tests.registry.conftest import OpenRegistry
from tests.registry.test_recovery import corrupt

NAME = "team/sql"


@pytest.fixture
def opened(open_registry: OpenRegistry) -> Registry:
    return open_registry()


def push_seed(registry: AdapterRegistry, tmp_path: Path, seed: int = 1, **options: str) -> None:
    directory = tmp_path / f"bundle{seed}"
    bundle, manifest = read_bundle(directory, seed)
    push(registry, NAME, bundle, manifest, by="ann", **options)  # type: ignore[arg-type]


def test_intact_store_is_read_to_its_end(opened: Registry, tmp_path: Path) -> None:
    push_seed(opened, tmp_path)
    report = opened.versions.verify()
    assert (report.num_objects, report.damage) == (4, ())
    files = [p for d in ("blobs", "manifests") for p in (tmp_path / "store" / d).rglob("*")]
    assert report.size_bytes == sum(p.stat().st_size for p in files if p.is_file())


@pytest.mark.parametrize("kind", ["blob", "manifest"])
@pytest.mark.parametrize("everything", [False, True], ids=["one version", "all"])
def test_damaged_object_is_reported_with_key_expected_and_got(
    opened: Registry, tmp_path: Path, kind: str, everything: bool
) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann")
    digest = manifest.digest if kind == "manifest" else manifest.files[0].digest
    key = manifest_key(digest) if kind == "manifest" else blob_key(digest)
    corrupt(tmp_path / "store", key)
    (damage,) = opened.versions.verify(None if everything else AdapterRef.parse(f"{NAME}:1")).damage
    got = Digest.of((tmp_path / "store" / key).read_bytes())
    assert (damage.key, damage.expected, damage.got) == (key, str(digest), str(got))


def test_missing_file_of_a_version_is_damage(opened: Registry, tmp_path: Path) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann")
    key = blob_key(manifest.files[0].digest)
    LocalStore(tmp_path / "store").delete(key)
    (damage,) = opened.versions.verify().damage
    assert (damage.key, damage.got) == (key, "nothing")


def test_damaged_blob_that_no_version_needs_is_found_by_all(
    opened: Registry, tmp_path: Path
) -> None:
    push_seed(opened, tmp_path)
    _, manifest = read_bundle(tmp_path / "b", 2)
    stray = blob_key(manifest.files[-1].digest)
    LocalStore(tmp_path / "store").put(stray, [b"other bytes"])
    assert [damage.key for damage in opened.versions.verify().damage] == [stray]
    assert not opened.versions.verify(AdapterRef.parse(f"{NAME}:1")).damage


def test_repairing_push_heals_a_damaged_blob(opened: Registry, tmp_path: Path) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann")
    for descriptor in manifest.files:
        corrupt(tmp_path / "store", blob_key(descriptor.digest))
    push(opened, NAME, bundle, manifest, by="ann")
    assert len(opened.versions.verify().damage) == 3
    push(opened, NAME, bundle, manifest, by="ann", repair=True)
    assert not opened.versions.verify().damage


def test_any_push_heals_a_damaged_manifest(opened: Registry, tmp_path: Path) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    push(opened, NAME, bundle, manifest, by="ann")
    corrupt(tmp_path / "store", manifest_key(manifest.digest))
    push(opened, NAME, bundle, manifest, by="ann")
    assert not opened.versions.verify().damage
    pull(opened, AdapterRef.parse(f"{NAME}:1"), tmp_path / "pulled")


def test_states_are_rebuilt_from_the_store(open_registry: OpenRegistry, tmp_path: Path) -> None:
    first = open_registry()
    for seed in (1, 2, 3):
        push_seed(first, tmp_path, seed)
    first.versions.change(StateRequest(NAME, 1, "yank", by="ann", why="slow"))
    first.versions.change(StateRequest(NAME, 2, "delete", by="bob"))
    fresh = open_registry(catalog="fresh")
    assert fresh.adapters.states(NAME) == first.adapters.states(NAME)
    assert [version.number for version in fresh.adapters.versions(NAME)] == [1, 3]


def test_state_changed_by_another_registry_is_seen(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    one, two = open_registry("one"), open_registry("two")
    push_seed(one, tmp_path)
    assert two.versions.resolve(AdapterRef.parse(f"{NAME}:1"))
    one.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    with refused(VersionDeleted, "adapter undelete team/sql:1"):
        two.versions.resolve(AdapterRef.parse(f"{NAME}:1"))


def test_version_that_an_alias_moved_to_while_it_was_deleted_comes_back(
    opened: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move looks at the state before the deletion and claims after it."""
    push_seed(opened, tmp_path)
    claim = Records.claim_move

    def delete_first(records: Records, move: object) -> bool:
        monkeypatch.setattr(Records, "claim_move", claim)
        opened.versions.change(StateRequest(NAME, 1, "delete", by="bob"))
        return claim(records, move)  # type: ignore[arg-type]

    monkeypatch.setattr(Records, "claim_move", delete_first)
    opened.aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
    assert opened.versions.resolve(AdapterRef.parse(NAME)).number == 1
    assert [(s.state, s.changed_by) for s in opened.adapters.states(NAME)] == [("active", "ann")]


def test_deletion_that_an_alias_move_overtakes_is_taken_back_and_refused(
    opened: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move ends between the deletion's look at the aliases and its claim."""
    push_seed(opened, tmp_path)
    claim = Records.claim_state

    def move_first(records: Records, state: object) -> bool:
        monkeypatch.setattr(Records, "claim_state", claim)
        opened.aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
        return claim(records, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Records, "claim_state", move_first)
    with refused(VersionInUse, "team/sql@prod"):
        opened.versions.change(StateRequest(NAME, 1, "delete", by="bob"))
    assert opened.versions.resolve(AdapterRef.parse(f"{NAME}:1")).number == 1


def test_alias_conflict_is_still_told_from_a_state(opened: Registry, tmp_path: Path) -> None:
    push_seed(opened, tmp_path, 1, alias="prod")
    push_seed(opened, tmp_path, 2)
    with pytest.raises(AliasConflict):
        opened.aliases.move(MoveRequest(NAME, "prod", 2, by="ann", expect=2))
