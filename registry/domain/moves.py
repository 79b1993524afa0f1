"""What may become an alias's next move, and what its history says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from hotswap.registry.domain.adapters import AliasMove
from hotswap.registry.domain.errors import (
    AliasConflict,
    AliasNotFound,
    InvalidRequest,
    NothingToRollBack,
)
from hotswap.registry.domain.requests import MoveRequest

MAX_ACTOR_LENGTH = 128
MAX_WHY_LENGTH = 2000


def check_actor(by: str, why: str) -> None:
    """Raises InvalidRequest unless `by` names someone and both are short enough to keep."""
    for param, text, limit in (("by", by, MAX_ACTOR_LENGTH), ("why", why, MAX_WHY_LENGTH)):
        if len(text) > limit or "\x00" in text or (param == "by" and not text.strip()):
            raise InvalidRequest(
                f"{param!r} is {text[:50]!r}; give text of at most {limit} characters", param=param
            )


def stated_target(request: MoveRequest) -> int:
    """The version that a move names; raises InvalidRequest when it names none."""
    if request.to is None:
        raise InvalidRequest(f"a move of {request.where} needs the version to move to", param="to")
    return request.to


def check_expected(request: MoveRequest, current: AliasMove | None) -> None:
    """Raises AliasConflict unless the alias points to what the request expects, if anything."""
    expect = request.expect
    if expect is not None and (current is None or current.to_number != expect):
        raise conflict(current, f"{request.where} was expected to point to version {expect}")


def conflict(current: AliasMove | None, what: str) -> AliasConflict:
    """The error that says who moved the alias meanwhile."""
    if current is None:
        return AliasConflict(f"{what}, but it does not exist; move it without an expectation")
    return AliasConflict(
        f"{what}, but {current.moved_by} moved it to version {current.to_number} at "
        f"{current.moved_at:%Y-%m-%d %H:%M:%S} UTC; look at its history and decide again",
        current=current.to_number,
    )


def next_sequence(current: AliasMove | None) -> int:
    """The number of the move that follows `current`; an alias's first one is 1."""
    return current.sequence + 1 if current else 1


def next_move(request: MoveRequest, current: AliasMove | None, to: int) -> AliasMove:
    """The move to `to` that follows `current`. Its time is never before the one it follows,
    whatever this machine's clock says: `served_at` needs times in the order of the history."""
    now = datetime.now(UTC)
    return AliasMove(
        name=request.name,
        alias=request.alias,
        sequence=next_sequence(current),
        from_number=current.to_number if current else None,
        to_number=to,
        moved_by=request.by,
        moved_at=max(now, current.moved_at) if current else now,
        why=request.why,
        signature=None if request.signature is None else request.signature.signature,
    )


def check_sequence(request: MoveRequest, current: AliasMove | None) -> None:
    """A signed move is made as the number it was signed for or not at all: raises AliasConflict."""
    signed, following = request.signature, next_sequence(current)
    if signed is not None and signed.sequence != following:
        raise conflict(
            current,
            f"{request.where}: the signature is for move {signed.sequence}, the next one is "
            f"{following}",
        )


def is_done(request: MoveRequest, current: AliasMove | None) -> bool:
    """Whether there is nothing to do: the alias points there, signed by this key if by any.

    A move to where the alias points is made when it brings another key's signature.
    """
    if current is None or current.to_number != request.to:
        return False
    signed_by = None if current.signature is None else current.signature.key
    return request.signature is None or request.signature.signature.key == signed_by


def rollback_target(
    history: Sequence[AliasMove], to: int | None, is_movable: Callable[[int], bool]
) -> int:
    """The version a rollback goes to: the stated earlier target, or the last different one that
    an alias may move to (neither yanked nor deleted).

    `history` is the whole history, oldest first, and not empty. Raises NothingToRollBack when
    there is no such target.
    """
    current = history[-1]
    where = f"{current.name}@{current.alias}"
    earlier = [m.to_number for m in history if m.to_number != current.to_number]
    if to is None:
        target = next((number for number in reversed(earlier) if is_movable(number)), None)
        if target is None:
            raise NothingToRollBack(
                f"{where} has only ever pointed to version {current.to_number} (yanked and deleted "
                "versions left out); "
                f"move it with `hotswap alias set {where} NUMBER`"
            )
        return target
    if to == current.to_number:
        raise NothingToRollBack(f"{where} points to version {to} already")
    if to not in earlier:
        targets = ", ".join(map(str, sorted({m.to_number for m in history})))
        raise NothingToRollBack(
            f"{where} never pointed to version {to}; it pointed to {targets}; "
            f"to move it forward use `hotswap alias set {where} {to}`"
        )
    return to


def served_at(history: Sequence[AliasMove], at: datetime) -> AliasMove:
    """The move that was current at `at`; `history` is whole, oldest first, and not empty.

    Raises AliasNotFound when the alias did not exist yet.
    """
    made = [move for move in history if move.moved_at <= at]
    if not made:
        first = history[0]
        raise AliasNotFound(
            f"{first.name}@{first.alias} did not exist at {at.isoformat()}; "
            f"its first move was at {first.moved_at.isoformat()}"
        )
    return made[-1]
