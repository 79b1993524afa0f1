"""Transfers between a client and the store itself, signed by us: the words and a driver's contract.

A signed request binds what may be sent: its length, its SHA-256 and, for whole objects, that the
key is free. It says nothing about who sends it, so it must be short-lived and handed to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.uploads import SentPart, SignedPart, SignedRequest


class DirectAccess(Protocol):
    """Signs requests to one store. Methods raise StoreUnavailable."""

    @property
    def multipart_bytes(self) -> int:
        """From this size on an object goes in parts."""
        ...

    @property
    def part_bytes(self) -> int: ...

    def sign_get(self, key: str) -> str:
        """A URL that gives the object to whoever has it."""
        ...

    def sign_put(self, key: str, size_bytes: int, digest: Digest) -> SignedRequest:
        """A PUT of the free `key` with these bytes."""
        ...

    def sign_parts(
        self, key: str, size_bytes: int, digests: Sequence[Digest]
    ) -> tuple[SignedPart, ...]:
        """A PUT for each part, of the newest unfinished upload of the key or of a new one."""
        ...

    def complete(self, key: str, parts: Sequence[SentPart]) -> None:
        """Make the parts the object if the key is free; nothing changes if it is not.

        Raises UploadInterrupted when there is no such upload, or its parts are others.
        """
        ...
