"""What an alias's history says about a time, and in which order it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hotswap.registry.domain.adapters import AliasMove
from hotswap.registry.domain.errors import AliasNotFound
from hotswap.registry.domain.moves import next_move, served_at
from hotswap.registry.domain.requests import MoveRequest
from tests.refusals import refused

START = datetime(2026, 1, 1, tzinfo=UTC)


def move(sequence: int, to: int, at: datetime) -> AliasMove:
    return AliasMove(
        name="team/sql", alias="prod", sequence=sequence, from_number=None, to_number=to,
        moved_by="ann", moved_at=at, why="",
    )  # fmt: skip


HISTORY = [
    move(1, 1, START),
    move(2, 2, START + timedelta(hours=1)),
    move(3, 1, START.replace(day=2)),
]


@pytest.mark.parametrize(
    ("at", "sequence"),
    [
        ("2026-01-01T00:00:00Z", 1),
        ("2026-01-01T02:00:00+01:00", 2),
        ("2026-01-01T01:59:59+01:00", 1),
        ("2030-01-01T00:00:00Z", 3),
    ],
)
def test_the_move_in_force_at_a_time_is_the_last_one_made_by_then(at: str, sequence: int) -> None:
    assert served_at(HISTORY, datetime.fromisoformat(at)).sequence == sequence


def test_an_alias_had_no_target_before_its_first_move() -> None:
    with refused(AliasNotFound, "2025-12-31"):
        served_at(HISTORY, START - timedelta(seconds=1))


def test_a_move_is_never_dated_before_the_one_it_follows() -> None:
    future = move(1, 1, datetime.now(UTC) + timedelta(hours=1))
    request = MoveRequest("team/sql", "prod", 2, by="bob")
    assert next_move(request, future, 2).moved_at == future.moved_at
