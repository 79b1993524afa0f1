"""What a search does on every registry: order, pages, states, errors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion
from hotswap.registry.domain.errors import InvalidFilter, InvalidRequest
from hotswap.registry.domain.manifest import Lineage
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from tests.registry.bundles import read_bundle


def push_version(
    registry: AdapterRegistry, tmp_path: Path, seed: int, name: str = "a", **known: Any
) -> AdapterVersion:
    bundle, _ = read_bundle(tmp_path / f"{name.replace('/', '-')}-{seed}", seed)
    return push(registry, name, bundle, bundle.manifest(**known), by="ann")


def found(registry: AdapterRegistry, text: str, **page: Any) -> list[str]:
    return [str(version.ref) for version in registry.adapters.search(text, **page)]


def test_versions_are_found_by_what_their_manifests_say(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, metrics={"em": 0.7}, tags={"team": "x"})
    version = push_version(
        registry,
        tmp_path,
        2,
        metrics={"em": 0.9},
        tags={"team": "x"},
        description="dates",
        lineage=Lineage(parent="a:1", run="r2"),
    )
    push_version(registry, tmp_path, 3, "b", metrics={"em": 0.95})
    assert registry.adapters.search('metrics.em > 0.8 and tag.team = "x"') == [version]
    for text in (
        "lineage.parent = 'a:1' and lineage.run ~ 'r*'",
        "description ~ '*ate*'",
        "base = 'tiny' and lora.kind = 'lora' and lora.r = 4 and lora.alpha = 8 and number = 2",
        "name = 'a' and not metrics.em < 0.8",
        "by = 'ann' and created > '2026-01-01' and metrics.em in (0.9, 1)",
    ):
        assert found(registry, text) == ["a:2"], text
    assert found(registry, "metrics.f1 > 0") == []
    assert found(registry, "not metrics.f1 > 0") == ["a:1", "a:2", "b:1"]


def test_aliases_are_those_that_point_there_now(registry: AdapterRegistry, tmp_path: Path) -> None:
    for seed in (1, 2):
        push_version(registry, tmp_path, seed)
        registry.aliases.move(MoveRequest("a", "prod", seed, by="ann"))
    assert found(registry, "alias = 'prod'") == ["a:2"]
    assert found(registry, "alias != 'prod'") == ["a:1"]
    registry.aliases.rollback(MoveRequest("a", "prod", by="ann"))
    assert found(registry, "alias = 'prod'") == ["a:1"]


def test_deleted_versions_are_found_when_a_state_is_asked_for(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed)
    registry.versions.change(StateRequest("a", 1, "delete", by="ann"))
    registry.versions.change(StateRequest("a", 2, "yank", by="ann"))
    assert found(registry, "number > 0") == ["a:2", "a:3"]
    assert found(registry, "state = 'deleted'") == ["a:1"]
    assert found(registry, "state in ('active', 'yanked')") == ["a:2", "a:3"]
    assert found(registry, "not state = 'active'") == ["a:1", "a:2"]
    registry.versions.change(StateRequest("a", 1, "undelete", by="ann"))
    assert found(registry, "state = 'active'") == ["a:1", "a:3"]


def test_deleted_versions_are_not_counted_in_the_list_of_adapters(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed)
    push_version(registry, tmp_path, 1, "b")
    registry.versions.change(StateRequest("a", 3, "delete", by="ann"))
    registry.versions.change(StateRequest("a", 1, "yank", by="ann"))
    registry.versions.change(StateRequest("b", 1, "delete", by="ann"))
    (summary,) = registry.adapters.all()
    assert (summary.name, summary.num_versions, summary.latest_number) == ("a", 2, 2)
    registry.versions.change(StateRequest("b", 1, "undelete", by="ann"))
    assert [summary.name for summary in registry.adapters.all()] == ["a", "b"]


def test_pages_are_in_order_of_name_and_number(registry: AdapterRegistry, tmp_path: Path) -> None:
    for name in ("b", "a/b", "a", "a-z"):
        for seed in (1, 2):
            push_version(registry, tmp_path, seed, name)
    pages = [found(registry, "number > 0", limit=3)]
    while len(pages[-1]) == 3:
        after = AdapterRef.parse(pages[-1][-1])
        pages.append(found(registry, "number > 0", limit=3, after=after))
    expected = [f"{name}:{n}" for name in ("a", "a-z", "a/b", "b") for n in (1, 2)]
    assert [ref for page in pages for ref in page] == expected


def test_pages_read_while_others_push_have_each_old_version_exactly_once(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    names = [f"n{i}" for i in range(5)]
    before = [
        str(push_version(registry, tmp_path, seed, name).ref) for name in names for seed in (1, 2)
    ]

    def pushes() -> Iterator[str]:
        for seed in (3, 4):
            for name in ("n", *names, "n00", "z"):
                yield str(push_version(registry, tmp_path, seed, name).ref)

    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(list, pushes())
        is_last = False
        while not is_last:
            is_last = pushing.done()
            seen: list[str] = []
            while page := found(
                registry, "number > 0", limit=2, after=AdapterRef.parse(seen[-1]) if seen else None
            ):
                seen += page
            assert len(seen) == len(set(seen))
            assert [ref for ref in seen if ref in before] == before
        new = pushing.result()
    assert sorted(seen) == sorted([*before, *new])


@pytest.mark.parametrize(
    ("text", "page", "error", "words"),
    [
        ("metrics.em >", {}, InvalidFilter, "column 13"),
        ("nonsense = 1", {}, InvalidFilter, "no field 'nonsense'"),
        ("number > 0", {"limit": 0}, InvalidRequest, "limit"),
        ("number > 0", {"after": AdapterRef("a")}, InvalidRequest, "name:number"),
    ],
)
def test_what_cannot_be_searched_for_is_named(
    registry: AdapterRegistry, text: str, page: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        registry.adapters.search(text, **page)
