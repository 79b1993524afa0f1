"""Rows of the catalog's tables from records, and back. Knows no statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from hotswap.registry.domain.adapters import AdapterSummary, AdapterVersion, AliasMove
from hotswap.registry.domain.event import Event

TARGET = "target_"  # begins the columns of the version in a row of `alias_head`


class AliasHead(NamedTuple):
    """An alias's current move, the version it points to, and the newest number of its name."""

    move: AliasMove
    version: AdapterVersion
    latest_number: int


def record_key(event: Event) -> tuple[Any, ...]:
    """The primary key of the row of the record that the event publishes."""
    if event.move is not None:
        return event.move.name, event.move.alias, event.move.sequence
    if event.state is not None:
        return event.state.name, event.state.number, event.state.sequence
    return event.version.name, event.version.number


def version_row(version: AdapterVersion) -> dict[str, Any]:
    return {**version.model_dump(), "manifest_digest": str(version.manifest_digest)}


def version_of(row: Row[Any]) -> AdapterVersion:
    return AdapterVersion.model_validate(dict(row._mapping))


def move_row(move: AliasMove) -> dict[str, Any]:
    signature = move.signature
    return {
        **move.model_dump(exclude={"signature"}),
        "signature_key": None if signature is None else signature.key,
        "signature_value": None if signature is None else signature.value,
    }


def move_of(row: Row[Any]) -> AliasMove:
    return _move(dict(row._mapping))


def alias_head(row: Row[Any]) -> AliasHead:
    """From the columns of a move, those of its version behind TARGET, and `latest_number`."""
    fields = dict(row._mapping)
    latest_number = fields.pop("latest_number")
    names = [name for name in fields if name.startswith(TARGET)]
    version = {name.removeprefix(TARGET): fields.pop(name) for name in names}
    return AliasHead(_move(fields), AdapterVersion.model_validate(version), latest_number)


def _move(fields: dict[str, Any]) -> AliasMove:
    key, value = fields.pop("signature_key"), fields.pop("signature_value")
    if key is not None:
        fields["signature"] = {"key": key, "value": value}
    return AliasMove.model_validate(fields)


def summary_of(row: Row[Any], moves: Sequence[AliasMove]) -> AdapterSummary:
    return AdapterSummary(
        name=row.name,
        num_versions=row.num_versions,
        latest_number=row.latest_number,
        aliases={move.alias: move.to_number for move in moves},
        updated_at=max([row.created_at, *(move.moved_at for move in moves)]),
    )
