from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotswap.registry.database.database import Database
from hotswap.registry.database.revisions import upgrade
from tests.durability import SyncWatch
from tests.servers import PostgresServer, give_up, postgresql, postgresql_bin


@pytest.fixture(autouse=True)
def _threads_fit_the_model(request: pytest.FixtureRequest) -> None:
    """Tiny matrices gain nothing from a second thread and lose much when the machine is busy."""
    if "torch" in sys.modules:
        import torch

        is_real = request.node.get_closest_marker("real") is not None
        torch.set_num_threads(os.cpu_count() or 1 if is_real else 1)


@pytest.fixture
def names_are_synced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the test renames or links below its directory survives a power cut."""
    watch = SyncWatch(monkeypatch, tmp_path)
    yield
    assert watch.num_names
    assert watch.unsynced == []


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real server, one a test session."""
    programs = postgresql_bin()
    if programs is None:
        give_up("needs PostgreSQL: apt-get install postgresql")
    with postgresql(programs) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database on PostgreSQL."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database that has the catalog's tables, to be copied."""
    name = "hotswap_template"
    postgres_server.execute(f"CREATE DATABASE {name}")
    database = Database(postgres_server.url(name))
    upgrade(database)
    database.close()
    return name


@pytest.fixture
def postgres_catalog(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A catalog without rows on PostgreSQL."""
    with postgres_server.database(postgres_template) as url:
        yield url
