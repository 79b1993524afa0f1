"""What callers ask of a registry, as values: a push, an alias's move, a change of state. Pure.

They are given to a verb and to its plan alike, and pass through every layer as one.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from hotswap.registry.domain.adapters import StateVerb
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.signatures import MoveSignature, Signature


@dataclass(frozen=True, slots=True)
class PushRequest:
    """Make the manifest a version of `name` and, if given, move `alias` to it."""

    name: str
    manifest: Manifest
    _: KW_ONLY
    by: str
    alias: str | None = None
    why: str = ""
    signatures: tuple[Signature, ...] = ()
    move_signature: MoveSignature | None = None

    def move_to(self, number: int) -> MoveRequest | None:
        """The alias's move to the version that the push has made; None without an alias."""
        if self.alias is None:
            return None
        return MoveRequest(
            self.name,
            self.alias,
            number,
            by=self.by,
            why=self.why,
            signature=self.move_signature,
        )


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """Point the alias to version number `to`; a rollback without it goes to the target before.

    With `expect`, only if the alias points there now. A signed move is made at the sequence number
    that it was signed for, or not at all.
    """

    name: str
    alias: str
    to: int | None = None
    _: KW_ONLY
    by: str
    why: str = ""
    expect: int | None = None
    signature: MoveSignature | None = None

    @property
    def where(self) -> str:
        """The alias as people write it."""
        return f"{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class StateRequest:
    """Delete, undelete, yank or unyank version `number` of `name`."""

    name: str
    number: int
    verb: StateVerb
    _: KW_ONLY
    by: str
    why: str = ""
