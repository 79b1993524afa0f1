"""Judges moves before they are made, and says what one would do. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable

from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterVersion,
    AliasMove,
    check_alias,
    check_name,
)
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import HotswapError, InvalidRequest, NotFound
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.moves import (
    check_expected,
    next_sequence,
    rollback_target,
    stated_target,
)
from hotswap.registry.domain.policy import Condition, MovePlan, ReleasePolicy, require_all
from hotswap.registry.domain.requests import MoveRequest, PushRequest
from hotswap.registry.ledger.aliases import AliasIndex
from hotswap.registry.ledger.states import VersionStates
from hotswap.registry.storage.blobs import ManifestStore


class ReleaseGate:
    """Invariant: a judgement is about the move it is given as current, not about a later one;
    the move at the next sequence number is judged against what it replaces."""

    def __init__(
        self,
        policy: ReleasePolicy,
        aliases: AliasIndex,
        states: VersionStates,
        manifests: ManifestStore,
    ) -> None:
        self.policy = policy
        self._aliases = aliases
        self._versions = aliases.versions
        self._states = states
        self._manifests = manifests

    def require(
        self, request: MoveRequest, version: AdapterVersion, current: AliasMove | None
    ) -> None:
        """Raises PolicyViolation unless the alias may move from `current` to the version.

        A move to where it points only signs it, and asks nothing.
        """
        if current is not None and current.to_number == version.number:
            return
        conditions = self._judge_version(version, request.alias, current, request.why)
        require_all(_refusal(version.name, request.alias, version.number), conditions)

    def require_commit(self, request: PushRequest) -> None:
        """As `require`, for a manifest that may not be a version yet: a refused alias leaves
        no version behind."""
        name, alias = request.name, request.alias
        if alias is not None and self.policy.protects(name, alias):
            plan = self.plan_commit(request)
            policy = tuple(c for c in plan.conditions if c.rule is not None)
            require_all(_refusal(name, alias, plan.to_number), policy)

    def plan_commit(self, request: PushRequest) -> MovePlan:
        name, alias, manifest = request.name, request.alias, request.manifest
        if alias is None:
            raise InvalidRequest("a plan says what an alias would do; name one", param="alias")
        current = self._aliases.newest(check_name(name), check_alias(alias))
        digest = manifest.digest
        try:
            version = self._versions.find(AdapterRef(name, digest=digest))
        except NotFound:
            number = self._versions.next_number(name)
            free = _condition(
                "a name that looks like no other",
                "it does not",
                lambda: self._versions.require_free_name(name),
            )
            conditions = (free, *self._judge(name, alias, manifest, current, request.why))
            return _plan(name, alias, current, number, digest, conditions, is_new=True)
        if current is not None and current.to_number == version.number:
            return _plan(name, alias, current, version.number, digest, ())
        yanked = self._states.current(name, version.number) == "yanked"
        state = Condition(
            asked="a version that is not yanked",
            found="it is yanked" if yanked else "it is not",
            holds=not yanked,
            to_do=f"take it back with `hotswap adapter unyank {version.ref}`" if yanked else "",
        )
        conditions = (state, *self._judge_version(version, alias, current, request.why))
        return _plan(name, alias, current, version.number, digest, conditions)

    def plan_move(self, request: MoveRequest) -> MovePlan:
        name, alias, to = request.name, request.alias, stated_target(request)
        current = self._aliases.current(name, alias)
        version = self._versions.find(AdapterRef(name, number=to))
        conditions = _expected(request, current)
        if current is None or current.to_number != to:
            policy = self._judge_version(version, alias, current, request.why)
            conditions += (self._movable(version), *policy)
        return _plan(name, alias, current, to, version.manifest_digest, conditions)

    def plan_rollback(self, request: MoveRequest) -> MovePlan:
        name, alias = request.name, request.alias
        current = self._aliases.current(name, alias)
        history = self._aliases.history(name, alias)
        target = rollback_target(history, request.to, lambda n: self._states.is_movable(name, n))
        version = self._versions.get(name, target)
        conditions = (*_expected(request, current), self._movable(version))
        return _plan(name, alias, current, target, version.manifest_digest, conditions)

    def _judge_version(
        self, version: AdapterVersion, alias: str, current: AliasMove | None, why: str
    ) -> tuple[Condition, ...]:
        if not self.policy.protects(version.name, alias):
            return ()
        manifest = self._manifests.get(version.manifest_digest)
        return self._judge(version.name, alias, manifest, current, why)

    def _judge(
        self, name: str, alias: str, manifest: Manifest, current: AliasMove | None, why: str
    ) -> tuple[Condition, ...]:
        replaced = None
        if current is not None and self.policy.compares(name, alias):
            before = self._versions.get(name, current.to_number)
            replaced = (before.number, self._manifests.get(before.manifest_digest))
        return self.policy.judge(name, alias, manifest, replaced, why)

    def _movable(self, version: AdapterVersion) -> Condition:
        return _condition(
            "an active version",
            "it is active",
            lambda: self._states.require_movable(version.name, version.number),
        )


def _expected(request: MoveRequest, current: AliasMove | None) -> tuple[Condition, ...]:
    if request.expect is None:
        return ()
    points_to = "nothing" if current is None else f"version {current.to_number}"
    return (
        _condition(
            f"an alias that points to version {request.expect}",
            f"it points to {points_to}",
            lambda: check_expected(request, current),
        ),
    )


def _condition(asked: str, found: str, check: Callable[[], None]) -> Condition:
    """Whether `check` passes; the message of the error it raises says the rest."""
    try:
        check()
    except HotswapError as error:
        return Condition(asked=asked, found=error.message, holds=False)
    return Condition(asked=asked, found=found, holds=True)


def _refusal(name: str, alias: str, number: int) -> str:
    return f"{name}@{alias} is protected and does not move to version {number}"


def _plan(
    name: str,
    alias: str,
    current: AliasMove | None,
    to: int,
    digest: Digest,
    conditions: tuple[Condition, ...],
    *,
    is_new: bool = False,
) -> MovePlan:
    return MovePlan(
        name=name,
        alias=alias,
        sequence=next_sequence(current),
        from_number=current.to_number if current else None,
        to_number=to,
        to_digest=digest,
        is_new_version=is_new,
        allowed=all(condition.holds for condition in conditions),
        conditions=conditions,
    )
