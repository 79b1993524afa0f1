"""A registry over a directory store; its catalog can be thrown away and opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.database.catalog import Catalog
from registry.registry import Registry
from registry.storage.local import LocalStore
from registry.storage.objects import ObjectStore

OpenRegistry = Callable[..., Registry]


@pytest.fixture
def open_registry(tmp_path: Path) -> Iterator[OpenRegistry]:
    """Opens registries over one store; `catalog` names the database, `store` wraps the store."""
    with ExitStack() as stack:

        def open_one(catalog: str = "catalog", store: ObjectStore | None = None) -> Registry:
            index = Catalog(f"sqlite:///{tmp_path}/{catalog}.sqlite")
            opened = Registry.open(store or LocalStore(tmp_path / "store"), index, freshness_s=0)
            stack.callback(opened.close)
            return opened

        yield open_one
