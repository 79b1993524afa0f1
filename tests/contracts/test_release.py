"""What every registry must do about protected aliases, in process and over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    InvalidRequest,
    NothingToRollBack,
    PolicyViolation,
    VersionNotFound,
    VersionYanked,
)
from hotswap.registry.domain.policy import ReleasePolicy, Rule
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, PushRequest, StateRequest
from tests.refusals import refused
from tests.registry.bundles import read_bundle

NAME = "team/sql"


@pytest.fixture
def policy() -> ReleasePolicy:
    return ReleasePolicy(
        rules=(Rule(match="team/*@prod", min={"em": 0.5}, max_drop={"em": 0.1}, why_min_length=5),)
    )


def push_scored(
    registry: AdapterRegistry, directory: Path, em: float, alias: str | None = None
) -> AdapterVersion:
    bundle, _ = read_bundle(directory / f"{em}-{alias}", int(em * 100))
    manifest = bundle.manifest(metrics={"em": em})
    return push(registry, NAME, bundle, manifest, by="ann", alias=alias, why="tested")


def test_policy_is_what_the_registry_was_given(
    registry: AdapterRegistry, policy: ReleasePolicy
) -> None:
    assert registry.aliases.policy() == policy


def test_move_that_meets_the_conditions_is_made(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_scored(registry, tmp_path, 0.8, "prod")
    version = push_scored(registry, tmp_path, 0.75)
    plan = registry.aliases.plan_move(MoveRequest(NAME, "prod", 2, by="ann", why="cheaper"))
    move = registry.aliases.move(MoveRequest(NAME, "prod", 2, by="ann", why="cheaper"))
    assert plan.allowed
    assert (plan.from_number, plan.to_number, plan.sequence) == (1, 2, move.sequence)
    assert plan.to_digest == version.manifest_digest


def test_move_that_fails_a_condition_is_refused_naming_each(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_scored(registry, tmp_path, 0.8, "prod")
    push_scored(registry, tmp_path, 0.6)
    with refused(PolicyViolation, "em at most 0.1", 5):
        registry.aliases.move(MoveRequest(NAME, "prod", 2, by="ann", why="x"))
    plan = registry.aliases.plan_move(MoveRequest(NAME, "prod", 2, by="ann", why="x"))
    asked = {c.asked: c.holds for c in plan.conditions}
    assert not plan.allowed
    assert asked == {
        "an active version": True,
        "em of at least 0.5": True,
        "em at most 0.1 below version 1 (0.8)": False,
        "a reason of at least 5 characters": False,
    }
    assert [m.to_number for m in registry.aliases.all(NAME)] == [1]


def test_alias_that_no_rule_matches_moves_freely(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_scored(registry, tmp_path, 0.1, "candidate")
    assert registry.aliases.plan_move(MoveRequest(NAME, "other", 1, by="ann")).allowed


def test_refused_alias_makes_no_version(registry: AdapterRegistry, tmp_path: Path) -> None:
    with pytest.raises(PolicyViolation):
        push_scored(registry, tmp_path, 0.4, "prod")
    with pytest.raises(AdapterNotFound):
        registry.adapters.versions(NAME)


def test_existing_version_is_judged_like_a_new_one(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_scored(registry, tmp_path, 0.4)
    push_scored(registry, tmp_path, 0.6)
    with refused(PolicyViolation, "version 1"):
        push_scored(registry, tmp_path, 0.4, "prod")
    assert push_scored(registry, tmp_path, 0.6, "prod").number == 2
    assert [m.to_number for m in registry.aliases.all(NAME)] == [2]


def test_push_of_what_the_alias_points_to_asks_nothing(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    version = push_scored(registry, tmp_path, 0.8, "prod")
    manifest = registry.versions.manifest(version.manifest_digest)
    plan = registry.versions.plan(PushRequest(NAME, manifest, by="ann", alias="prod"))
    assert (plan.allowed, plan.conditions, plan.from_number) == (True, (), plan.to_number)
    assert registry.versions.commit(PushRequest(NAME, manifest, by="ann", alias="prod")) == version


def test_plan_of_a_push_names_the_number_it_would_get(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_scored(registry, tmp_path, 0.8, "prod")
    bundle, _ = read_bundle(tmp_path / "new", 7)
    manifest = bundle.manifest(metrics={"em": 0.9})
    plan = registry.versions.plan(PushRequest(NAME, manifest, by="ann", alias="prod", why="better"))
    assert (plan.from_number, plan.to_number, plan.is_new_version) == (1, 2, True)
    assert (plan.allowed, plan.to_digest) == (True, manifest.digest)
    assert [v.number for v in registry.adapters.versions(NAME)] == [1]


def test_rollback_goes_back_whatever_the_conditions_say(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_scored(registry, tmp_path, 0.6, "prod")
    push_scored(registry, tmp_path, 0.9, "prod")
    with pytest.raises(PolicyViolation):
        registry.aliases.move(MoveRequest(NAME, "prod", 1, by="ann", why="go back"))
    plan = registry.aliases.plan_rollback(MoveRequest(NAME, "prod", by="ann"))
    assert (plan.allowed, plan.from_number, plan.to_number) == (True, 2, 1)
    assert registry.aliases.rollback(MoveRequest(NAME, "prod", by="ann")).to_number == 1


def test_rollback_of_a_protected_alias_does_not_go_to_a_yanked_version(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_scored(registry, tmp_path, 0.6, "prod")
    push_scored(registry, tmp_path, 0.65, "prod")
    registry.versions.change(StateRequest(NAME, 1, "yank", by="ann"))
    plan = registry.aliases.plan_rollback(MoveRequest(NAME, "prod", by="ann", to=1))
    assert not plan.allowed
    assert "was yanked" in plan.conditions[0].found
    with pytest.raises(VersionYanked):
        registry.aliases.rollback(MoveRequest(NAME, "prod", by="ann", to=1))
    with pytest.raises(NothingToRollBack):
        registry.aliases.plan_rollback(MoveRequest(NAME, "prod", by="ann"))


def test_plan_tells_that_the_expectation_is_wrong(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_scored(registry, tmp_path, 0.8, "prod")
    push_scored(registry, tmp_path, 0.85)
    plan = registry.aliases.plan_move(
        MoveRequest(NAME, "prod", 2, by="ann", why="better", expect=2)
    )
    assert not plan.allowed
    assert "ann moved it to version 1" in plan.conditions[0].found
    assert registry.aliases.plan_move(
        MoveRequest(NAME, "prod", 2, by="ann", why="better", expect=1)
    ).allowed


def test_plan_to_a_yanked_version_says_so(registry: AdapterRegistry, tmp_path: Path) -> None:
    version = push_scored(registry, tmp_path, 0.8)
    registry.versions.change(StateRequest(NAME, 1, "yank", by="ann"))
    plan = registry.aliases.plan_move(MoveRequest(NAME, "prod", 1, by="ann", why="better"))
    assert [c.holds for c in plan.conditions] == [False, True, True, True]
    manifest = registry.versions.manifest(version.manifest_digest)
    plan = registry.versions.plan(PushRequest(NAME, manifest, by="ann", alias="prod", why="better"))
    assert "unyank" in plan.conditions[0].to_do


def test_plan_of_a_push_tells_that_the_name_is_taken(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    version = push_scored(registry, tmp_path, 0.8)
    manifest = registry.versions.manifest(version.manifest_digest)
    plan = registry.versions.plan(PushRequest("team.x/sql", manifest, by="ann", alias="prod"))
    assert plan.allowed
    registry.versions.commit(PushRequest("team.x/sql", manifest, by="ann"))
    plan = registry.versions.plan(PushRequest("team-x/sql", manifest, by="ann", alias="prod"))
    assert not plan.allowed
    assert "looks like the adapter 'team.x/sql'" in plan.conditions[0].found


def test_plan_of_what_is_not_there_is_an_error(registry: AdapterRegistry, tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFound):
        registry.aliases.plan_move(MoveRequest("no/such", "prod", 1, by="ann"))
    push_scored(registry, tmp_path, 0.8)
    with pytest.raises(VersionNotFound):
        registry.aliases.plan_move(MoveRequest(NAME, "prod", 9, by="ann"))
    with refused(InvalidRequest, "'by'"):
        registry.aliases.plan_move(MoveRequest(NAME, "prod", 1, by=""))
