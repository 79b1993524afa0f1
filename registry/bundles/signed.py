"""A registry whose pushes and moves are signed: asks what the next move would be, signs that, and
makes it."""

from __future__ import annotations

from dataclasses import replace

from hotswap.registry.domain.adapters import AdapterVersion, AliasMove
from hotswap.registry.domain.errors import AliasConflict
from hotswap.registry.domain.policy import MovePlan
from hotswap.registry.domain.protocol import AdapterRegistry, Aliases, Versions
from hotswap.registry.domain.requests import MoveRequest, PushRequest
from hotswap.registry.domain.signatures import Signer
from hotswap.registry.retries import retried

MAX_ATTEMPTS = 5
# Somebody else was faster: the next sequence number is signed, without a pause.
_AT_ONCE = (0.0,) * (MAX_ATTEMPTS - 1)


def signed_by(key: Signer | None, registry: AdapterRegistry) -> AdapterRegistry:
    """The registry, whose pushes and moves the key signs if there is one."""
    return registry if key is None else SignedRegistry(registry, key)


class SignedRegistry:
    """Implements AdapterRegistry over another one. Invariant: what is written has a signature by
    the key."""

    def __init__(self, registry: AdapterRegistry, key: Signer) -> None:
        self.blobs = registry.blobs
        self.versions = SignedVersions(registry.versions, key)
        self.adapters = registry.adapters
        self.aliases = SignedAliases(registry.aliases, key)
        self.events = registry.events
        self.access = registry.access


class SignedVersions:
    """Implements Versions: a commit brings signatures of the version and of the alias's move."""

    def __init__(self, versions: Versions, key: Signer) -> None:
        self._versions = versions
        self._key = key
        self.plan = versions.plan
        self.resolve = versions.resolve
        self.manifest = versions.manifest
        self.manifest_bytes = versions.manifest_bytes
        self.signatures = versions.signatures
        self.change = versions.change
        self.verify = versions.verify

    def commit(self, request: PushRequest) -> AdapterVersion:
        """The version stays when the alias is moved by others faster than it can be signed for."""
        name, digest = request.name, request.manifest.digest
        request = replace(request, signatures=(self._key.sign_version(name, digest),))

        def attempt() -> AdapterVersion:
            if request.alias is None:
                return self._versions.commit(request)
            sequence = self._versions.plan(request).sequence
            move = self._key.sign_move(name, request.alias, sequence, digest)
            return self._versions.commit(replace(request, move_signature=move))

        return retried(attempt, AliasConflict, _AT_ONCE)


class SignedAliases:
    """Implements Aliases: moves and rollbacks are signed.

    The registry is believed about which manifest the target has.
    """

    def __init__(self, aliases: Aliases, key: Signer) -> None:
        self._aliases = aliases
        self._key = key
        self.all = aliases.all
        self.target = aliases.target
        self.history = aliases.history
        self.plan_move = aliases.plan_move
        self.plan_rollback = aliases.plan_rollback
        self.policy = aliases.policy

    def move(self, request: MoveRequest) -> AliasMove:
        """Signs again when someone else took the sequence number meanwhile."""

        def attempt() -> AliasMove:
            return self._aliases.move(self._signed(request, self._aliases.plan_move(request)))

        return retried(attempt, AliasConflict, _AT_ONCE if request.expect is None else ())

    def rollback(self, request: MoveRequest) -> AliasMove:
        """Raises AliasConflict when the alias was moved meanwhile and does not try again: that
        would roll back what somebody else just did."""
        plan = self._aliases.plan_rollback(request)
        return self._aliases.rollback(self._signed(replace(request, to=plan.to_number), plan))

    def _signed(self, request: MoveRequest, plan: MovePlan) -> MoveRequest:
        """The request, with a signature of the move that was planned."""
        signature = self._key.sign_move(request.name, request.alias, plan.sequence, plan.to_digest)
        return replace(request, signature=signature)
