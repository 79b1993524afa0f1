"""The catalog's database: the same order and errors in SQLite and on PostgreSQL, bounded waits, no
password in any message."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hotswap.registry.database import database as module
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.database.database import Database
from hotswap.registry.database.revisions import upgrade
from hotswap.registry.domain.adapters import AdapterVersion, AliasMove
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidSettings, StoreUnavailable
from tests.refusals import refused
from tests.registry.conftest import CatalogUrl
from tests.servers import PostgresServer, give_up, postgresql, postgresql_bin

NOW = datetime(2026, 11, 24, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def version(name: str, number: int = 1) -> AdapterVersion:
    return AdapterVersion(
        name=name,
        number=number,
        manifest_digest=Digest.of(f"{name}{number}".encode()),
        created_by="änn 🙂",
        created_at=NOW,
    )


def move(name: str, sequence: int, to: int) -> AliasMove:
    return AliasMove(
        name=name,
        alias="prod",
        sequence=sequence,
        from_number=None,
        to_number=to,
        moved_by="ann",
        moved_at=NOW,
        why="",
    )


def test_row_comes_back_with_its_time_and_letters(catalog_url: CatalogUrl) -> None:
    catalog = Catalog(catalog_url("a"))
    catalog.add([version("a")], [])
    assert catalog.version("a", 1) == version("a")
    catalog.close()


def test_names_are_listed_in_order_of_their_bytes(catalog_url: CatalogUrl) -> None:
    """An English collation would put a.b, a-b and a/b beside ab."""
    names = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/bc", "a_b", "ab", "b-a", "ba"]
    catalog = Catalog(catalog_url("a"))
    catalog.add([version(name) for name in reversed(names)], [])
    assert [summary.name for summary in catalog.adapters("", 100)] == names
    assert [summary.name for summary in catalog.adapters("a/b", 3)] == ["a/b-c", "a/bc", "a_b"]
    catalog.close()


def test_writers_of_the_same_rows_in_any_order_do_not_block_each_other(
    catalog_url: CatalogUrl,
) -> None:
    catalogs = [Catalog(catalog_url("shared")) for _ in range(4)]
    rows = [version("a", number) for number in range(1, 1501)]

    def add(i: int) -> None:
        catalogs[i].add(rows if i % 2 else reversed(rows), [move("a", n, n) for n in (1, 2, 3)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert catalogs[0].versions("a") == rows
    for catalog in catalogs:
        catalog.close()


def test_alias_never_points_to_a_version_that_is_not_there(catalog_url: CatalogUrl) -> None:
    catalog = Catalog(catalog_url("a"))
    with refused(StoreUnavailable):
        catalog.add([version("a", 1)], [move("a", 1, 2)])
    assert catalog.versions("a") == []
    catalog.close()


def test_writer_waits_for_the_one_who_is_alone_and_gives_up_in_time(
    catalog_url: CatalogUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.2)
    catalog, other = Catalog(catalog_url("a")), Database(catalog_url("a"))
    with other.alone():
        with refused(StoreUnavailable, "lock"):
            catalog.add([version("a")], [])
        assert catalog.versions("a") == []  # who reads does not wait
    catalog.add([version("a")], [])
    catalog.close()
    other.close()


def test_postgresql_knows_how_many_rows_a_fill_made(postgres_catalog: str) -> None:
    """Without, it takes the tables for nearly empty and lists by reading them whole."""
    catalog, database = Catalog(postgres_catalog), Database(postgres_catalog)
    catalog.add([version("a", number) for number in range(1, 2001)], [])
    with database.read() as connection:
        query = "SELECT reltuples FROM pg_class WHERE relname = 'versions'"
        assert connection.exec_driver_sql(query).scalar() == 2000
    catalog.close()
    database.close()


FILL = """
import resource, sys
from datetime import UTC, datetime
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import StoreUnavailable

catalog = Catalog(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    for number in range(1, 10_000):
        digest = Digest.of(str(number).encode())
        now = datetime.now(UTC)
        catalog.add([AdapterVersion(name="a", number=number, manifest_digest=digest,
                                    created_by="ann" * 40, created_at=now)], [])
except StoreUnavailable as error:
    assert catalog.latest_number("a") == number - 1
    print(error.message)
"""


def test_full_disk_is_said_and_loses_nothing_that_was_added(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", FILL, url], capture_output=True, text=True, check=True
    )
    assert "cannot be used" in done.stdout
    assert "disk" in done.stdout


def test_connections_that_the_server_cut_are_made_again(
    postgres_server: PostgresServer, postgres_catalog: str
) -> None:
    catalog = Catalog(postgres_catalog)
    catalog.add([version("a")], [])
    postgres_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE starts_with(datname, 'hotswap_')"
    )
    assert catalog.versions("a") == [version("a")]
    catalog.close()


def test_server_that_stopped_is_unavailable_and_the_password_stays_secret() -> None:
    programs = postgresql_bin()
    if programs is None:
        give_up("needs PostgreSQL: apt-get install postgresql")
    with postgresql(programs) as server:
        url = server.url("postgres", password="s3cret")
        database = Database(url)
        upgrade(database)
        database.close()
        catalog = Catalog(url)
        catalog.add([version("a")], [])
    for use in (lambda: catalog.versions("a"), lambda: Catalog(url)):
        with refused(StoreUnavailable, "hotswap:***@") as caught:
            use()
        assert "s3cret" not in str(caught.value)
    catalog.close()


def test_postgresql_without_its_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with refused(InvalidSettings, "'hotswap[postgres]'"):
        Catalog("postgresql://ann@127.0.0.1/hotswap")
