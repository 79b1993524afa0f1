"""Adapters on their way from the registry to a slot: verified local disk, then host memory.

`get` never waits: a fetch runs on a thread of its own, one per digest however many ask, and the
engine is woken when it ends. Knows no tensors; `read` makes whatever the runner loads.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from registry.bundles.transfer import fetch_files
from registry.digests import Digest, hash_file
from registry.errors import HotswapError, NotServable
from registry.manifest import Manifest
from registry.protocol import AdapterRegistry

_log = logging.getLogger(__name__)

AdapterT = TypeVar("AdapterT")


class AdapterCache(Generic[AdapterT]):
    """Invariant: a directory below `root` is complete and was verified before it got its name;
    what is in memory was read from bytes that had the manifest's digests."""

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
        self._pool = ThreadPoolExecutor(num_fetchers, "fetch", prepare_thread)
        self._lock = threading.Lock()
        self._memory: OrderedDict[Digest, AdapterT] = OrderedDict()
        self._fetching: dict[Digest, Future[None]] = {}
        self._failed: dict[Digest, HotswapError] = {}
        self.on_arrival: Callable[[], None] = lambda: None

    def get(self, adapter: Digest) -> AdapterT | None:
        """The adapter if it is in memory; else None, and a fetch is under way.

        Raises, once, the error a fetch ended with; asking again fetches again.
        """
        with self._lock:
            found = self._memory.get(adapter)
            if found is not None:
                self._memory.move_to_end(adapter)
                return found
            error = self._failed.pop(adapter, None)
            if error is not None:
                raise error
            if adapter not in self._fetching:
                self._fetching[adapter] = self._pool.submit(self._fetch, adapter)
            return None

    def prefetch(self, adapter: Digest) -> None:
        """Start fetching before the engine asks; an earlier failure is forgotten."""
        with self._lock:
            self._failed.pop(adapter, None)
            if adapter not in self._memory and adapter not in self._fetching:
                self._fetching[adapter] = self._pool.submit(self._fetch, adapter)

    @property
    def num_bytes(self) -> int:
        """What the adapters in memory take."""
        return self._num_bytes

    def held(self) -> set[Digest]:
        """What is in memory, or on its way there."""
        with self._lock:
            return {*self._memory, *self._fetching}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

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
            del self._fetching[adapter]
            if failure is not None:
                self._failed[adapter] = failure
            elif loaded is not None:
                self._memory[adapter] = loaded
                self._num_bytes += self._size_of(loaded)
                self._evict()
        self.on_arrival()

    def _evict(self) -> None:
        """Down to the bounds, the one unused for longest first; one stays in any case."""
        while len(self._memory) > 1 and (
            len(self._memory) > self._max_cpu_loras or self._num_bytes > self._max_bytes
        ):
            _, dropped = self._memory.popitem(last=False)
            self._num_bytes -= self._size_of(dropped)

    def _load(self, adapter: Digest) -> AdapterT:
        manifest = self._registry.manifest(adapter)
        directory = self._root / adapter.hex
        if directory.exists() and not _is_intact(directory, manifest):
            _log.warning("cached adapter %s is damaged on disk; fetching it again", adapter)
            shutil.rmtree(directory)
        if not directory.exists():
            fetch_files(self._registry, manifest, directory)
        return self._read(directory, manifest)


def _is_intact(directory: Path, manifest: Manifest) -> bool:
    try:
        return all(
            hash_file(directory / file.file_name).digest == file.digest for file in manifest.files
        )
    except OSError:
        return False
