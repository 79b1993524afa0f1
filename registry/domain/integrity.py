"""What a verification of the store answers."""

from __future__ import annotations

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.values import ValueObject


class Damage(ValueObject):
    """One object that is not what its key says: what was expected under it, what was found."""

    key: str
    expected: str
    got: str


class IntegrityReport(ValueObject):
    """What was read to its end, and everything that was wrong."""

    num_objects: int
    size_bytes: int
    damage: tuple[Damage, ...]
    store: Capabilities
    """What the store was measured to do when the registry was opened."""
