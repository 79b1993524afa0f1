"""One entry of the feed, and a page of them. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from hotswap.registry.domain.adapters import AdapterVersion, AliasMove, VersionState
from hotswap.registry.domain.layout import move_key, state_key, version_key
from hotswap.registry.domain.values import ValueObject

MAX_PAGE = 1000
MAX_WAIT_S = 30.0

EventRecord = AdapterVersion | AliasMove | VersionState


class Event(ValueObject):
    """A version was pushed, an alias moved, or a version's state changed.

    `version` is what it is about: the pushed one, the move's target, the one with the state. The
    record of a move or a state is embedded, so that a follower need not ask again. Two moves of
    one alias may come in the wrong order: only one with a higher `move.sequence` than the last
    counts.
    """

    sequence: int
    at: datetime
    kind: Literal["version", "move", "state"]
    version: AdapterVersion
    move: AliasMove | None = None
    state: VersionState | None = None

    @classmethod
    def of(cls, sequence: int, at: datetime, record: EventRecord, version: AdapterVersion) -> Event:
        """The event that publishes `record`; `version` is the version the record names."""
        if isinstance(record, AliasMove):
            return cls(sequence=sequence, at=at, kind="move", version=version, move=record)
        if isinstance(record, VersionState):
            return cls(sequence=sequence, at=at, kind="state", version=version, state=record)
        return cls(sequence=sequence, at=at, kind="version", version=record)

    @property
    def record_key(self) -> str:
        """The key in the store of the record that the event publishes."""
        return key_of(self.move or self.state or self.version)


class EventPage(ValueObject):
    """Some events in order, and the cursor that continues behind them.

    The cursor may be ahead of the last event: what the reader may not see is left out.
    """

    events: tuple[Event, ...]
    cursor: int


def subject_of(record: EventRecord) -> tuple[str, int]:
    """Name and number of the version the record is about."""
    return record.name, record.to_number if isinstance(record, AliasMove) else record.number


def order_of(record: EventRecord) -> tuple[datetime, int, int]:
    """Sorts records as they came about: by time, a version before what names it."""
    if isinstance(record, AliasMove):
        return record.moved_at, 1, record.sequence
    if isinstance(record, VersionState):
        return record.changed_at, 1, record.sequence
    return record.created_at, 0, record.number


def key_of(record: EventRecord) -> str:
    """The record's key in the store."""
    if isinstance(record, AliasMove):
        return move_key(record.name, record.alias, record.sequence)
    if isinstance(record, VersionState):
        return state_key(record.name, record.number, record.sequence)
    return version_key(record.name, record.number)
