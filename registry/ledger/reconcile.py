"""Makes the catalog and the log of events say what the store's records say."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from hotswap.registry.domain.errors import BlobCorrupted
from hotswap.registry.domain.layout import move_key, state_key, version_key
from hotswap.registry.ledger.backlog import Subject
from hotswap.registry.ledger.parts import Parts


class Rebuilt(NamedTuple):
    """How many records a rebuilt catalog was made from."""

    num_versions: int
    num_moves: int
    num_states: int


class Reconciliation:
    """After `sync` or `rebuild` every record that was stored before has its row and its event;
    after `catch_up` every record that another process published `freshness_s` ago has its row.

    Versions, aliases and states believe nothing that was read before a `sync` or a `rebuild`.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._records = parts.records
        self._catalog = parts.around.catalog
        self._log = parts.log
        self._freshness_s = parts.around.freshness_s
        self._catching_up = threading.Lock()  # never taken while the end of the log is moved
        self._looked_at = float("-inf")

    def catch_up(self) -> None:
        """Look at the log, at most once in `freshness_s`, and add what it has published by now.

        Whoever comes while another one does so waits: a page would lack the rows otherwise. When
        the store was put back to an earlier state the catalog is made again.
        """
        with self._catching_up:
            now = time.monotonic()
            if now - self._looked_at >= self._freshness_s:
                self._log.look()
                if not self._log.is_stored():
                    self.rebuild()
                self._looked_at = now
            while (subject := self._parts.backlog.pop()) is not None:
                self._learn(subject)

    def _learn(self, subject: Subject) -> None:
        """The records are read from where the catalog ends, as every verb does it: events may come
        in another order than the numbers, and a gap would never be filled.

        A damaged record keeps no other rows away; a request for its name gets the error.
        """
        try:
            if subject.alias is not None:
                self._parts.aliases.newest(subject.name, subject.alias)
            elif subject.number is not None:
                self._parts.states.look(subject.name, subject.number)
            else:
                self._parts.versions.catch_up(subject.name)
        except BlobCorrupted:
            return
        except BaseException:
            self._parts.backlog.put([subject])
            raise

    def sync(self) -> None:
        """Add what other processes, or a crash, left in the store alone."""
        known_moves, known_versions = self._catalog.move_keys(), self._catalog.version_keys()
        known_states, states = self._catalog.state_keys(), self._records.state_keys()
        # Moves first: the version a listed move points to is then listed too.
        moves, versions = self._records.move_keys(), self._records.version_keys()
        is_put_back = known_moves - moves or known_versions - versions or known_states - states
        if is_put_back or not self._log.is_stored():
            self.rebuild()
            return
        new = [self._records.version(*key) for key in sorted(versions - known_versions)]
        self._catalog.add(
            new,
            [self._records.move(*key) for key in sorted(moves - known_moves)],
            [self._records.state(*key) for key in sorted(states - known_states)],
            self._parts.facts.read(new),
        )
        self._publish_missing(versions, moves, states)
        self._forget()

    def rebuild(self) -> Rebuilt:
        """Make the catalog again from the store alone; how many records there are."""
        before = self._catalog.keys()
        versions, moves, states = self._records.everything()
        facts = self._parts.facts.read(versions)
        self._log.read_again(
            lambda events: self._catalog.replace(before, versions, moves, states, events, facts)
        )
        self._publish_missing(
            {(v.name, v.number) for v in versions},
            {(m.name, m.alias, m.sequence) for m in moves},
            {(s.name, s.number, s.sequence) for s in states},
        )
        self._forget()
        return Rebuilt(len(versions), len(moves), len(states))

    def _forget(self) -> None:
        self._parts.versions.forget()
        self._parts.aliases.forget()
        self._parts.states.forget()

    def _publish_missing(
        self,
        versions: set[tuple[str, int]],
        moves: set[tuple[str, str, int]],
        states: set[tuple[str, int, int]],
    ) -> None:
        """Append the events that a crash, or registries that had no log, left out."""
        published = self._log.published()
        records = self._records
        self._log.append(
            [
                *(records.version(*key) for key in versions if version_key(*key) not in published),
                *(records.move(*key) for key in moves if move_key(*key) not in published),
                *(records.state(*key) for key in states if state_key(*key) not in published),
            ]
        )
