"""A registry over a directory store; its catalog can be thrown away and opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.storage.objects import ObjectStore
from hotswap.registry.tasks import Tasks

OpenRegistry = Callable[..., Registry]
CatalogUrl = Callable[[str], str]


@pytest.fixture
def database() -> str:
    """What catalogs are kept in; a module that tests both kinds gives its own."""
    return "sqlite"


@pytest.fixture
def catalog_url(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[CatalogUrl]:
    """The URL of the catalog of a name."""
    urls: dict[str, str] = {}
    with ExitStack() as stack:

        def url_of(name: str) -> str:
            if database == "sqlite":
                return f"sqlite:///{tmp_path}/{name}.sqlite"
            if name not in urls:
                server = request.getfixturevalue("postgres_server")
                template = request.getfixturevalue("postgres_template")
                urls[name] = stack.enter_context(server.database(template))
            return urls[name]

        yield url_of


@pytest.fixture
def open_registry(tmp_path: Path, catalog_url: CatalogUrl) -> Iterator[OpenRegistry]:
    """Opens registries over one store; `catalog` names the database, `store` wraps the store,
    `tasks` makes the calls that do not depend on one another."""
    with ExitStack() as stack:

        def open_one(
            catalog: str = "catalog", store: ObjectStore | None = None, tasks: Tasks | None = None
        ) -> Registry:
            index = Catalog(catalog_url(catalog))
            opened = Registry.open(
                store or LocalStore(tmp_path / "store"), index, freshness_s=0, tasks=tasks
            )
            stack.callback(opened.close)
            return opened

        yield open_one
