"""Transactions on the catalog's database, SQLite or PostgreSQL: connections, locks, errors. Knows
no table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlmodel import create_engine

from hotswap.registry.domain.errors import InvalidSettings, StoreUnavailable

BUSY_TIMEOUT_S = 30
EXAMPLES = "give one like sqlite:////path/file or postgresql://user:password@host/database"
_POSTGRESQL_DRIVERS = ("postgres", "postgresql", "postgresql+psycopg")
_LOCK = 0x686F7473776170  # one advisory lock a database; the number reads "hotswap"
_WRITES = "hotswap_writes"
# Options of libpq; a URL that states one goes first.
_LIMITS = {"connect_timeout": 10, "tcp_user_timeout": BUSY_TIMEOUT_S * 1000}


class Database:
    """Reads beside writes. Invariant: writers that need to be alone are alone.

    Raises StoreUnavailable when the database fails; no error shows its password.
    """

    def __init__(self, place: str | Path) -> None:
        """At a URL, or in an SQLite file, whose path may have letters that mean more in a URL."""
        self._url = (
            URL.create("sqlite", database=str(place)) if isinstance(place, Path) else _parse(place)
        )
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = _sqlite(self._url) if self.is_sqlite else _postgresql(self._url)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        # One snapshot for all statements of a read, as SQLite gives it anyway.
        self._reader = (
            self._engine
            if self.is_sqlite
            else self._engine.execution_options(isolation_level="REPEATABLE READ")
        )

    @property
    def place(self) -> str:
        """The URL without its password; options may hold one too."""
        return self._url.set(query={}).render_as_string()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._explained(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def add(self) -> Iterator[Connection]:
        """A transaction that adds rows; on PostgreSQL others may add at the same time."""
        with self._explained(), self._writer.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({_LOCK})")
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction beside which no other one writes."""
        with self._explained(), self._writer.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreUnavailable(
                f"the catalog {self.place} cannot be used: {self._reason(error)}; {self._advice}"
            ) from error

    def _reason(self, error: SQLAlchemyError) -> str:
        lines = str(getattr(error, "orig", None) or error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        password = self._url.password
        return reason.replace(password, "***") if password else reason

    @property
    def _advice(self) -> str:
        if self.is_sqlite:
            return (
                "it is only an index: stop the registry, remove it, and the next start makes it "
                "again from the store"
            )
        return (
            "look whether the server runs; the catalog is only an index: `hotswap store migrate` "
            "prepares an empty database, and the next start fills it from the store"
        )


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their text may show the password
        raise InvalidSettings(f"the catalog's URL cannot be read; {EXAMPLES}") from None
    if url.drivername in _POSTGRESQL_DRIVERS:
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise InvalidSettings(
            f"the catalog's URL names {url.drivername!r}; SQLite and PostgreSQL are known: "
            f"{EXAMPLES}"
        )
    return url


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # None: the driver begins no transaction by itself, `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: one that reads first and asks for it later can be refused
    without waiting (measured: 95 of 160 counter steps lost from 8 threads; none like this)."""
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,  # a server that was restarted costs no request
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={k: v for k, v in _LIMITS.items() if k not in url.query},
        )
    except ImportError as error:
        raise InvalidSettings(
            f"a catalog on PostgreSQL needs: pip install 'hotswap[postgres]' ({error})"
        ) from None
    event.listen(engine, "connect", _configure_postgresql)
    return engine


def _configure_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_S}s'")
    connection.commit()  # or the pool's first rollback would take the setting back
