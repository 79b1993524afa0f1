"""Stores that let something happen at a chosen moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.errors import StoreUnavailable
from hotswap.registry.domain.layout import VERSIONS
from hotswap.registry.storage.direct import DirectAccess
from hotswap.registry.storage.local import LocalStore
from hotswap.registry.storage.objects import ObjectStat, ObjectStore, Unfinished

ResultT = TypeVar("ResultT")


class MeanwhileStore(LocalStore):
    """Runs `meanwhile` once, right after the versions were listed."""

    meanwhile: Callable[[], object] | None = None

    def list(self, prefix: str) -> Iterator[str]:
        found = list(super().list(prefix))
        if prefix == VERSIONS and self.meanwhile is not None:
            act, self.meanwhile = self.meanwhile, None
            act()
        yield from found


class FailingStore:
    """A store that passes the contract until it fails at one of its writes, before or after doing
    it, and with `for_good` at every later one, like a crash would."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.fail_at: int | None = None
        self.fail_after = False
        self.for_good = False
        self.num_writes = 0
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        return self._store.location

    def create(self, key: str, data: bytes) -> bool:
        return self._write(lambda: self._store.create(key, data))

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        self._write(lambda: self._store.put(key, chunks))

    def open(self, key: str) -> Iterator[bytes]:
        return self._store.open(key)

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        return self._store.read(key, start, num_bytes)

    def stat(self, key: str) -> ObjectStat | None:
        return self._store.stat(key)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        return self._store.list(prefix)

    def unfinished(self) -> Iterator[Unfinished]:
        return self._store.unfinished()

    def discard(self, unfinished: Unfinished) -> None:
        self._store.discard(unfinished)

    @property
    def direct(self) -> DirectAccess | None:
        return self._store.direct

    def measure(self, key: str) -> Capabilities:
        return self._store.measure(key)

    def close(self) -> None:
        self._store.close()

    def _write(self, act: Callable[[], ResultT]) -> ResultT:
        if self.fail_at is None:
            return act()
        with self._lock:
            self.num_writes += 1
            is_first = self.num_writes == self.fail_at
            is_later = self.num_writes > self.fail_at and self.for_good
        if is_later or (is_first and not self.fail_after):
            raise StoreUnavailable("power cut")
        result = act()
        if is_first:
            raise StoreUnavailable("power cut")
        return result
