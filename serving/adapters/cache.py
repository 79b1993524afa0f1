"""Adapters on their way from the registry to a slot: verified local disk, then host memory.

`get` never waits: a fetch runs on a thread of its own, one per digest however many ask, and the
engine is woken when it ends. What a request expects stays until the request lets go of it, so
fetches wait in a line for room. Knows no tensors; `read` makes whatever the runner loads.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from hotswap.registry.bundles.transfer import fetch_files
from hotswap.registry.domain.digests import Digest, hash_file
from hotswap.registry.domain.errors import HotswapError
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.serving.errors import NotServable

_log = logging.getLogger(__name__)

AdapterT = TypeVar("AdapterT")


class AdapterCache(Generic[AdapterT]):
    """Invariants: a directory below `root` was verified before it got its name, and is again when
    it is found; what is in memory was read from bytes that had the manifest's digests.

    What a request expects is not evicted, and every request gets all it expects. Memory and what is
    on its way there keep the bounds, with three exceptions: one adapter always fits; adapters that
    requests stack come beyond them, for one request at a time, when otherwise none could be served;
    what is on its way counts as many bytes as the largest so far, since its size is not known yet.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        root: Path,
        read: Callable[[Path, Manifest], AdapterT],
        *,
        max_cpu_loras: int,
        max_bytes: float = math.inf,
        size_of: Callable[[AdapterT], int] = lambda _: 0,
        num_fetchers: int = 4,
        prepare_thread: Callable[[], object] = lambda: None,
    ) -> None:
        """`prepare_thread` runs once at the start of each thread that fetches and reads."""
        self._registry = registry
        self._root = root
        self._read = read
        self._max_cpu_loras = max_cpu_loras
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._num_bytes = 0
        self._largest = 0
        self._num_fetchers = num_fetchers
        self._pool = ThreadPoolExecutor(num_fetchers, "fetch", prepare_thread)
        self._lock = threading.Lock()
        self._memory: OrderedDict[Digest, AdapterT] = OrderedDict()
        self._line: OrderedDict[Digest, None] = OrderedDict()  # to be fetched when there is room
        self._fetching: set[Digest] = set()
        self._failed: dict[Digest, HotswapError] = {}
        self._expected: dict[int, tuple[Digest, ...]] = {}  # by request, the oldest first
        self._num_expecting: Counter[Digest] = Counter()  # requests by adapter, none with 0
        self._is_closed = False
        self.on_arrival: Callable[[], None] = lambda: None

    def get(self, adapter: Digest) -> AdapterT | None:
        """The adapter if it is in memory; else None, and it is on its way or in the line.

        Raises, once, the error a fetch ended with; asking again fetches again.
        """
        with self._lock:
            adapter_in_memory = self._memory.get(adapter)
            if adapter_in_memory is not None:
                self._memory.move_to_end(adapter)
                return adapter_in_memory
            error = self._failed.pop(adapter, None)
            if error is not None:
                raise error
            self._ask(adapter)
            return None

    def expect(self, request: int, adapters: Iterable[Digest]) -> None:
        """Fetch adapters that are not here, and keep all of them until `release`; an earlier
        failure is forgotten."""
        with self._lock:
            assert request not in self._expected
            self._expected[request] = tuple(adapters)
            self._num_expecting.update(self._expected[request])
            for adapter in self._expected[request]:
                self._failed.pop(adapter, None)
                self._ask(adapter)

    def release(self, request: int) -> None:
        """The request has taken what it expected, or has ended; nothing if it expects nothing."""
        with self._lock:
            for adapter in self._expected.pop(request, ()):
                self._num_expecting[adapter] -= 1
                if not self._num_expecting[adapter]:
                    del self._num_expecting[adapter]
                    self._line.pop(adapter, None)
                    self._failed.pop(adapter, None)
            self._evict()
            self._start_fetches()

    @property
    def num_bytes(self) -> int:
        """What the adapters in memory take."""
        return self._num_bytes

    @property
    def num_in_memory(self) -> int:
        with self._lock:
            return len(self._memory)

    def held(self) -> set[Digest]:
        """What is in memory, on its way there, or in the line."""
        with self._lock:
            return {*self._memory, *self._fetching, *self._line}

    def close(self) -> None:
        """Fetches that have begun are waited for, and no more begin."""
        with self._lock:
            self._is_closed = True
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, adapter: Digest) -> None:
        if not any(adapter in known for known in (self._memory, self._fetching, self._line)):
            self._line[adapter] = None
            self._start_fetches()

    def _start_fetches(self) -> None:
        while (
            not self._is_closed
            and len(self._fetching) < self._num_fetchers
            and (adapter := self._next()) is not None
        ):
            del self._line[adapter]
            self._fetching.add(adapter)
            self._evict()
            self._pool.submit(self._fetch, adapter)

    def _next(self) -> Digest | None:
        """The first in the line if there is room. If there is none and nobody will make any, as
        each request lacks an adapter and nothing is on its way: what the oldest request lacks."""
        if not self._line or self._has_room():
            return next(iter(self._line), None)
        requests = self._expected.values()
        if self._fetching or any(all(a in self._memory for a in each) for each in requests):
            return None
        return next((a for a in next(iter(requests)) if a in self._line), None)

    def _has_room(self) -> bool:
        """Whether one more fits beside what must stay: all that is expected or on its way."""
        stays = [self._memory[a] for a in self._num_expecting if a in self._memory]
        num_coming = len(self._fetching) + 1
        num_bytes = sum(map(self._size_of, stays)) + num_coming * self._largest
        num = len(stays) + num_coming
        return num == 1 or (num <= self._max_cpu_loras and num_bytes <= self._max_bytes)

    def _fetch(self, adapter: Digest) -> None:
        loaded: AdapterT | None = None
        failure: HotswapError | None = None
        try:
            loaded = self._load(adapter)
        except HotswapError as error:
            failure = error
        except Exception as error:
            _log.exception("adapter %s cannot be loaded", adapter)
            failure = NotServable(f"adapter {adapter} cannot be loaded: {error}")
        with self._lock:
            self._fetching.remove(adapter)
            if failure is not None:
                self._failed[adapter] = failure
            elif loaded is not None:
                self._memory[adapter] = loaded
                size = self._size_of(loaded)
                self._num_bytes += size
                self._largest = max(self._largest, size)
                self._evict()
            self._start_fetches()
        self.on_arrival()

    def _evict(self) -> None:
        """Down to the bounds, the one unused for longest first, but none that is expected; bytes
        alone let one stay in any case."""
        for adapter in [a for a in self._memory if a not in self._num_expecting]:
            if not self._is_over():
                return
            self._num_bytes -= self._size_of(self._memory.pop(adapter))

    def _is_over(self) -> bool:
        num = len(self._memory)
        return num + len(self._fetching) > self._max_cpu_loras or (
            num > 1 and self._num_bytes > self._max_bytes
        )

    def _load(self, adapter: Digest) -> AdapterT:
        manifest = self._registry.versions.manifest(adapter)
        directory = self._root / adapter.hex
        if directory.exists() and not _is_intact(directory, manifest):
            _log.warning("cached adapter %s is damaged on disk; fetching it again", adapter)
            shutil.rmtree(directory)
        if not directory.exists():
            # What a crash leaves here is hashed before it is used.
            fetch_files(self._registry, manifest, directory, synced=False)
        return self._read(directory, manifest)


def _is_intact(directory: Path, manifest: Manifest) -> bool:
    try:
        return all(
            hash_file(directory / file.file_name).digest == file.digest for file in manifest.files
        )
    except OSError:
        return False
