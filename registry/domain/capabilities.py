"""What a store was measured to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was measured to do beyond create-once, without which it is not used at all."""

    create_once_multipart: bool
    """A multipart upload can be completed on condition that nothing has its key."""
    enforces_checksums: bool
    """Bytes that do not have the SHA-256 they were sent with are refused, in parts too. Where this
    is False, what was uploaded is read and hashed again before it is relied on."""


UNPROBED = Capabilities(create_once_multipart=False, enforces_checksums=False)
