"""Where aliases point, read from the catalog when it was compared with the store just now."""

from __future__ import annotations

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AliasMove, check_alias, check_name
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.versions import VersionIndex
from hotswap.registry.storage.recent import Recent


class AliasIndex:
    """Current moves and histories, and the `versions` that they point to.

    Invariant: what is older than `freshness_s` is compared with the store again before it is
    handed out.
    """

    def __init__(
        self, records: Records, catalog: Catalog, versions: VersionIndex, freshness_s: float
    ) -> None:
        self._records = records
        self._catalog = catalog
        self.versions = versions
        self._recent: Recent[tuple[str, str], AliasMove] = Recent(freshness_s)

    def claim(self, move: AliasMove) -> bool:
        """Whether the move's sequence number is now ours; it is seen from now on."""
        claimed = self._records.claim_move(move)
        if claimed:
            self._catalog.add([], [move])
            self._recent.forget((move.name, move.alias))
        return claimed

    def forget(self) -> None:
        """Compare everything with the store again."""
        self._recent.clear()

    def all(self, name: str) -> list[AliasMove]:
        """The current move of every alias of `name` in the store; raises AdapterNotFound."""
        known = self._catalog.move_keys(check_name(name))
        missing = sorted(self._records.move_keys(name) - known)
        self.versions.catch_up(name, [self._records.move(*key) for key in missing])
        for _, alias, _ in missing:
            self._recent.forget((name, alias))
        self.versions.require_adapter(name)
        return self._catalog.current_moves(name)

    def current(self, name: str, alias: str) -> AliasMove | None:
        """The alias's newest move in the store; raises AdapterNotFound."""
        move = self.newest(name, alias)
        self.versions.require_adapter(name)
        return move

    def newest(self, name: str, alias: str) -> AliasMove | None:
        """As `current`, and None also when there is no such adapter yet."""
        return self._look(check_name(name), check_alias(alias))

    def target(self, name: str, alias: str) -> AliasMove:
        """The current move, at most `freshness_s` old; raises AliasNotFound."""
        move = self._recent.get((name, alias)) or self.newest(name, alias)
        if move is None:
            raise self.versions.no_alias(name, alias)
        return move

    def history(self, name: str, alias: str) -> list[AliasMove]:
        """Every move, oldest first, the newest at most `freshness_s` late; raises AliasNotFound."""
        self.target(name, alias)
        return self._catalog.history(name, alias)

    def known_history(self, name: str, alias: str) -> list[AliasMove]:
        """As `history`, from the catalog alone; empty when there is no such alias."""
        return self._catalog.history(name, alias)

    def _look(self, name: str, alias: str) -> AliasMove | None:
        mark = self._recent.mark()
        head = self.versions.head(name, alias)
        sequence = head.move.sequence + 1 if head else 1
        moves = list(self._records.moves_from(name, alias, sequence))
        if moves or head is None:
            latest = head.latest_number if head else None
            self.versions.catch_up(name, moves, known=latest)
        if moves:
            # A reader that began before the moves were there must not keep its answer.
            self._recent.forget((name, alias))
            return moves[-1]
        if head is None:
            return None
        self._recent.keep((name, alias), head.move, mark)
        return head.move
