"""Which version a reference means while answers and events come in any order, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterVersion,
    AliasMove,
    AliasTarget,
    VersionState,
)
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import AliasNotFound, RegistryUnavailable
from hotswap.registry.domain.event import Event
from hotswap.serving.aliases.version_table import RETRY_S, VersionTable

NAME = "team/sql"
PROD = AdapterRef.parse(f"{NAME}@prod")
PINNED = AdapterRef.parse(f"{NAME}:1")
MAX_AGE_S = 30.0
GRACE_S = 600.0
AT = datetime(2026, 11, 24, tzinfo=UTC)


def version(number: int) -> AdapterVersion:
    digest = Digest.of(str(number).encode())
    return AdapterVersion(
        name=NAME, number=number, manifest_digest=digest, created_by="ann", created_at=AT
    )


def target(sequence: int, number: int) -> AliasTarget:
    move = AliasMove(
        name=NAME,
        alias="prod",
        sequence=sequence,
        from_number=None,
        to_number=number,
        moved_by="ann",
        moved_at=AT,
        why="",
    )
    return AliasTarget(move=move, version=version(number))


def moved(sequence: int, number: int) -> Event:
    return Event.of(sequence, AT, target(sequence, number).move, version(number))


def deleted(number: int) -> Event:
    state = VersionState(
        name=NAME,
        number=number,
        sequence=1,
        state="deleted",
        changed_by="ann",
        changed_at=AT,
        why="",
    )
    return Event.of(9, AT, state, version(number))


class ScriptedRegistry:
    """Answers with what it was told to, and lets something happen before an answer arrives."""

    def __init__(self) -> None:
        self.answer: AliasTarget | Exception = target(1, 1)
        self.num_asked = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.aliases = self.versions = self

    def target(self, name: str, alias: str) -> AliasTarget:
        assert (name, alias) == (NAME, "prod")
        self.num_asked += 1
        answer = self.answer
        self.meanwhile()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def resolve(self, ref: AdapterRef) -> AdapterVersion:
        assert ref == PINNED
        return self.target(NAME, "prod").version


class World:
    def __init__(self) -> None:
        self.registry = ScriptedRegistry()
        self.time = 0.0
        self.table = VersionTable(
            self.registry,  # type: ignore[arg-type]
            max_age_s=MAX_AGE_S,
            grace_s=GRACE_S,
            now=lambda: self.time,
        )
        self.table.follow(True)

    def number(self, ref: AdapterRef = PROD) -> int:
        return self.table.pointer(ref).version.number


@pytest.fixture
def world() -> World:
    return World()


def test_the_registry_is_asked_once_while_events_are_followed(world: World) -> None:
    bare = AdapterRef.parse(NAME)
    assert [world.number(ref) for ref in (PROD, PROD, bare)] == [1, 1, 1]
    assert world.registry.num_asked == 1


def test_an_event_moves_the_alias_without_asking(world: World) -> None:
    world.number()
    world.table.apply(moved(2, 2))
    assert (world.number(), world.registry.num_asked) == (2, 1)


def test_an_event_that_comes_before_an_older_answer_wins(world: World) -> None:
    world.registry.meanwhile = lambda: world.table.apply(moved(2, 2))
    assert world.number() == 2
    world.registry.meanwhile = lambda: None
    assert (world.number(), world.registry.num_asked) == (2, 1)


def test_an_older_answer_after_the_maximum_age_changes_nothing(world: World) -> None:
    world.number()
    world.table.apply(moved(2, 2))
    world.time = MAX_AGE_S + 1
    assert (world.number(), world.registry.num_asked) == (2, 2)


def test_moves_told_in_the_wrong_order_end_at_the_last_one(world: World) -> None:
    world.number()
    world.table.apply(moved(3, 3))
    world.table.apply(moved(2, 2))
    assert world.number() == 3


def test_an_answer_after_the_maximum_age_is_taken_over(world: World) -> None:
    world.number()
    world.registry.answer = target(2, 2)
    world.time = MAX_AGE_S - 1
    assert world.number() == 1
    world.time = MAX_AGE_S
    assert world.number() == 2


def test_without_events_every_use_asks(world: World) -> None:
    world.number()
    world.table.follow(False)
    world.registry.answer = target(2, 2)
    assert (world.number(), world.number(), world.registry.num_asked) == (2, 2, 3)


def test_an_answer_asked_for_before_events_were_followed_is_not_kept(world: World) -> None:
    world.table.follow(False)
    world.registry.meanwhile = lambda: world.table.follow(True)
    assert world.number() == 1
    world.registry.meanwhile, world.registry.answer = lambda: None, target(2, 2)
    assert (world.number(), world.number(), world.registry.num_asked) == (2, 2, 2)


def test_while_one_request_asks_the_others_use_what_is_known(world: World) -> None:
    world.number()
    world.table.follow(False)
    seen: list[int] = []

    def meanwhile() -> None:
        world.registry.meanwhile = lambda: pytest.fail("a second request asked")
        seen.append(world.number())

    world.registry.meanwhile = meanwhile
    world.registry.answer = target(2, 2)
    assert (world.number(), seen) == (2, [1])


def test_what_was_known_last_is_used_for_the_grace_period_only(world: World) -> None:
    world.number()
    world.table.follow(False)
    world.registry.answer = RegistryUnavailable("down")
    world.time = GRACE_S
    assert world.number() == 1
    assert (world.number(), world.registry.num_asked) == (1, 2)  # a failure is not repeated at once
    world.time = GRACE_S + RETRY_S
    with pytest.raises(RegistryUnavailable):
        world.number()
    world.registry.answer = target(2, 2)
    world.time += RETRY_S
    assert world.number() == 2


def test_what_is_not_known_is_unavailable_without_the_registry(world: World) -> None:
    world.registry.answer = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        world.number()


def test_what_is_not_found_is_asked_for_again(world: World) -> None:
    world.registry.answer = AliasNotFound("no alias")
    for _ in range(2):
        with pytest.raises(AliasNotFound):
            world.number()
    world.registry.answer = target(1, 1)
    assert (world.number(), world.registry.num_asked) == (1, 3)


def test_clearing_forgets_and_lets_an_alias_go_back(world: World) -> None:
    world.table.apply(moved(5, 5))
    assert world.number() == 5
    world.table.clear()
    assert world.number() == 1


def test_an_answer_asked_for_before_clearing_is_not_kept(world: World) -> None:
    world.registry.answer = target(5, 5)
    world.registry.meanwhile = world.table.clear
    assert world.number() == 5
    world.registry.answer, world.registry.meanwhile = target(1, 1), lambda: None
    assert world.number() == 1


def test_a_number_is_asked_for_once_until_its_state_changes(world: World) -> None:
    assert [world.number(PINNED), world.number(PINNED)] == [1, 1]
    world.table.apply(deleted(2))
    assert (world.number(PINNED), world.registry.num_asked) == (1, 1)
    world.table.apply(deleted(1))
    assert (world.number(PINNED), world.registry.num_asked) == (1, 2)


def test_an_answer_asked_for_before_a_deletion_is_not_kept(world: World) -> None:
    world.registry.meanwhile = lambda: world.table.apply(deleted(1))
    world.number(PINNED)
    world.registry.meanwhile = lambda: None
    world.number(PINNED)
    assert world.registry.num_asked == 2


def test_what_is_served_are_the_aliases_that_were_asked_for(world: World) -> None:
    world.table.apply(moved(2, 2))
    assert world.table.served() == {}
    world.number()
    world.number(PINNED)
    assert world.table.served() == {str(PROD): version(2).manifest_digest}


def test_what_is_served_is_told_up_to_a_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotswap.serving.aliases.version_table.MAX_SERVED", 2)
    for alias in ("a", "b", "c"):
        event = moved(1, 1)
        assert event.move is not None
        move = event.move.model_copy(update={"alias": alias})
        world.table.apply(event.model_copy(update={"move": move}))
        world.table.pointer(AdapterRef(NAME, alias=alias))
    assert list(world.table.served()) == [f"{NAME}@a", f"{NAME}@b"]
