"""What a verification of the store answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hotswap.registry.domain.capabilities import Capabilities


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Damage(_Report):
    """One object that is not what its key says: what was expected under it, what was found."""

    key: str
    expected: str
    got: str


class IntegrityReport(_Report):
    """What was read to its end, and everything that was wrong."""

    num_objects: int
    size_bytes: int
    damage: tuple[Damage, ...]
    store: Capabilities
    """What the store was measured to do when the registry was opened."""
