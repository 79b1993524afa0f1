"""Where aliases point, read from the catalog when it was compared with the store just now."""

from __future__ import annotations

import time

from registry.adapters import AliasMove, check_alias, check_name
from registry.database.catalog import Catalog
from registry.records import Records
from registry.versions import Versions


class Aliases:
    """Current moves and histories. Invariant: what is older than `freshness_s` is compared with
    the store again before it is handed out."""

    def __init__(
        self, records: Records, catalog: Catalog, versions: Versions, freshness_s: float
    ) -> None:
        self._records = records
        self._catalog = catalog
        self._versions = versions
        self._freshness_s = freshness_s
        self._checked: dict[tuple[str, str], float] = {}

    def all(self, name: str) -> list[AliasMove]:
        """The current move of every alias of `name` in the store; raises AdapterNotFound."""
        known = self._catalog.move_keys(check_name(name))
        missing = sorted(self._records.move_keys(name) - known)
        self._versions.catch_up(name, [self._records.move(*key) for key in missing])
        self._versions.require_adapter(name)
        return self._catalog.current_moves(name)

    def current(self, name: str, alias: str) -> AliasMove | None:
        """The alias's newest move in the store; raises AdapterNotFound."""
        move = self.newest(name, alias)
        self._versions.require_adapter(name)
        return move

    def newest(self, name: str, alias: str) -> AliasMove | None:
        """As `current`, and None also when there is no such adapter yet."""
        self._look(check_name(name), check_alias(alias))
        return self._catalog.current_move(name, alias)

    def target(self, name: str, alias: str) -> AliasMove:
        """The current move, at most `freshness_s` old; raises AliasNotFound."""
        self._refresh(name, alias)
        move = self._catalog.current_move(name, alias)
        if move is None:
            raise self._versions.no_alias(name, alias)
        return move

    def history(self, name: str, alias: str) -> list[AliasMove]:
        """Every move, oldest first, the newest at most `freshness_s` late; raises AliasNotFound."""
        self._refresh(name, alias)
        moves = self._catalog.history(name, alias)
        if not moves:
            raise self._versions.no_alias(name, alias)
        return moves

    def _refresh(self, name: str, alias: str) -> None:
        """Look into the store for moves of the alias unless that was done just now."""
        checked = self._checked.get((check_name(name), check_alias(alias)))
        if checked is None or time.monotonic() - checked > self._freshness_s:
            self._look(name, alias)

    def _look(self, name: str, alias: str) -> None:
        now = time.monotonic()
        current = self._catalog.current_move(name, alias)
        sequence = current.sequence + 1 if current else 1
        moves = list(self._records.moves_from(name, alias, sequence))
        self._versions.catch_up(name, moves)
        if current or moves:
            self._checked[name, alias] = now
