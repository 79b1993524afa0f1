"""The catalog's schema: numbered, the same as the tables' classes, brought to HEAD without losing
anything that the store holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner

from hotswap.registry.bundles.transfer import push
from hotswap.registry.cli import cli
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.database.database import Database
from hotswap.registry.database.revisions import HEAD, MIGRATIONS, REVISIONS, upgrade
from hotswap.registry.database.schema import METADATA
from hotswap.registry.domain.errors import InvalidSettings, SchemaMismatch
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.tasks import OneByOne
from tests.refusals import refused
from tests.registry.bundles import make_bundle, read_bundle
from tests.registry.test_recovery import NAME, state


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.sqlite"
    return str(request.getfixturevalue("postgres_url"))


def upgraded(url: str) -> Database:
    database = Database(url)
    upgrade(database)
    return database


def test_migrations_make_the_tables_of_the_schema(url: str) -> None:
    database = upgraded(url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_migrations_are_numbered_in_one_row() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]
    numbers = [f"{i:04}" for i in range(1, len(scripts) + 1)]
    assert [script.revision for script in scripts] == numbers == list(REVISIONS)
    assert [Path(script.path).name[:4] for script in scripts] == numbers
    assert [script.down_revision for script in scripts] == [None, *numbers[:-1]]


def test_upgrade_tells_where_it_came_from_and_the_second_does_nothing(url: str) -> None:
    database = Database(url)
    assert [upgrade(database), upgrade(database)] == [None, HEAD]
    database.close()


def test_racing_upgrades_of_one_database_both_succeed(url: str) -> None:
    code = (
        "import sys\n"
        "from hotswap.registry.database.database import Database\n"
        "from hotswap.registry.database.revisions import upgrade\n"
        "sys.stdin.readline()\n"
        f"print(upgrade(Database({url!r})))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda process: process.communicate("\n")[0].strip(), processes))
    assert sorted(answers) == [HEAD, HEAD, HEAD, "None"]


def set_revision(url: str, revision: str) -> None:
    database = Database(url)
    with database.alone() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    database.close()


def test_schema_of_a_later_hotswap_is_refused(url: str) -> None:
    upgraded(url).close()
    set_revision(url, "9999")
    with refused(SchemaMismatch, 9999, HEAD):
        Catalog(url)
    database = Database(url)
    with refused(SchemaMismatch, "9999"):
        upgrade(database)
    database.close()


def test_postgresql_without_tables_asks_for_the_command(postgres_url: str) -> None:
    with refused(SchemaMismatch, HEAD, "hotswap store migrate"):
        Catalog(postgres_url)
    upgraded(postgres_url).close()
    Catalog(postgres_url).close()


def test_sqlite_file_made_before_there_were_numbers_is_filled_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    database = Database(url)
    with database.alone() as connection:
        METADATA.create_all(connection)
        connection.exec_driver_sql("INSERT INTO store VALUES ('of before')")
        connection.exec_driver_sql("ALTER TABLE versions DROP COLUMN created_by")
    database.close()
    bundle, manifest = read_bundle(tmp_path / "a")
    fresh = Registry.open(LocalStore(tmp_path / "store"), Catalog("sqlite://"), tasks=OneByOne())
    push(fresh, NAME, bundle, manifest, by="ann", alias="prod")
    opened = Registry.open(LocalStore(tmp_path / "store"), Catalog(url))
    assert state(opened) == state(fresh) != []
    fresh.close()
    opened.close()


def test_foreign_sqlite_file_keeps_its_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/others.sqlite"
    database = Database(url)
    with database.alone() as connection:
        connection.exec_driver_sql("CREATE TABLE people (name TEXT)")
        connection.exec_driver_sql("INSERT INTO people VALUES ('ann')")
    Catalog(url).close()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT name FROM people").scalar() == "ann"
    database.close()


def test_push_with_an_up_to_date_catalog_does_not_import_alembic(tmp_path: Path) -> None:
    for seed, expected in ((1, True), (2, False)):
        make_bundle(tmp_path / f"v{seed}", seed)
        arguments = ["push", str(tmp_path / f"v{seed}"), "a", "--registry", str(tmp_path / "store")]
        code = (
            "import sys\nfrom hotswap.registry.cli import main\n"
            f"try:\n    main({arguments!r})\nfinally:\n"
            f"    assert ('alembic' in sys.modules) is {expected}\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False,
            env={"HOTSWAP_HOME": str(tmp_path / "home"), "USER": "ann"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_command_migrates_and_says_from_where_to_where(url: str) -> None:
    def migrate(*options: str) -> str:
        done = CliRunner().invoke(cli, ["store", "migrate", "--catalog", url, *options])
        assert done.exit_code == 0, done.output
        return done.output

    assert re.fullmatch(rf"(sqlite|postgresql).*: no schema → {HEAD}\n", migrate())
    assert f"is at schema {HEAD} already" in migrate()
    assert json.loads(migrate("--json"))["from"] == HEAD


@pytest.mark.parametrize(
    "text", ["mysql://u:secret@h/d", "u:secret@h/d", "postgresql://u:secret@h:x/d"]
)
def test_catalog_url_that_cannot_be_used_is_refused_without_its_password(text: str) -> None:
    with refused(InvalidSettings, "sqlite:////path/file") as caught:
        Catalog(text)
    assert "secret" not in str(caught.value)
