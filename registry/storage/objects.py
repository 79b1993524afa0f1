"""The contract of an object store, by string key, and the probe that a store must pass.

Create-once is the single primitive behind version numbers, compare-and-swap and ordered history,
so a store that lets two writers win is refused at start.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.errors import StoreUnsuitable
from hotswap.registry.storage.direct import DirectAccess

CHUNK_BYTES = 1 << 20
NUM_RACING_WRITERS = 4

# No segment starts with '.', so a key can neither climb out of a directory nor name a hidden file.
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class ObjectMissing(LookupError):
    """There is no object under the key; the callers turn it into an error for users."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Bytes of a write that did not end: a temporary file, the parts of a multipart upload."""

    name: str
    size_bytes: int
    active_at: datetime
    """When the last of them were written."""


class ObjectStore(Protocol):
    """Bytes by key. Invariant: an object is seen complete or not at all, by every reader.

    No write returns before it is durable. Methods are safe to call from several threads. All
    raise StoreUnavailable when the store does not answer, naming the place.
    """

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Store `data` if the key is free: True for exactly one caller ever, False for the rest.

        After StoreUnavailable the object may or may not exist. A True can be lost on the way
        back and become a False on a retry: a caller that must know compares the stored bytes with
        its own.
        """
        ...

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        """Store or replace the object; when `chunks` raises, nothing changes under the key."""
        ...

    def open(self, key: str) -> Iterator[bytes]:
        """The bytes in chunks; raises ObjectMissing when the first chunk is asked for."""
        ...

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        """Up to `num_bytes` bytes from `start` on, fewer only where the object ends; raises
        ObjectMissing. Costs no more than what is read."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """None when there is no such object."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is no error."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, each once; the order is the store's own."""
        ...

    def unfinished(self) -> Iterator[Unfinished]:
        """What writes that never ended, or run now, have left; none of it is listed or read."""
        ...

    def discard(self, unfinished: Unfinished) -> None:
        """Remove what such a write left; one that still runs fails. Repeating is no error."""
        ...

    @property
    def direct(self) -> DirectAccess | None:
        """How clients may be let at the store itself; None when they may not."""
        ...

    def measure(self, key: str) -> Capabilities:
        """Find out what the store does by writing to the free `key`, which is free afterwards."""
        ...

    def close(self) -> None: ...


def check_key(key: str) -> str:
    """Raises ValueError for a key that no driver may touch; keys are ours, so this is a bug."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} is not an object key")
    return key


def probe(store: ObjectStore) -> Capabilities:
    """Prove that create-once holds, one after the other and in a race, and measure the rest;
    leaves nothing behind.

    Raises StoreUnsuitable when a second writer wins or the first one's bytes are lost.
    """
    key = f"probe/{uuid.uuid4().hex}"
    racing_key = f"{key}-race"
    with ThreadPoolExecutor(1) as pool:
        measured = pool.submit(store.measure, f"{key}-measure")
        try:
            _probe_in_order(store, key)
            _probe_race(store, racing_key)
        finally:
            store.delete(key)
            store.delete(racing_key)
        return measured.result()


def _probe_in_order(store: ObjectStore, key: str) -> None:
    if not store.create(key, b"first"):
        raise StoreUnsuitable(f"{store.location}: creating the new object {key} was refused")
    if store.create(key, b"second"):
        raise StoreUnsuitable(
            f"{store.location} does not honour create-once writes (If-None-Match): a second "
            f"write of {key} was accepted, so two pushes could get one version number; use "
            "another store (AWS S3, SeaweedFS, MinIO, Ceph, or a local directory)"
        )
    if b"".join(store.open(key)) != b"first":
        raise StoreUnsuitable(f"{store.location}: a refused write changed the object {key}")


def _probe_race(store: ObjectStore, key: str) -> None:
    writers = [f"writer {i}".encode() for i in range(NUM_RACING_WRITERS)]
    with ThreadPoolExecutor(NUM_RACING_WRITERS) as pool:
        won = list(pool.map(lambda data: store.create(key, data), writers))
    if won.count(True) != 1:
        raise StoreUnsuitable(
            f"{store.location} does not honour create-once writes (If-None-Match): "
            f"{won.count(True)} of {len(won)} racing writers of {key} won; "
            "use another store"
        )
