"""Makes alias moves: the compare-and-swap on an alias's history, and what must hold for it."""

from __future__ import annotations

from hotswap.registry.domain.adapters import AdapterRef, AliasMove
from hotswap.registry.domain.moves import (
    check_expected,
    check_sequence,
    conflict,
    is_done,
    next_move,
    rollback_target,
    stated_target,
)
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.ledger.aliases import AliasIndex
from hotswap.registry.ledger.gate import ReleaseGate
from hotswap.registry.ledger.publisher import Publisher
from hotswap.registry.ledger.states import VersionStates
from hotswap.registry.signing import check_move


class AliasMover:
    """Invariant: a move takes the sequence number behind the move it was judged against, so
    nothing came between the judgement and the move."""

    def __init__(
        self, aliases: AliasIndex, states: VersionStates, gate: ReleaseGate, publisher: Publisher
    ) -> None:
        self._aliases = aliases
        self._versions = aliases.versions
        self._states = states
        self._gate = gate
        self._publisher = publisher

    def move(self, request: MoveRequest) -> AliasMove:
        """Judges again, against the new current move, until the claim is won or refused."""
        to = stated_target(request)
        while True:
            current = self._aliases.current(request.name, request.alias)
            version = self._versions.find(AdapterRef(request.name, number=to))
            check_expected(request, current)
            if current is not None and is_done(request, current):
                return current
            self._states.require_movable(request.name, to)
            self._gate.require(request, version, current)
            check_sequence(request, current)
            move = next_move(request, current, to)
            check_move(move, version.manifest_digest)
            if self._claim(move, "move"):
                return move

    def rollback(self, request: MoveRequest) -> AliasMove:
        """Claims once: rolling back what another caller did would be a second rollback, which
        was not asked for."""
        name, alias = request.name, request.alias
        current = self._aliases.current(name, alias)
        if current is None:
            raise self._versions.no_alias(name, alias)
        check_expected(request, current)
        check_sequence(request, current)
        target = rollback_target(
            self._aliases.known_history(name, alias),
            request.to,
            lambda number: self._states.is_movable(name, number),
        )
        self._states.require_movable(name, target)
        move = next_move(request, current, target)
        check_move(move, self._versions.get(name, target).manifest_digest)
        if not self._claim(move, "rollback"):
            raise conflict(
                self._aliases.current(name, alias), f"{request.where} was moved meanwhile"
            )
        return move

    def _claim(self, move: AliasMove, action: str) -> bool:
        claimed = self._aliases.claim(move)
        if claimed:
            self._publisher.move(move, action, self._states.keep)
        return claimed
