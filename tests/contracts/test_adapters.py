"""What every registry's lists must say, with the same errors."""

from __future__ import annotations

from pathlib import Path

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import (
    AdapterNotFound,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest
from tests.contracts.pushes import push_version
from tests.refusals import refused


def test_every_verb_on_an_unknown_adapter_says_so(registry: AdapterRegistry) -> None:
    for verb in (
        lambda: registry.adapters.versions("no/such"),
        lambda: registry.aliases.all("no/such"),
        lambda: registry.aliases.history("no/such", "prod"),
        lambda: registry.aliases.move(MoveRequest("no/such", "prod", 1, by="ann")),
        lambda: registry.aliases.rollback(MoveRequest("no/such", "prod", by="ann")),
        lambda: registry.versions.resolve(AdapterRef.parse("no/such")),
    ):
        with refused(AdapterNotFound, "no/such"):
            verb()


def test_adapters_are_listed_in_pages_by_name(registry: AdapterRegistry, tmp_path: Path) -> None:
    for name in ("b", "a/x", "c"):
        push_version(registry, tmp_path, 1, name=name, alias="prod")
    push_version(registry, tmp_path, 2, name="b")
    page = registry.adapters.all(limit=2)
    assert [summary.name for summary in page] == ["a/x", "b"]
    assert (page[1].num_versions, page[1].latest_number, page[1].aliases) == (2, 2, {"prod": 1})
    assert [summary.name for summary in registry.adapters.all(after="b", limit=2)] == ["c"]


def test_adapter_named_like_anothers_folder_has_its_own_records(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, name="team", alias="prod")
    push_version(registry, tmp_path, 2, name="team/sql", alias="prod")
    push_version(registry, tmp_path, 3, name="team/sql", alias="prod")
    assert [version.number for version in registry.adapters.versions("team")] == [1]
    assert [move.to_number for move in registry.aliases.all("team")] == [1]
