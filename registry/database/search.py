"""Pages of the versions for which a search's expression holds, in order of name and number.

Every value is bound. One term of a conjunction may drive the query: the rarest, if it is rare
enough to be read whole; or else versions are read in their order until the page is full, and each
is held against the terms. Measured with 100,000 versions: DECISIONS/catalog/search-over-facts.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)

from hotswap.registry.database.schema import (
    METADATA,
    AliasMoveRow,
    FactRow,
    VersionRow,
    VersionStateRow,
)
from hotswap.registry.search import language
from hotswap.registry.search.facts import searchable
from hotswap.registry.search.language import Expression, Not, Predicate, mentions

MAX_DRIVING = 5000
MAX_LATE = 1000  # what others may add between the count and the page
STATES = frozenset({"active", "yanked", "deleted", "purged"})
GONE = frozenset({"deleted", "purged"})

_V: Any = METADATA.tables[VersionRow.__tablename__]
_F: Any = METADATA.tables[FactRow.__tablename__].alias("f")
_M: Any = METADATA.tables[AliasMoveRow.__tablename__].alias("m")
_S: Any = METADATA.tables[VersionStateRow.__tablename__].alias("s")
Condition = ColumnElement[bool]


def search_page(
    connection: Connection, expression: Expression, after: tuple[str, int] | None, limit: int
) -> Sequence[Row[Any]]:
    """Up to `limit` rows of versions behind the name and number `after`. What was deleted is left
    out unless the expression asks for a state."""
    terms = list(expression.parts) if isinstance(expression, language.And) else [expression]
    compiled = _Compiler(connection.dialect.name == "sqlite")
    driver, rows = compiled.driver(connection, terms)
    conditions = [
        tuple_(_V.c.name, _V.c.number).in_(rows) if term is driver else compiled.condition(term)
        for term in terms
    ]
    if not mentions(expression, "state"):
        conditions.append(is_present())
    if after is not None:
        conditions.append(tuple_(_V.c.name, _V.c.number) > tuple_(*map(literal, after)))
    statement = select(_V).where(*conditions).order_by(_V.c.name, _V.c.number).limit(limit)
    return connection.execute(statement).all()


def is_present() -> Condition:
    """Whether the version of the enclosing query is not deleted."""
    return not_(_exists(_states_among(GONE)))


class _Compiler:
    """Turns expressions into conditions on the enclosing query's row of `versions`."""

    def __init__(self, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite

    def condition(self, expression: Expression) -> Condition:
        match expression:
            case language.And():
                return and_(*map(self.condition, expression.parts))
            case language.Or():
                return or_(*map(self.condition, expression.parts))
            case Not():
                return not_(self.condition(expression.inner))
        match expression.field:
            case "name":
                return self._holds(_V.c.name, expression)
            case "number":
                return self._holds(_V.c.number, expression)
            case "state" if "active" in (wanted := _wanted_states(expression)):
                return not_(_exists(_states_among(STATES - wanted)))
        return _exists(self.rows(expression))

    def driver(
        self, connection: Connection, terms: Sequence[Expression]
    ) -> tuple[Expression | None, Any]:
        """The term with the fewest rows, and these, if they are few; counting stops where they
        are not."""
        best: tuple[Expression | None, Any] = (None, None)
        fewest = MAX_DRIVING + 1
        for term in terms:
            if (parts := self.all_rows(term)) is not None:
                rows = union_all(*parts)
                some = select(literal(1)).select_from(rows.subquery()).limit(fewest).subquery()
                number = connection.scalar(select(func.count()).select_from(some)) or 0
                if number < fewest:
                    # The bound is for PostgreSQL's planner, which cannot know how few they are.
                    bounded = select(rows.subquery()).limit(number + MAX_LATE)
                    best, fewest = (term, bounded), number
        return best

    def all_rows(self, term: Expression) -> list[Select[Any]] | None:
        """What gives every version for which the term holds; None when no index knows. A flat
        list, because SQLite nests no unions."""
        match term:
            case Predicate() if _has_rows(term):
                return [self.rows(term)]
            case language.Or():
                parts = [self.all_rows(part) for part in term.parts]
                known = [rows for part in parts if part is not None for rows in part]
                return known if None not in parts else None
        return None

    def rows(self, term: Predicate) -> Select[Any]:
        """Name and number of every version for which a term on facts, aliases or states holds."""
        match term.field:
            case "alias":
                is_current = _M.c.sequence == _last(_M, "name", "alias")
                return select(_M.c.name, _M.c.to_number).where(
                    self._holds(_M.c.alias, term), is_current
                )
            case "state":
                return _states_among(_wanted_states(term))
        statement = select(_F.c.name, _F.c.number).where(_F.c.key == searchable(term.field))
        if isinstance(term.values[0], float):
            return statement.where(_F.c.text.is_(None), self._holds(_F.c.value, term))
        return statement.where(self._holds(_F.c.text, term))

    def _holds(self, column: Any, term: Predicate) -> Condition:
        values = [searchable(v) if isinstance(v, str) else v for v in term.values]
        match term.operator:
            case "in":
                return and_(column.in_(values))
            case "~":
                return self._matches(column, str(values[0]))
            case "=":
                return and_(column == values[0])
            case _:
                return and_(column.bool_op(term.operator)(values[0]))

    def _matches(self, column: Any, pattern: str) -> Condition:
        """Upper and lower case differ on both databases, as LIKE would not on SQLite."""
        if self._is_sqlite:
            glob = "".join(f"[{c}]" if c in "[?" else c for c in pattern)
            matches = column.bool_op("GLOB")(glob)
        else:
            like = "".join(f"\\{c}" if c in "\\%_" else c for c in pattern).replace("*", "%")
            matches = column.like(like, escape="\\")
        return and_(matches, *_beginning(column, pattern.partition("*")[0]))


def _beginning(column: Any, prefix: str) -> list[Condition]:
    """The range of an index in which all texts with this beginning are."""
    if not prefix or not "\0" < prefix[-1] < "\x7f":
        return []
    return [column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1)]


def _has_rows(term: Predicate) -> bool:
    if term.field == "state":
        return "active" not in _wanted_states(term)
    return term.field not in ("name", "number")


def _wanted_states(term: Predicate) -> frozenset[str]:
    """The states for which the comparison holds; there are only four."""
    return frozenset(state for state in STATES if _is_true(state, term))


def _is_true(state: str, term: Predicate) -> bool:
    wanted = [str(value) for value in term.values]
    match term.operator:
        case "=" | "in":
            return state in wanted
        case "~":
            parts = wanted[0].split("*")
            return re.fullmatch(".*".join(map(re.escape, parts)), state) is not None
        case "<":
            return state < wanted[0]
        case "<=":
            return state <= wanted[0]
        case ">":
            return state > wanted[0]
        case ">=":
            return state >= wanted[0]


def _states_among(wanted: frozenset[str]) -> Select[Any]:
    is_current = _S.c.sequence == _last(_S, "name", "number")
    among = _S.c.state.in_(sorted(wanted)) if wanted else false()
    return select(_S.c.name, _S.c.number).where(among, is_current)


def _last(table: FromClause, *keys: str) -> Any:
    """The highest sequence of the enclosing query's row's alias or version."""
    other = table.element.alias()  # type: ignore[attr-defined]
    same = [other.c[key] == table.c[key] for key in keys]
    return select(func.max(other.c.sequence)).where(*same).correlate(table).scalar_subquery()


def _exists(rows: Select[Any]) -> Condition:
    """Whether the enclosing query's version is among the rows."""
    name, number = rows.selected_columns
    return rows.where(name == _V.c.name, number == _V.c.number).correlate(_V).exists()
