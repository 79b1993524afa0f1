"""Delete, undelete, yank and unyank, in process and over HTTP, with the same errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import (
    Conflict,
    NothingToRollBack,
    VersionDeleted,
    VersionInUse,
    VersionNotFound,
    VersionYanked,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from tests.contracts.conftest import UNSIGNED
from tests.contracts.pushes import NAME, push_version
from tests.refusals import refused


@pytest.fixture
def three(registry: AdapterRegistry, tmp_path: Path) -> AdapterRegistry:
    """Versions 1, 2 and 3; prod has pointed to 1, 2 and 3."""
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed, alias="prod")
    return registry


def test_deleted_version_is_not_resolved_or_listed_and_comes_back(three: AdapterRegistry) -> None:
    version = three.versions.resolve(AdapterRef.parse(f"{NAME}:2"))
    three.versions.change(StateRequest(NAME, 2, "delete", by="ann", why="leaked names"))
    for text in (f"{NAME}:2", f"{NAME}@{version.manifest_digest}"):
        with refused(VersionDeleted, "adapter undelete team/sql:2"):
            three.versions.resolve(AdapterRef.parse(text))
    assert [v.number for v in three.adapters.versions(NAME)] == [1, 3]
    three.versions.change(StateRequest(NAME, 2, "undelete", by="ann"))
    assert three.versions.resolve(AdapterRef.parse(f"{NAME}:2")) == version
    assert [v.number for v in three.adapters.versions(NAME)] == [1, 2, 3]


def test_version_that_an_alias_points_to_is_not_deleted(three: AdapterRegistry) -> None:
    with refused(VersionInUse, "team/sql@prod"):
        three.versions.change(StateRequest(NAME, 3, "delete", by="ann"))
    assert three.adapters.states(NAME) == []


def test_no_alias_moves_to_a_yanked_version_and_it_stays_pullable(three: AdapterRegistry) -> None:
    three.versions.change(StateRequest(NAME, 2, "yank", by="ann"))
    with refused(VersionYanked, "adapter unyank team/sql:2"):
        three.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))
    assert three.versions.resolve(AdapterRef.parse(f"{NAME}:2")).number == 2
    three.versions.change(StateRequest(NAME, 2, "unyank", by="ann"))
    assert three.aliases.move(MoveRequest(NAME, "prod", 2, by="ann")).to_number == 2


def test_no_alias_moves_to_a_deleted_version(three: AdapterRegistry) -> None:
    three.versions.change(StateRequest(NAME, 2, "delete", by="ann"))
    with pytest.raises(VersionDeleted):
        three.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))


def test_rollback_passes_over_yanked_and_deleted_versions(three: AdapterRegistry) -> None:
    three.versions.change(StateRequest(NAME, 2, "yank", by="ann"))
    assert three.aliases.rollback(MoveRequest(NAME, "prod", by="ann")).to_number == 1
    three.versions.change(StateRequest(NAME, 3, "delete", by="ann"))
    with pytest.raises(NothingToRollBack):
        three.aliases.rollback(MoveRequest(NAME, "prod", by="ann"))


def test_yanked_version_that_was_deleted_comes_back_yanked(three: AdapterRegistry) -> None:
    for verb in ("yank", "delete", "undelete"):
        state = three.versions.change(StateRequest(NAME, 1, verb, by="ann"))  # type: ignore[arg-type]
    assert (state.state, state.sequence) == ("yanked", 3)


def test_change_that_is_done_already_writes_nothing(three: AdapterRegistry) -> None:
    first = three.versions.change(StateRequest(NAME, 1, "delete", by="ann", why="old"))
    assert three.versions.change(StateRequest(NAME, 1, "delete", by="bob")) == first
    assert three.adapters.states(NAME) == [first]


@pytest.mark.parametrize(
    ("verb", "words"), [("undelete", "must be deleted"), ("unyank", "must be yanked")]
)
def test_change_that_does_not_fit_names_the_state(
    three: AdapterRegistry, verb: str, words: str
) -> None:
    with refused(Conflict, f"{NAME}:1", "active"):
        three.versions.change(StateRequest(NAME, 1, verb, by="ann"))  # type: ignore[arg-type]


def test_state_of_a_version_that_does_not_exist_is_refused(three: AdapterRegistry) -> None:
    with pytest.raises(VersionNotFound):
        three.versions.change(StateRequest(NAME, 9, "yank", by="ann"))


def test_pushing_a_deleted_version_again_brings_it_back(
    three: AdapterRegistry, tmp_path: Path
) -> None:
    three.versions.change(StateRequest(NAME, 1, "delete", by="ann"))
    assert push_version(three, tmp_path / "again", 1).number == 1
    assert [v.number for v in three.adapters.versions(NAME)] == [1, 2, 3]


@pytest.mark.parametrize("registry", UNSIGNED, indirect=True)
def test_verify_reads_every_file_of_a_version(three: AdapterRegistry) -> None:
    report = three.versions.verify(AdapterRef.parse(f"{NAME}:1"))
    assert (report.num_objects, report.damage) == (4, ())
    assert three.versions.verify().num_objects > 4
