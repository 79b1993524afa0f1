"""What a server believes: which keys must have signed what it serves, checked when it resolves.

    [[rules]]
    match = "team/*"               # names; with '@…' only these aliases of them
    keys = ["ed25519:…"]           # as `hotswap key new` and `hotswap key show` print them
    require = ["version", "move"]  # one of the keys signed the version, and the alias's move to it

Every rule that matches must hold; a name that no rule matches needs no signature, so write one for
`*` to serve nothing unsigned. A move is asked of aliases only, not of `team/sql:7`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator

from hotswap.registry.domain.access import covers, is_alias_pattern
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, AliasMove
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import SignatureInvalid, Untrusted
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.signatures import PublicKey, Signature
from hotswap.registry.domain.values import ValueObject
from hotswap.registry.retries import retried
from hotswap.registry.signing import check_move_signature, check_version_signature
from hotswap.serving.aliases.seen_moves import SeenMoves
from hotswap.serving.aliases.version_table import ResolvedRef
from hotswap.serving.errors import StalePointer

# Registries behind one address may be behind each other by their freshness, a second: an older
# answer is asked for again before it counts as a replay.
PAUSES_S = (0.3, 0.5, 1.0)
_MAX_VERSIONS = 65536

Kind = Literal["version", "move"]


class TrustRule(ValueObject):
    """One of `keys` must have signed what `require` names, for whatever `match` covers."""

    match: str
    keys: tuple[PublicKey, ...] = Field(min_length=1)
    require: tuple[Kind, ...] = Field(min_length=1)

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        if not is_alias_pattern(text):
            raise ValueError(f"{text!r} is not a pattern of names (example: 'team/*')")
        return text


class TrustPolicy(ValueObject):
    """All rules; none requires nothing."""

    rules: tuple[TrustRule, ...] = ()

    def keys(self, kind: Kind, name: str, alias: str | None) -> list[frozenset[str]]:
        """The trusted keys of each rule that asks for a signature of this kind."""
        target = name if alias is None else f"{name}@{alias}"
        return [
            frozenset(rule.keys)
            for rule in self.rules
            if kind in rule.require and covers(rule.match, target)
        ]


class Trust:
    """Invariant: what `verified` returns fulfils every rule, and no alias goes back to a move
    before one it has returned. Thread-safe."""

    def __init__(
        self,
        policy: TrustPolicy,
        registry: AdapterRegistry,
        seen: SeenMoves,
        *,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._seen = seen
        self._pauses_s = pauses_s
        self._targets: dict[tuple[str, str], ResolvedRef] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        # Only what holds is remembered: an exception is not cached.
        self._require_version = lru_cache(_MAX_VERSIONS)(self._check_version)

    def verified(self, ref: AdapterRef, pointer: ResolvedRef) -> AdapterVersion:
        """The version to serve for `ref`, which was resolved to `pointer`: another one only when
        the alias was moved meanwhile.

        Raises Untrusted, SignatureInvalid or StalePointer.
        """
        alias, version = ref.effective_alias, pointer.version
        if alias is not None and (keys := self._policy.keys("move", ref.name, alias)):
            version = self._pointed_to(ref.name, alias, pointer, keys).version
        if keys := self._policy.keys("version", ref.name, alias):
            self._require_version(ref.name, version.manifest_digest, tuple(keys))
        return version

    def _pointed_to(
        self, name: str, alias: str, pointer: ResolvedRef, keys: list[frozenset[str]]
    ) -> ResolvedRef:
        """One question to the registry a move, also of one to the same version: that one may be
        forged as well. Nothing is asked while the alias stays."""
        place = name, alias
        if self._targets.get(place) == pointer:
            return pointer
        with self._locks.setdefault(place, threading.Lock()):
            self._targets[place] = pointer = self._ask(name, alias, keys)
        return pointer

    def _ask(self, name: str, alias: str, keys: list[frozenset[str]]) -> ResolvedRef:
        def attempt() -> ResolvedRef:
            target = self._registry.aliases.target(name, alias)
            move, version = target.move, target.version
            _check_move(name, alias, move, version.manifest_digest, keys)
            self._seen.accept(name, alias, move.sequence, version.manifest_digest)
            return ResolvedRef(version, move.sequence)

        return retried(attempt, StalePointer, self._pauses_s)

    def _check_version(
        self, name: str, manifest: Digest, rules: tuple[frozenset[str], ...]
    ) -> None:
        signatures = self._registry.versions.signatures(name, manifest)
        for trusted in rules:
            _require_one(
                f"{name} with manifest {manifest}",
                signatures,
                trusted,
                lambda signature: check_version_signature(signature, name, manifest),
            )


def _check_move(
    name: str, alias: str, move: AliasMove, to: Digest, rules: list[frozenset[str]]
) -> None:
    """The move must be signed as one of the alias that was asked for, whatever it says it is."""
    for trusted in rules:
        _require_one(
            f"move {move.sequence} of {name}@{alias}",
            [] if move.signature is None else [move.signature],
            trusted,
            lambda signature: check_move_signature(signature, name, alias, move.sequence, to),
        )


def _require_one(
    what: str,
    signatures: Sequence[Signature],
    trusted: frozenset[str],
    check: Callable[[Signature], None],
) -> None:
    """Raises Untrusted when no trusted key signed, SignatureInvalid when only wrongly."""
    by_trusted = [signature for signature in signatures if signature.key in trusted]
    if not by_trusted:
        signed = ", ".join(signature.key for signature in signatures)
        raise Untrusted(
            f"{what} is {f'signed by {signed} only' if signed else 'not signed'}; this server asks "
            f"for a signature by {' or '.join(sorted(trusted))}: sign it with that key, or change "
            "the server's trust file",
            param="model",
        )
    for last, signature in enumerate(by_trusted, start=1):
        try:
            check(signature)
        except SignatureInvalid:
            if last == len(by_trusted):
                raise
        else:
            return
