"""What every registry's aliases must do, with the same errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import (
    AliasConflict,
    InvalidRequest,
    NothingToRollBack,
    VersionNotFound,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest
from tests.contracts.pushes import NAME, push_version
from tests.refusals import refused


def test_nameless_actor_is_refused(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_version(registry, tmp_path, 1)
    with refused(InvalidRequest, "'by'"):
        registry.aliases.move(MoveRequest(NAME, "prod", 1, by=" "))


def test_alias_history_is_ordered_and_complete(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    push_version(registry, tmp_path, 2)
    registry.aliases.move(MoveRequest(NAME, "prod", 2, by="bob", why="better"))
    moves = registry.aliases.history(NAME, "prod")
    assert [(m.sequence, m.from_number, m.to_number, m.moved_by, m.why) for m in moves] == [
        (1, None, 1, "ann", "seed 1"),
        (2, 1, 2, "bob", "better"),
    ]
    assert registry.aliases.all(NAME) == [moves[-1]]


def test_move_to_where_the_alias_points_writes_nothing(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    move = registry.aliases.move(MoveRequest(NAME, "prod", 1, by="bob", why="again"))
    assert registry.aliases.history(NAME, "prod") == [move]
    assert move.moved_by == "ann"


def test_move_to_a_version_that_does_not_exist_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    with pytest.raises(VersionNotFound):
        registry.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))


def test_move_with_a_wrong_expectation_names_who_moved_it(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    push_version(registry, tmp_path, 2, alias="prod")
    push_version(registry, tmp_path, 3)
    with refused(AliasConflict, "version 1", "version 2", "ann"):
        registry.aliases.move(MoveRequest(NAME, "prod", 3, by="bob", expect=1))
    assert registry.aliases.move(MoveRequest(NAME, "prod", 3, by="bob", expect=2)).to_number == 3


def test_of_racing_moves_with_an_expectation_one_wins(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    numbers = [push_version(registry, tmp_path, seed).number for seed in range(2, 8)]

    def attempt(number: int) -> int:
        try:
            return registry.aliases.move(
                MoveRequest(NAME, "prod", number, by="bob", expect=1)
            ).to_number
        except AliasConflict:
            return 0

    with ThreadPoolExecutor(len(numbers)) as pool:
        won = [number for number in pool.map(attempt, numbers) if number]
    assert [move.to_number for move in registry.aliases.history(NAME, "prod")] == [1, *won]
    assert len(won) == 1


def test_rollback_returns_to_the_last_different_version(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed, alias="prod")
    move = registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob", why="broken"))
    assert (move.from_number, move.to_number) == (3, 2)
    assert registry.versions.resolve(AdapterRef.parse(NAME)).number == 2


def test_rollback_of_a_rollback_returns(registry: AdapterRegistry, tmp_path: Path) -> None:
    for seed in (1, 2):
        push_version(registry, tmp_path, seed, alias="prod")
    registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob"))
    assert registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob")).to_number == 2


def test_rollback_to_a_stated_earlier_target(registry: AdapterRegistry, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed, alias="prod")
    move = registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob", to=1))
    assert (move.from_number, move.to_number) == (3, 1)
    assert registry.versions.resolve(AdapterRef.parse(NAME)).number == 1


@pytest.mark.parametrize(("to", "words"), [(2, "never pointed to version 2"), (3, "already")])
def test_rollback_to_what_is_no_earlier_target_is_refused(
    registry: AdapterRegistry, tmp_path: Path, to: int, words: str
) -> None:
    for seed, alias in ((1, "prod"), (2, None), (3, "prod")):
        push_version(registry, tmp_path, seed, alias=alias)
    with refused(NothingToRollBack, f"version {to}"):
        registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob", to=to))
    assert registry.versions.resolve(AdapterRef.parse(NAME)).number == 3


def test_rollback_of_an_alias_that_never_moved_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    with refused(NothingToRollBack, "version 1"):
        registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob"))


def test_rollback_with_a_wrong_expectation_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    for seed in (1, 2):
        push_version(registry, tmp_path, seed, alias="prod")
    with pytest.raises(AliasConflict):
        registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob", expect=1))
    assert registry.versions.resolve(AdapterRef.parse(NAME)).number == 2
