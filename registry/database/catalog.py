"""The catalog: an index over the store's records that can be thrown away. Every SQL statement of
the project is here. It decides nothing and knows no bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel

from hotswap.registry.database.database import Database
from hotswap.registry.database.revisions import require_head
from hotswap.registry.database.rows import (
    TARGET,
    AliasHead,
    alias_head,
    move_of,
    move_row,
    record_key,
    summary_of,
    version_of,
    version_row,
)
from hotswap.registry.database.schema import (
    AliasMoveRow,
    EventRow,
    FactRow,
    StoreRow,
    VersionRow,
    VersionStateRow,
)
from hotswap.registry.database.search import is_present, search_page
from hotswap.registry.domain.adapters import AdapterSummary, AdapterVersion, AliasMove, VersionState
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import HotswapError
from hotswap.registry.domain.event import Event
from hotswap.registry.search.facts import Fact
from hotswap.registry.search.language import Expression

ROWS_A_STATEMENT = 500
MANY_ROWS = 1000
NUM_SUGGESTIONS = 5

Keys = dict[str, set[tuple[Any, ...]]]
"""By table, the primary keys of its rows."""

_STORE: Any = SQLModel.metadata.tables[StoreRow.__tablename__]
_VERSIONS: Any = SQLModel.metadata.tables[VersionRow.__tablename__]
_MOVES: Any = SQLModel.metadata.tables[AliasMoveRow.__tablename__]
_STATES: Any = SQLModel.metadata.tables[VersionStateRow.__tablename__]
_EVENTS: Any = SQLModel.metadata.tables[EventRow.__tablename__]
_FACTS: Any = SQLModel.metadata.tables[FactRow.__tablename__]
_PUBLISHED: dict[str, Any] = {"version": _VERSIONS, "move": _MOVES, "state": _STATES}
_RECORDS = (_EVENTS, _STATES, _MOVES, _VERSIONS)  # what is referred to comes last
_TABLES = (_FACTS, *_RECORDS)


class Catalog:
    """Rows of versions and alias moves. Invariant: a move's target version is there too.

    Safe from several threads and processes. Raises StoreUnavailable when the database fails and
    SchemaMismatch when its tables are another version's.
    """

    def __init__(self, place: str | Path) -> None:
        self._database = Database(place)
        self._read, self._add = self._database.read, self._database.add
        self._alone = self._database.alone
        try:
            require_head(self._database)
        except HotswapError:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    def bind(self, store_id: str) -> None:
        """Make this the index of the store `store_id`; rows of another store are dropped."""
        with self._alone() as connection:
            if connection.scalars(select(_STORE.c.store_id)).all() == [store_id]:
                return
            for table in (*_TABLES, _STORE):
                connection.execute(delete(table))
            connection.execute(insert(_STORE).values(store_id=store_id))

    def add(
        self,
        versions: Iterable[AdapterVersion],
        moves: Iterable[AliasMove],
        states: Iterable[VersionState] = (),
        facts: Iterable[Fact] = (),
    ) -> None:
        """Add the rows that are missing. Records never change, so those that are there stay."""
        with self._add() as connection:
            _insert_missing(connection, versions, moves, states, facts)

    def replace(
        self,
        before: Keys,
        versions: Iterable[AdapterVersion],
        moves: Iterable[AliasMove],
        states: Iterable[VersionState],
        events: Iterable[Event] = (),
        facts: Iterable[Fact] = (),
    ) -> None:
        """Make these the only rows, in one transaction. What others have added since `before` was
        taken stays: the records may have been read before theirs were written."""
        with self._alone() as connection:
            late = {table: _rows_since(connection, table, before) for table in _RECORDS}
            late[_FACTS] = _facts_of(connection, late[_VERSIONS])
            for table in _TABLES:
                connection.execute(delete(table))
            _insert_missing(connection, versions, moves, states, facts)
            _insert_events(connection, events)
            for table in reversed(_TABLES):
                _insert_rows(connection, table, late[table])

    def keys(self) -> Keys:
        """The key of every row, to be taken before the records are read for `replace`."""
        with self._read() as connection:
            return {table.name: _keys(connection, table) for table in _RECORDS}

    def add_events(self, events: Iterable[Event]) -> None:
        """Note which records the events publish."""
        with self._add() as connection:
            _insert_events(connection, events)

    def unknown(self, events: Sequence[Event]) -> list[Event]:
        """Those whose record has no row."""
        missing: list[Event] = []
        with self._read() as connection:
            for kind, table in _PUBLISHED.items():
                of_kind = {record_key(event): event for event in events if event.kind == kind}
                columns = [*table.primary_key]
                rows = _rows(connection, table, columns, list(of_kind))
                known = {tuple(row[column.name] for column in columns) for row in rows}
                missing += [event for key, event in of_kind.items() if key not in known]
        return missing

    def last_event(self) -> int:
        """The highest sequence number of an event, 0 when there is none."""
        with self._read() as connection:
            return connection.scalar(select(func.max(_EVENTS.c.sequence))) or 0

    def has_event(self, record_key: str) -> bool:
        statement = select(_EVENTS.c.sequence).where(_EVENTS.c.record_key == record_key).limit(1)
        with self._read() as connection:
            return connection.execute(statement).first() is not None

    def event_keys(self) -> set[str]:
        """The keys of all records that have an event."""
        with self._read() as connection:
            return set(connection.scalars(select(_EVENTS.c.record_key)))

    def version_keys(self) -> set[tuple[str, int]]:
        with self._read() as connection:
            rows = connection.execute(select(_VERSIONS.c.name, _VERSIONS.c.number))
            return {(row.name, row.number) for row in rows}

    def move_keys(self, name: str | None = None) -> set[tuple[str, str, int]]:
        statement = select(_MOVES.c.name, _MOVES.c.alias, _MOVES.c.sequence)
        if name is not None:
            statement = statement.where(_MOVES.c.name == name)
        with self._read() as connection:
            rows = connection.execute(statement)
            return {(row.name, row.alias, row.sequence) for row in rows}

    def state_keys(self) -> set[tuple[str, int, int]]:
        with self._read() as connection:
            rows = connection.execute(select(_STATES.c.name, _STATES.c.number, _STATES.c.sequence))
            return {(row.name, row.number, row.sequence) for row in rows}

    def current_states(self, name: str, number: int | None = None) -> list[VersionState]:
        """The current state of each version of `name` that has one, or of one version."""
        statement = select(_STATES).where(_STATES.c.name == name)
        if number is not None:
            statement = statement.where(_STATES.c.number == number)
        with self._read() as connection:
            rows = connection.execute(statement.order_by("number", "sequence")).all()
        states = {row.number: VersionState.model_validate(dict(row._mapping)) for row in rows}
        return list(states.values())

    def version(self, name: str, number: int) -> AdapterVersion | None:
        return self._one_version(_VERSIONS.c.name == name, _VERSIONS.c.number == number)

    def version_by_digest(self, name: str, digest: Digest) -> AdapterVersion | None:
        """The first version of `name` with this manifest."""
        return self._one_version(
            _VERSIONS.c.name == name, _VERSIONS.c.manifest_digest == str(digest)
        )

    def latest_number(self, name: str) -> int:
        """The highest number of `name`, 0 when there is no version."""
        statement = select(func.max(_VERSIONS.c.number)).where(_VERSIONS.c.name == name)
        with self._read() as connection:
            return connection.scalar(statement) or 0

    def versions(self, name: str) -> list[AdapterVersion]:
        statement = select(_VERSIONS).where(_VERSIONS.c.name == name)
        with self._read() as connection:
            return [version_of(row) for row in connection.execute(statement.order_by("number"))]

    def all_versions(self) -> list[AdapterVersion]:
        with self._read() as connection:
            return [version_of(row) for row in connection.execute(select(_VERSIONS))]

    def head(self, name: str, alias: str) -> AliasHead | None:
        """All that a resolution asks, in one statement: each costs PostgreSQL four round trips."""
        latest = select(func.max(_VERSIONS.c.number)).where(_VERSIONS.c.name == name)
        target = _VERSIONS.alias()
        columns = [column.label(TARGET + column.name) for column in target.c]
        statement: Select[Any] = (
            select(_MOVES, *columns, latest.scalar_subquery().label("latest_number"))
            .join(target, (target.c.name == name) & (target.c.number == _MOVES.c.to_number))
            .where(_MOVES.c.name == name, _MOVES.c.alias == alias)
            .order_by(_MOVES.c.sequence.desc())
            .limit(1)
        )
        with self._read() as connection:
            row = connection.execute(statement).first()
        return None if row is None else alias_head(row)

    def current_moves(self, name: str) -> list[AliasMove]:
        """The current move of every alias of `name`, in order of alias."""
        with self._read() as connection:
            return list(_current_moves(connection, [name]))

    def signed_moves(self) -> list[AliasMove]:
        """Every move of every alias that carries a signature."""
        statement = select(_MOVES).where(_MOVES.c.signature_key.is_not(None))
        with self._read() as connection:
            return [move_of(row) for row in connection.execute(statement)]

    def history(self, name: str, alias: str) -> list[AliasMove]:
        """Every move of the alias, oldest first."""
        statement = select(_MOVES).where(_MOVES.c.name == name, _MOVES.c.alias == alias)
        with self._read() as connection:
            return [move_of(row) for row in connection.execute(statement.order_by("sequence"))]

    def adapters(self, after: str, limit: int) -> list[AdapterSummary]:
        """Up to `limit` summaries in order of name, behind the name `after`; deleted versions are
        not counted, and an adapter without any other is left out."""
        statement = (
            select(
                _VERSIONS.c.name,
                func.count().label("num_versions"),
                func.max(_VERSIONS.c.number).label("latest_number"),
                func.max(_VERSIONS.c.created_at).label("created_at"),
            )
            .where(_VERSIONS.c.name > after, is_present())
            .group_by(_VERSIONS.c.name)
            .order_by(_VERSIONS.c.name)
            .limit(limit)
        )
        with self._read() as connection:
            rows = connection.execute(statement).all()
            moves: dict[str, list[AliasMove]] = {row.name: [] for row in rows}
            for move in _current_moves(connection, list(moves)):
                moves[move.name].append(move)
        return [summary_of(row, moves[row.name]) for row in rows]

    def search(
        self, expression: Expression, after: tuple[str, int] | None, limit: int
    ) -> list[AdapterVersion]:
        """Up to `limit` versions for which the expression holds, in order of name and number,
        behind the name and number `after`."""
        with self._read() as connection:
            return [version_of(row) for row in search_page(connection, expression, after, limit)]

    def names_like(self, name: str) -> list[str]:
        """A few names to suggest: those under the same first segment, or else the first ones."""
        under = f"{name.split('/')[0]}/"
        names = [a.name for a in self.adapters(under, NUM_SUGGESTIONS) if a.name.startswith(under)]
        return names or [a.name for a in self.adapters("", NUM_SUGGESTIONS)]

    def _one_version(self, *conditions: Any) -> AdapterVersion | None:
        statement = select(_VERSIONS).where(*conditions).order_by(_VERSIONS.c.number).limit(1)
        with self._read() as connection:
            row = connection.execute(statement).first()
        return None if row is None else version_of(row)


def _insert_missing(
    connection: Connection,
    versions: Iterable[AdapterVersion],
    moves: Iterable[AliasMove],
    states: Iterable[VersionState],
    facts: Iterable[Fact],
) -> None:
    _insert_rows(connection, _VERSIONS, [version_row(version) for version in versions])
    _insert_rows(connection, _MOVES, [move_row(move) for move in moves])
    _insert_rows(connection, _STATES, [state.model_dump() for state in states])
    _insert_rows(connection, _FACTS, [fact._asdict() for fact in facts])


def _insert_events(connection: Connection, events: Iterable[Event]) -> None:
    rows = [{"sequence": e.sequence, "record_key": e.record_key} for e in events]
    _insert_rows(connection, _EVENTS, rows)


def _insert_rows(connection: Connection, table: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Add the rows whose key is not there. All writers insert in order of key: two that add the
    same rows at the same time wait for each other in one direction only."""
    keys = [key.name for key in table.primary_key]
    ordered = sorted(rows, key=lambda row: tuple(row[key] for key in keys))
    if ordered:
        insert_into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        statement = insert_into(table).on_conflict_do_nothing(index_elements=keys)
        connection.execute(statement, ordered)
    if len(ordered) >= MANY_ROWS and connection.dialect.name == "postgresql":
        # Autovacuum would do it in a minute or so; until then a page of names reads every row.
        connection.exec_driver_sql(f"ANALYZE {table.name}")


def _keys(connection: Connection, table: Any) -> set[tuple[Any, ...]]:
    return {tuple(row) for row in connection.execute(select(*table.primary_key))}


def _rows_since(connection: Connection, table: Any, before: Keys) -> list[dict[str, Any]]:
    late = sorted(_keys(connection, table) - before[table.name])
    return _rows(connection, table, [*table.primary_key], late)


def _facts_of(connection: Connection, versions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = [(row["name"], row["number"]) for row in versions]
    return _rows(connection, _FACTS, [_FACTS.c.name, _FACTS.c.number], keys)


def _rows(
    connection: Connection, table: Any, columns: list[Any], values: Sequence[tuple[Any, ...]]
) -> list[dict[str, Any]]:
    fetched: list[dict[str, Any]] = []
    for start in range(0, len(values), ROWS_A_STATEMENT):
        part = values[start : start + ROWS_A_STATEMENT]
        statement = select(table).where(tuple_(*columns).in_(part))
        fetched += [dict(row._mapping) for row in connection.execute(statement)]
    return fetched


def _current_moves(connection: Connection, names: Sequence[str]) -> Iterator[AliasMove]:
    keys = (_MOVES.c.name, _MOVES.c.alias)
    for start in range(0, len(names), ROWS_A_STATEMENT):
        last = (
            select(*keys, func.max(_MOVES.c.sequence))
            .where(_MOVES.c.name.in_(names[start : start + ROWS_A_STATEMENT]))
            .group_by(*keys)
        )
        statement = select(_MOVES).where(tuple_(*keys, _MOVES.c.sequence).in_(last))
        for row in connection.execute(statement.order_by(*keys)):
            yield move_of(row)
