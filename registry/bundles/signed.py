"""Signed pushes and moves: asks what the next move would be, signs that, and makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotswap.registry.domain.adapters import AdapterVersion, AliasMove
from hotswap.registry.domain.errors import AliasConflict
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.retries import retried

if TYPE_CHECKING:  # what does not sign need not load the cryptography
    from hotswap.registry.signing import SigningKey

MAX_ATTEMPTS = 5
# Somebody else was faster: the next sequence number is signed, without a pause.
_AT_ONCE = (0.0,) * (MAX_ATTEMPTS - 1)


def commit_signed(
    registry: AdapterRegistry,
    key: SigningKey,
    name: str,
    manifest: Manifest,
    *,
    by: str,
    alias: str | None = None,
    why: str = "",
) -> AdapterVersion:
    """As `commit`, the version and the alias's move signed; the version stays when the alias
    is moved by others faster than it can be signed for."""
    digest = manifest.digest

    def attempt() -> AdapterVersion:
        move = None
        if alias is not None:
            plan = registry.plan_commit(name, manifest, by=by, alias=alias, why=why)
            move = key.sign_move(name, alias, plan.sequence, digest)
        return registry.commit(
            name,
            manifest,
            by=by,
            alias=alias,
            why=why,
            signatures=(key.sign_version(name, digest),),
            move_signature=move,
        )

    return retried(attempt, AliasConflict, _AT_ONCE)


def move_signed(
    registry: AdapterRegistry,
    key: SigningKey,
    name: str,
    alias: str,
    to: int,
    *,
    by: str,
    why: str = "",
    expect: int | None = None,
) -> AliasMove:
    """As `move_alias`; signs again when someone else took the sequence number meanwhile.

    The registry is believed about which manifest version `to` has.
    """

    def attempt() -> AliasMove:
        plan = registry.plan_move(name, alias, to, by=by, why=why, expect=expect)
        signature = key.sign_move(name, alias, plan.sequence, plan.to_digest)
        return registry.move_alias(
            name, alias, to, by=by, why=why, expect=expect, signature=signature
        )

    return retried(attempt, AliasConflict, _AT_ONCE if expect is None else ())


def rollback_signed(
    registry: AdapterRegistry,
    key: SigningKey,
    name: str,
    alias: str,
    *,
    by: str,
    why: str = "",
    expect: int | None = None,
    to: int | None = None,
) -> AliasMove:
    """As `rollback`. Raises AliasConflict when the alias was moved meanwhile and does not try
    again: that would roll back what somebody else just did."""
    plan = registry.plan_rollback(name, alias, by=by, why=why, expect=expect, to=to)
    signature = key.sign_move(name, alias, plan.sequence, plan.to_digest)
    return registry.rollback(
        name, alias, by=by, why=why, expect=expect, to=plan.to_number, signature=signature
    )
