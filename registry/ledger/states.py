"""The states of versions: yank, delete and their undoing, as write-once records.

`delete` writes its record and then looks at the aliases; an alias move writes its record and then
looks at the state (`keep`). Whatever the order, one of the two sees the other, so no alias ends up
pointing to a deleted version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AliasMove, StateVerb, VersionState
from hotswap.registry.domain.errors import Conflict, VersionDeleted, VersionInUse, VersionYanked
from hotswap.registry.domain.requests import StateRequest
from hotswap.registry.ledger.publisher import Publisher
from hotswap.registry.ledger.records import Records
from hotswap.registry.storage.recent import Recent

State = Literal["active", "yanked", "deleted", "purged"]

GONE = frozenset({"deleted", "purged"})


class _Change(NamedTuple):
    allowed: frozenset[State]
    to: State


_CHANGES: dict[StateVerb, _Change] = {
    "delete": _Change(frozenset({"active", "yanked"}), "deleted"),
    "undelete": _Change(frozenset({"deleted"}), "active"),
    "yank": _Change(frozenset({"active"}), "yanked"),
    "unyank": _Change(frozenset({"yanked"}), "active"),
}


class VersionStates:
    """Invariant: a state of the catalog has its record in the store.

    A state is taken from memory when it was compared with the store within `freshness_s`.
    """

    def __init__(
        self,
        records: Records,
        catalog: Catalog,
        freshness_s: float,
        aliases: Callable[[str], Iterable[AliasMove]],
        publisher: Publisher,
    ) -> None:
        self._records = records
        self._catalog = catalog
        self._aliases = aliases
        self._publisher = publisher
        self._recent: Recent[tuple[str, int], State] = Recent(freshness_s)

    def forget(self) -> None:
        """Compare everything with the store again."""
        self._recent.clear()

    def current(self, name: str, number: int) -> State:
        """The state, at most `freshness_s` old."""
        return self._recent.get((name, number)) or _state(self.look(name, number))

    def all(self, name: str) -> list[VersionState]:
        """The current state of every version of `name` that ever had one, in order of number."""
        known = {s.number: s.sequence for s in self._catalog.current_states(name)}
        stored = sorted(self._records.state_keys(name))
        missing = [key for key in stored if key[2] > known.get(key[1], 0)]
        self._add([self._records.state(*key) for key in missing])
        return self._catalog.current_states(name)

    def require_present(self, name: str, number: int) -> None:
        """Raises VersionDeleted when the version was deleted."""
        _refuse_gone(name, number, self.current(name, number))

    def require_movable(self, name: str, number: int) -> None:
        """Raises VersionDeleted or VersionYanked when no alias may move to the version now."""
        state = _state(self.look(name, number))
        _refuse_gone(name, number, state)
        if state == "yanked":
            raise VersionYanked(
                f"{name}:{number} was yanked, so no alias may move to it; name another version, "
                f"or take it back with `hotswap adapter unyank {name}:{number}`"
            )

    def is_movable(self, name: str, number: int) -> bool:
        return _state(self.look(name, number)) == "active"

    def keep(self, move: AliasMove) -> None:
        """Bring the target of a move that was just claimed back if it was deleted meanwhile."""
        self.revive(move.name, move.to_number, move.moved_by, f"{move.alias} was moved to it")

    def revive(self, name: str, number: int, by: str, why: str) -> None:
        """Make a deleted or purged version active; its content must be stored and pinned."""
        while (state := self.look(name, number)) is not None and state.state in GONE:
            self._claim(state, name, number, "active", by, why, "revive")

    def change(self, request: StateRequest) -> VersionState:
        """Apply the verb; one that is done already gives the record that did it.

        Raises VersionInUse when an alias points to a version that is to be deleted,
        VersionDeleted when it was purged, Conflict when the verb does not fit its state.
        """
        name, number, verb = request.name, request.number, request.verb
        while True:
            current = self.look(name, number)
            allowed, to = _CHANGES[verb]
            if current is not None and current.state == to and verb in ("delete", "yank"):
                return current
            _check_change(name, number, verb, _state(current), allowed)
            if verb == "delete":
                self._refuse_in_use(name, number)
            target = self._before_deletion(current) if verb == "undelete" and current else to
            claimed = self._claim(current, name, number, target, request.by, request.why, verb)
            if claimed is None:
                continue
            if verb == "delete":
                self._undo_if_in_use(claimed)
            return claimed

    def _undo_if_in_use(self, deleted: VersionState) -> None:
        name, number = deleted.name, deleted.number
        try:
            self._refuse_in_use(name, number)
        except VersionInUse as error:
            self.revive(name, number, deleted.changed_by, error.message)
            raise

    def _refuse_in_use(self, name: str, number: int) -> None:
        pointing = [move.alias for move in self._aliases(name) if move.to_number == number]
        if pointing:
            raise VersionInUse(
                f"{name}:{number} is what {', '.join(f'{name}@{a}' for a in pointing)} points to; "
                "move the alias to another version before you delete this one"
            )

    def _before_deletion(self, deleted: VersionState) -> State:
        """A version that was yanked when it was deleted comes back yanked."""
        if deleted.sequence == 1:
            return "active"
        before = self._records.state(deleted.name, deleted.number, deleted.sequence - 1)
        return "yanked" if before.state == "yanked" else "active"

    def _claim(
        self,
        current: VersionState | None,
        name: str,
        number: int,
        to: State,
        by: str,
        why: str,
        action: str,
    ) -> VersionState | None:
        state = next_state(current, name, number, to, by, why)
        if not self._records.claim_state(state):
            return None
        self._add([state])
        self._publisher.state(current, state, action)
        return state

    def look(self, name: str, number: int) -> VersionState | None:
        """The state in the store now; None for a version that never had one."""
        mark = self._recent.mark()
        known = self._catalog.current_states(name, number)
        sequence = known[-1].sequence + 1 if known else 1
        new = list(self._records.states_from(name, number, sequence))
        self._add(new)
        current = (known + new)[-1] if known or new else None
        self._recent.keep((name, number), _state(current), mark)
        return current

    def _add(self, states: Sequence[VersionState]) -> None:
        if states:
            self._catalog.add([], [], states)
        for state in states:
            self._recent.forget((state.name, state.number))


def next_state(
    current: VersionState | None, name: str, number: int, to: State, by: str, why: str
) -> VersionState:
    return VersionState(
        name=name,
        number=number,
        sequence=current.sequence + 1 if current else 1,
        state=to,
        changed_by=by,
        changed_at=datetime.now(UTC),
        why=why,
    )


def _state(state: VersionState | None) -> State:
    return state.state if state else "active"


def _refuse_gone(name: str, number: int, state: State) -> None:
    if state == "deleted":
        raise VersionDeleted(
            f"{name}:{number} was deleted; bring it back with "
            f"`hotswap adapter undelete {name}:{number}`"
        )
    if state == "purged":
        raise VersionDeleted(
            f"{name}:{number} was deleted and its grace period is over; push its files again"
        )


def _check_change(
    name: str, number: int, verb: StateVerb, state: State, allowed: frozenset[State]
) -> None:
    if state in allowed:
        return
    if state == "purged":
        _refuse_gone(name, number, state)
    raise Conflict(
        f"cannot {verb} {name}:{number}: it is {state}, and must be {' or '.join(sorted(allowed))}"
    )
