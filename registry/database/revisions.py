"""The revisions of the catalog's schema: numbered Alembic migrations, the last of which is HEAD.

A new one is a file in `migrations/versions/`: the next number in its name, in `revision` and, one
less, in `down_revision`. When two branches took the same number, the later one to land renames its
file and changes both. A migration never converts rows: it drops and creates what changed, and
`DELETE FROM store` makes the next start fill every table from the store.
"""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from hotswap.registry.database.database import Database
from hotswap.registry.database.schema import METADATA
from hotswap.registry.domain.errors import SchemaMismatch

MIGRATIONS = Path(__file__).parent / "migrations"
REVISIONS = tuple(sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))
HEAD = REVISIONS[-1]  # known without Alembic, whose import a command would have to wait for

_alembic = threading.Lock()  # its `op` and `context` are global


def require_head(database: Database) -> None:
    """A SQLite file is brought to HEAD; raises SchemaMismatch for a PostgreSQL schema that is
    behind, and for any that a later version of hotswap made."""
    with database.read() as connection:
        revision = _revision(connection)
    _refuse_later(database, revision)
    if revision == HEAD:
        return
    if not database.is_sqlite:
        raise SchemaMismatch(
            f"the catalog {database.place} has {_named(revision)}, this hotswap needs {HEAD}; run "
            "`hotswap store migrate` once, for all registries that share it",
            found=revision,
            needed=HEAD,
        )
    upgrade(database)


def upgrade(database: Database) -> str | None:
    """Bring the schema to HEAD in one transaction; returns the revision it had before."""
    with database.alone() as connection:
        revision = _revision(connection)  # another process may have been first
        _refuse_later(database, revision)
        if revision is None and database.is_sqlite:
            _drop_unnumbered(connection)
        if revision != HEAD:
            _run_migrations(connection)
    return revision


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


def _refuse_later(database: Database, revision: str | None) -> None:
    if revision is not None and revision not in REVISIONS:
        raise SchemaMismatch(
            f"the catalog {database.place} has {_named(revision)}, which this hotswap does not "
            f"know (it needs {HEAD}); use the version of hotswap that made it, or name another "
            "catalog",
            found=revision,
            needed=HEAD,
        )


def _drop_unnumbered(connection: Connection) -> None:
    """Files made before there were numbers are only an index: they are filled again."""
    if {"store", "alias_moves"} <= set(inspect(connection).get_table_names()):
        METADATA.drop_all(connection)


def _run_migrations(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with _alembic:
        command.upgrade(config, "head")


def _named(revision: str | None) -> str:
    return "no schema" if revision is None else f"schema {revision}"
