"""The tables of the catalog. Rows are never wire types: SQLModel tables do not validate."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import BigInteger, DateTime, ForeignKeyConstraint, Index, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in, aware UTC datetimes out, also where the database has no zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002
    ) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002
    ) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class KeyText(TypeDecorator[str]):
    """Text in the order of its bytes on both databases. PostgreSQL's default follows the
    cluster's language, and pages of names would differ."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        is_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor(String(collation="C" if is_postgresql else None))


class StoreRow(SQLModel, table=True):
    """The one store whose records this catalog indexes."""

    __tablename__ = "store"

    store_id: str = Field(primary_key=True)


class VersionRow(SQLModel, table=True):
    """One AdapterVersion."""

    __tablename__ = "versions"
    __table_args__ = (Index("versions_by_digest", "name", "manifest_digest"),)

    name: str = Field(primary_key=True, sa_type=KeyText)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    manifest_digest: str
    created_by: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class FactRow(SQLModel, table=True):
    """One Fact of a version, for searches: a text or a number, never both."""

    __tablename__ = "facts"
    __table_args__ = (
        # Texts by (key, text); numbers, whose text is NULL, by (key, NULL, value).
        Index("facts_by_key", "key", "text", "value", "name", "number"),
        {"sqlite_with_rowid": False},
    )

    name: str = Field(primary_key=True, sa_type=KeyText)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    key: str = Field(primary_key=True, sa_type=KeyText)
    text: str | None = Field(sa_type=KeyText)
    value: float | None


class VersionStateRow(SQLModel, table=True):
    """One VersionState; the row with the highest sequence of a version is current."""

    __tablename__ = "version_states"

    name: str = Field(primary_key=True, sa_type=KeyText)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    state: str
    changed_by: str
    changed_at: datetime = Field(sa_type=UtcDateTime)
    why: str


class EventRow(SQLModel, table=True):
    """Which record the event of a sequence number publishes."""

    __tablename__ = "events"

    sequence: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    record_key: str = Field(index=True)


class AliasMoveRow(SQLModel, table=True):
    """One AliasMove; the row with the highest sequence of an alias is current."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        ForeignKeyConstraint(["name", "to_number"], ["versions.name", "versions.number"]),
        Index("alias_moves_by_alias", "alias", "name"),
    )

    name: str = Field(primary_key=True, sa_type=KeyText)
    alias: str = Field(primary_key=True, sa_type=KeyText)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    from_number: int | None = Field(sa_type=BigInteger)
    to_number: int = Field(sa_type=BigInteger)
    moved_by: str
    moved_at: datetime = Field(sa_type=UtcDateTime)
    why: str
    signature_key: str | None = None
    signature_value: str | None = None


METADATA = SQLModel.metadata
