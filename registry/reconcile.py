"""Makes the catalog and the log of events say what the store's records say."""

from __future__ import annotations

from typing import NamedTuple

from registry.database.catalog import Catalog
from registry.events.log import EventLog
from registry.layout import move_key, state_key, version_key
from registry.records import Records
from registry.search.reading import FactReader


class Rebuilt(NamedTuple):
    """How many records a rebuilt catalog was made from."""

    num_versions: int
    num_moves: int
    num_states: int


class Reconciliation:
    """After `sync` or `rebuild` every record that was stored before has its row and its event."""

    def __init__(
        self, records: Records, catalog: Catalog, events: EventLog, facts: FactReader
    ) -> None:
        self._records = records
        self._catalog = catalog
        self._events = events
        self._facts = facts

    def sync(self) -> None:
        """Add what other processes, or a crash, left in the store alone."""
        known_moves, known_versions = self._catalog.move_keys(), self._catalog.version_keys()
        known_states, states = self._catalog.state_keys(), self._records.state_keys()
        # Moves first: the version a listed move points to is then listed too.
        moves, versions = self._records.move_keys(), self._records.version_keys()
        is_put_back = known_moves - moves or known_versions - versions or known_states - states
        if is_put_back or not self._events.is_stored():
            self.rebuild()
            return
        new = [self._records.version(*key) for key in sorted(versions - known_versions)]
        self._catalog.add(
            new,
            [self._records.move(*key) for key in sorted(moves - known_moves)],
            [self._records.state(*key) for key in sorted(states - known_states)],
            self._facts.read(new),
        )
        self._tell_missing(versions, moves, states)

    def rebuild(self) -> Rebuilt:
        """Make the catalog again from the store alone; how many records there are."""
        before = self._catalog.keys()
        versions, moves, states = self._records.everything()
        facts = self._facts.read(versions)
        self._events.read_again(
            lambda events: self._catalog.replace(before, versions, moves, states, events, facts)
        )
        self._tell_missing(
            {(v.name, v.number) for v in versions},
            {(m.name, m.alias, m.sequence) for m in moves},
            {(s.name, s.number, s.sequence) for s in states},
        )
        return Rebuilt(len(versions), len(moves), len(states))

    def _tell_missing(
        self,
        versions: set[tuple[str, int]],
        moves: set[tuple[str, str, int]],
        states: set[tuple[str, int, int]],
    ) -> None:
        """Append the events that a crash, or registries that had no log, left out."""
        told = self._events.told()
        records = self._records
        self._events.append(
            [
                *(records.version(*key) for key in versions if version_key(*key) not in told),
                *(records.move(*key) for key in moves if move_key(*key) not in told),
                *(records.state(*key) for key in states if state_key(*key) not in told),
            ]
        )
