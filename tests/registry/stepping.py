"""An object store in memory, and two actors that take turns at each of its calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.storage.objects import ObjectMissing, ObjectStat, Unfinished

TIMEOUT_S = 30


class MemoryStore:
    """An ObjectStore in a dictionary; `clock` gives the times of writing."""

    location = "memory"
    direct = None

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.objects: dict[str, tuple[bytes, datetime]] = {}

    def create(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = (data, self._clock())
        return True

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        self.objects[key] = (b"".join(chunks), self._clock())

    def open(self, key: str) -> Iterator[bytes]:
        if key not in self.objects:
            raise ObjectMissing(key)
        yield self.objects[key][0]

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        return b"".join(self.open(key))[start : start + num_bytes]

    def stat(self, key: str) -> ObjectStat | None:
        found = self.objects.get(key)
        return None if found is None else ObjectStat(len(found[0]), found[1])

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[str]:
        yield from [key for key in self.objects if key.startswith(prefix)]

    def unfinished(self) -> Iterator[Unfinished]:
        yield from ()

    def discard(self, unfinished: Unfinished) -> None: ...

    def measure(self, key: str) -> Capabilities:
        return Capabilities(create_once_multipart=True, enforces_checksums=True)

    def close(self) -> None: ...

    def copy(self) -> MemoryStore:
        twin = MemoryStore(self._clock)
        twin.objects = dict(self.objects)
        return twin


class SteppedStore:
    """Calls go through to `store` one at a time, each when its actor is given the step."""

    location = "memory"
    direct = None

    def __init__(
        self, store: MemoryStore, step: Callable[[], None], skip: tuple[str, ...] = ()
    ) -> None:
        self._store = store
        self._step = step
        self._skip = skip

    def _call(self, key: str) -> None:
        if not key.startswith(self._skip):
            self._step()

    def create(self, key: str, data: bytes) -> bool:
        self._call(key)
        return self._store.create(key, data)

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        data = b"".join(chunks)
        self._call(key)
        self._store.put(key, [data])

    def open(self, key: str) -> Iterator[bytes]:
        self._call(key)
        yield from self._store.open(key)

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        self._call(key)
        return self._store.read(key, start, num_bytes)

    def stat(self, key: str) -> ObjectStat | None:
        self._call(key)
        return self._store.stat(key)

    def delete(self, key: str) -> None:
        self._call(key)
        self._store.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        self._call(prefix)
        yield from list(self._store.list(prefix))

    def unfinished(self) -> Iterator[Unfinished]:
        yield from ()

    def discard(self, unfinished: Unfinished) -> None: ...

    def measure(self, key: str) -> Capabilities:
        return Capabilities(create_once_multipart=True, enforces_checksums=True)

    def close(self) -> None: ...


class Actor:
    """A function in its own thread that runs only while it has been given steps.

    One step is one call to the store, the code between two calls belongs to the earlier one. Keys
    that start with one of `skip` make no step: no other actor reads or replaces them, so that it
    is the same whether it runs before or after.
    """

    def __init__(
        self,
        store: MemoryStore,
        act: Callable[[SteppedStore], None],
        skip: tuple[str, ...] = (),
    ) -> None:
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.ended = False
        self._thread = threading.Thread(
            target=self._run, args=(SteppedStore(store, self._wait, skip), act)
        )
        self._thread.start()
        self._await_stop()

    def advance(self, num_steps: int) -> int:
        """Take up to `num_steps` steps; how many there were before the end."""
        for taken in range(num_steps):
            if self.ended:
                return taken
            self._go.release()
            self._await_stop()
        return num_steps

    def finish(self) -> None:
        self.advance(10_000)
        self._thread.join(TIMEOUT_S)
        assert self.ended

    def _await_stop(self) -> None:
        assert self._stopped.acquire(timeout=TIMEOUT_S), "the actor neither stopped nor ended"

    def _wait(self) -> None:
        self._stopped.release()
        assert self._go.acquire(timeout=TIMEOUT_S), "the actor was never given a step"

    def _run(self, store: SteppedStore, act: Callable[[SteppedStore], None]) -> None:
        try:
            act(store)
        except BaseException as error:
            self.error = error
        self.ended = True
        self._stopped.release()
