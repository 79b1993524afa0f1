"""A token is known for a while when the registry does not answer; what was refused is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.access import ANYONE
from hotswap.registry.domain.errors import StoreUnavailable, Unauthenticated, Unavailable
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.serving.aliases.deadline import Deadline
from hotswap.serving.aliases.known_access import KnownAccess
from tests.refusals import refused

GRACE_S = 600


class GatedStore(LocalStore):
    """A store that fails, or answers nothing until it is let."""

    is_down = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def open(self, key: str) -> Iterator[bytes]:
        self._gate()
        return super().open(key)

    def list(self, prefix: str) -> Iterator[str]:
        self._gate()
        return super().list(prefix)

    def _gate(self) -> None:
        if self.is_down:
            raise StoreUnavailable("the store is down")
        self.may_answer.wait()


class World:
    """A registry whose answers are never remembered, behind a KnownAccess with its own clock."""

    def __init__(self, root: Path) -> None:
        self.store = GatedStore(root / "store")
        self.registry = Registry(
            self.store, Catalog(f"sqlite:///{root}/catalog.sqlite"), freshness_s=0
        )
        self.now = 0.0
        self.access = KnownAccess(
            self.registry.access,
            grace_s=GRACE_S,
            deadline=Deadline(0.05),
            now=lambda: self.now,
        )
        self.token = self.registry.access.create("app", ["infer:*"], by="tests").token


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.is_down = False
    made.store.may_answer.set()
    made.registry.close()


def test_an_open_registry_stays_open_in_an_outage(tmp_path: Path) -> None:
    store = GatedStore(tmp_path / "store")
    registry = Registry(store, Catalog(f"sqlite:///{tmp_path}/c.sqlite"), freshness_s=0)
    access = KnownAccess(registry.access, grace_s=GRACE_S)
    assert access.principal(None) is ANYONE
    store.is_down = True
    assert access.principal(None) is ANYONE
    registry.close()


@pytest.mark.parametrize("outage", ["down", "stalled"])
def test_a_known_token_is_accepted_for_the_grace_and_no_longer(world: World, outage: str) -> None:
    known = world.access.principal(world.token)
    world.store.is_down = outage == "down"
    if outage == "stalled":
        world.store.may_answer.clear()
    for now in (0.0, 0.5, 30.0, GRACE_S):
        world.now = now
        assert world.access.principal(world.token) == known
    world.now = GRACE_S + 1
    world.store.is_down = True
    world.store.may_answer.set()
    with pytest.raises(Unavailable):
        world.access.principal(world.token)


def test_an_unknown_token_is_not_accepted_in_an_outage(world: World) -> None:
    world.access.principal(world.token)
    world.store.is_down = True
    with pytest.raises((Unavailable, Unauthenticated)):
        world.access.principal(f"{world.token[:-1]}0")


def test_an_expiry_holds_in_an_outage(world: World) -> None:
    expires_at = datetime.now(UTC) + timedelta(milliseconds=300)
    token = world.registry.access.create("brief", ["infer:*"], by="t", expires_at=expires_at)
    world.access.principal(token.token)
    world.store.is_down = True
    while datetime.now(UTC) <= expires_at:
        pass
    with pytest.raises((Unavailable, Unauthenticated)):
        world.access.principal(token.token)


def test_what_is_known_to_be_revoked_stays_refused_in_an_outage(world: World) -> None:
    world.access.principal(world.token)
    world.access.revoke("app", by="tests")
    with refused(Unauthenticated, "'app'"):
        world.access.principal(world.token)
    world.store.is_down = True
    for _ in range(3):
        with pytest.raises((Unavailable, Unauthenticated)):
            world.access.principal(world.token)


def test_an_answer_from_before_a_revocation_comes_too_late(world: World) -> None:
    """The question stalls, the token is revoked, and the old answer arrives."""
    known = world.access.principal(world.token)
    world.store.may_answer.clear()
    assert world.access.principal(world.token) == known  # its question is still waiting
    world.now = 2.0
    world.store.may_answer.set()
    world.access.revoke("app", by="tests")
    for _ in range(3):
        with refused(Unauthenticated, "'app'"):
            world.access.principal(world.token)


def test_a_deadline_gives_answers_errors_and_gives_up() -> None:
    deadline, gate = Deadline(0.05, max_unanswered=1), threading.Event()
    assert deadline.call(lambda: 7) == 7
    with pytest.raises(KeyError):
        deadline.call(lambda: {}["a"])
    for _ in range(2):  # one is waited for, and no second question is asked
        with pytest.raises(Unavailable):
            deadline.call(gate.wait)
    gate.set()
