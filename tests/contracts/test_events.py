"""The feed of events, in process and over HTTP: what is in it, in which order, who is woken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotswap.registry.domain.errors import CursorAhead, InvalidRequest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from tests.contracts.pushes import NAME, push_version
from tests.refusals import refused

TIMEOUT_S = 30


def test_every_change_is_one_event_with_its_record(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    first = push_version(registry, tmp_path, 1, alias="prod")
    second = push_version(registry, tmp_path, 2)
    move = registry.aliases.move(MoveRequest(NAME, "prod", 2, by="bob", why="better"))
    state = registry.versions.change(StateRequest(NAME, 1, "yank", by="eve"))
    page = registry.events.read(0)
    assert [(e.sequence, e.kind, e.version) for e in page.events] == [
        (1, "version", first),
        (2, "move", first),
        (3, "version", second),
        (4, "move", second),
        (5, "state", first),
    ]
    assert (page.events[3].move, page.events[4].state, page.cursor) == (move, state, 5)


def test_what_changes_nothing_is_no_event(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    end = registry.events.read().cursor
    push_version(registry, tmp_path / "again", 1)
    registry.aliases.move(MoveRequest(NAME, "prod", 1, by="bob"))
    assert registry.events.read(end).events == ()


def test_log_is_read_in_pages(registry: AdapterRegistry, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed)
    page = registry.events.read(0, limit=2)
    assert ([e.sequence for e in page.events], page.cursor) == ([1, 2], 2)
    page = registry.events.read(page.cursor, limit=2)
    assert ([e.sequence for e in page.events], page.cursor) == ([3], 3)


def test_without_a_cursor_the_end_of_the_log_is_told(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    assert registry.events.read(wait_s=TIMEOUT_S).cursor == 0
    push_version(registry, tmp_path, 1)
    page = registry.events.read(wait_s=TIMEOUT_S)
    assert (page.events, page.cursor) == ((), 1)


def test_who_waits_gets_the_event_when_it_comes(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    push_version(registry, tmp_path, 2)
    cursor = registry.events.read().cursor
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(registry.events.read, cursor, wait_s=TIMEOUT_S) for _ in range(4)]
        move = registry.aliases.move(MoveRequest(NAME, "prod", 2, by="bob"))
        for each in waiting:
            assert [event.move for event in each.result(TIMEOUT_S).events] == [move]


def test_wait_ends_without_an_event(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_version(registry, tmp_path, 1)
    page = registry.events.read(1, wait_s=0.05)
    assert (page.events, page.cursor) == ((), 1)


def test_cursor_ahead_of_the_log_says_where_it_ends(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    with refused(CursorAhead, "9", "1") as caught:
        registry.events.read(9, wait_s=TIMEOUT_S)
    assert caught.value.fields["end"] == 1


@pytest.mark.parametrize(
    ("after", "limit", "wait_s"), [(-1, 100, 0), (0, 0, 0), (0, 1001, 0), (0, 1, 31), (0, 1, -1)]
)
def test_page_that_cannot_be_given_is_refused(
    registry: AdapterRegistry, after: int, limit: int, wait_s: float
) -> None:
    with pytest.raises(InvalidRequest):
        registry.events.read(after, limit=limit, wait_s=wait_s)
