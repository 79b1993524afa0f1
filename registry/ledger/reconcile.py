"""Makes the catalog and the log of events say what the store's records say."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.errors import BlobCorrupted
from hotswap.registry.domain.layout import move_key, state_key, version_key
from hotswap.registry.ledger.aliases import AliasIndex
from hotswap.registry.ledger.log import EventLog
from hotswap.registry.ledger.news import News, Subject
from hotswap.registry.ledger.reading import FactReader
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import VersionStates
from hotswap.registry.ledger.versions import VersionIndex


class Rebuilt(NamedTuple):
    """How many records a rebuilt catalog was made from."""

    num_versions: int
    num_moves: int
    num_states: int


class Reconciliation:
    """After `sync` or `rebuild` every record that was stored before has its row and its event;
    after `catch_up` every record that another process told of `freshness_s` ago has its row.

    Versions, aliases and states believe nothing that was read before a `sync` or a `rebuild`.
    """

    def __init__(
        self,
        records: Records,
        catalog: Catalog,
        events: EventLog,
        facts: FactReader,
        versions: VersionIndex,
        aliases: AliasIndex,
        states: VersionStates,
        news: News,
        freshness_s: float,
    ) -> None:
        self._records = records
        self._catalog = catalog
        self._events = events
        self._facts = facts
        self._versions = versions
        self._aliases = aliases
        self._states = states
        self._news = news
        self._freshness_s = freshness_s
        self._catching_up = threading.Lock()  # never taken while the end of the log is moved
        self._looked_at = float("-inf")

    def catch_up(self) -> None:
        """Look at the log, at most once in `freshness_s`, and add what it has told of by now.

        Whoever comes while another one does so waits for him: his page would lack the rows. When
        the store was put back to an earlier state the catalog is made again.
        """
        with self._catching_up:
            now = time.monotonic()
            if now - self._looked_at >= self._freshness_s:
                self._events.look()
                if not self._events.is_stored():
                    self.rebuild()
                self._looked_at = now
            while (subject := self._news.pop()) is not None:
                self._learn(subject)

    def _learn(self, subject: Subject) -> None:
        """The records are read from where the catalog ends, as every verb does it: events may come
        in another order than the numbers, and a gap would never be filled.

        A damaged record keeps nobody else's rows away; who asks for its name is told.
        """
        try:
            if subject.alias is not None:
                self._aliases.newest(subject.name, subject.alias)
            elif subject.number is not None:
                self._states.look(subject.name, subject.number)
            else:
                self._versions.catch_up(subject.name)
        except BlobCorrupted:
            return
        except BaseException:
            self._news.put([subject])
            raise

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
        self._forget()

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
        self._forget()
        return Rebuilt(len(versions), len(moves), len(states))

    def _forget(self) -> None:
        self._versions.forget()
        self._aliases.forget()
        self._states.forget()

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
