"""What lets pushes and sweeps run at the same time: pins, and a sweep's announcements.

A push writes down (pins) the keys it is about to reference, *then* looks whether a sweep has
announced to delete one of them. A sweep announces the keys it is about to delete, *then* looks
for pins and references. Whatever the order, at least one of the two sees the other: the push is
refused with SweepInProgress and repeated, or the sweep leaves the object alone. What the push
finds stored after it looked therefore stays until its version record makes it a root.

Two times bound what a crash leaves behind, and are the only ones anything depends on: a pin counts
for the sweep's grace period, so a commit must not take longer; an announcement counts until its
own `until`, and a sweep starts no delete less than MARGIN before that.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from hotswap.registry.clock import Clock
from hotswap.registry.domain.errors import BlobCorrupted, SweepInProgress
from hotswap.registry.domain.layout import PINS, SWEEPS
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore
from hotswap.registry.tasks import Start, at_once

ANNOUNCED = timedelta(minutes=10)
# Longer than one delete with all its retries takes, and than clocks differ.
MARGIN = timedelta(minutes=5)


class Note:
    """One pin or announcement: its own key, the keys it is about, and a time."""

    def __init__(self, key: str, keys: Iterable[str], at: datetime) -> None:
        self.key = key
        self.keys = frozenset(keys)
        self.at = at

    def write(self, store: ObjectStore) -> None:
        document = {"keys": sorted(self.keys), "at": self.at.isoformat()}
        store.create(self.key, json.dumps(document).encode())


def read_notes(store: ObjectStore, prefix: str) -> Iterator[Note]:
    """The notes below `prefix`; one that is removed while they are read is left out."""
    for key in list(store.list(prefix)):
        try:
            data = b"".join(store.open(key))
        except ObjectMissing:
            continue
        try:
            document = json.loads(data)
            yield Note(key, document["keys"], datetime.fromisoformat(document["at"]))
        except (ValueError, KeyError, TypeError):
            raise BlobCorrupted(
                f"{store.location}, {key}: not a note of a push or a sweep; remove it when neither "
                "is running"
            ) from None


@contextmanager
def pinned(
    store: ObjectStore, keys: Iterable[str], now: Clock, start: Start = at_once
) -> Iterator[None]:
    """Inside, what is stored under `keys` stays stored; `start` removes the pin at the end.

    Raises SweepInProgress when a sweep has announced to delete one of them.
    """
    pin = Note(f"{PINS}{uuid.uuid4().hex}.json", keys, now())
    pin.write(store)
    try:
        for sweep in read_notes(store, SWEEPS):
            if sweep.at > now() and (common := sorted(sweep.keys & pin.keys)):
                raise SweepInProgress(
                    f"a sweep is deleting {common[0]}, which was unreferenced until now; "
                    "push again in a moment"
                )
        yield
    finally:
        start(store.delete, pin.key)


@contextmanager
def announced(store: ObjectStore, keys: Iterable[str], now: Clock) -> Iterator[Note]:
    """Tell the pushes that `keys` are about to be deleted, for at most ANNOUNCED."""
    note = Note(f"{SWEEPS}{uuid.uuid4().hex}.json", keys, now() + ANNOUNCED)
    note.write(store)
    try:
        yield note
    finally:
        store.delete(note.key)
