"""Appends to the log of events without a catalog, for what works on the store alone."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime

from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.event import Event, EventRecord, key_of
from hotswap.registry.ledger.records import Records


class LogTail:
    """The log behind the end it had when this was made. Invariant: each record that was claimed
    since then gets one event, whoever appends it; an earlier one must not be appended here."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._end = _end_of(records)
        self._published: set[str] = set()

    def append(self, record: EventRecord, version: AdapterVersion) -> None:
        """Append the event of a record that was just claimed; `version` is what it is about."""
        while True:
            for event in self._records.events_from(self._end + 1):
                self._published.add(event.record_key)
                self._end = event.sequence
            if key_of(record) in self._published:
                return
            event = Event.of(self._end + 1, datetime.now(UTC), record, version)
            if self._records.claim_event(event):
                self._published.add(event.record_key)
                self._end = event.sequence
                return


def _end_of(records: Records) -> int:
    """The last sequence number, 0 for an empty log. Numbers have no gaps, so halving finds it."""
    beyond = 1
    while records.has_event(beyond):
        beyond *= 2
    return bisect_left(range(1, beyond), True, key=lambda n: not records.has_event(n))
