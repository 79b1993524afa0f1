"""Facts that were read lately, kept in memory for a while. Knows nothing of what they are about."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")

MAX_FACTS = 10_000


class Mark(NamedTuple):
    """When a reader began to read."""

    at: float
    num_forgotten: int


class Recent(Generic[KeyT, ValueT]):
    """Invariant: every value was read within `max_age_s`, and none from before a `forget`.

    Holds at most `size` values and drops the one used longest ago. Safe from several threads.
    """

    def __init__(self, max_age_s: float, size: int = MAX_FACTS) -> None:
        self._max_age_s = max_age_s
        self._size = size
        self._lock = threading.Lock()
        self._facts: OrderedDict[KeyT, tuple[float, ValueT]] = OrderedDict()
        self._num_forgotten = 0

    def get(self, key: KeyT) -> ValueT | None:
        with self._lock:
            entry = self._facts.get(key)
            if entry is None or time.monotonic() - entry[0] >= self._max_age_s:
                return None
            self._facts.move_to_end(key)
            return entry[1]

    def mark(self) -> Mark:
        """To be taken before the value is read, for `keep`."""
        return Mark(time.monotonic(), self._num_forgotten)

    def keep(self, key: KeyT, value: ValueT, mark: Mark) -> None:
        """Remember what was read since `mark`. After a `forget` in between it is not known whether
        the value is from before it, so it is dropped."""
        with self._lock:
            if mark.num_forgotten == self._num_forgotten:
                self._facts[key] = (mark.at, value)
                self._facts.move_to_end(key)
                if len(self._facts) > self._size:
                    self._facts.popitem(last=False)

    def forget(self, key: KeyT) -> None:
        """To be called after a change is written and before anyone learns that it is done."""
        with self._lock:
            self._num_forgotten += 1
            self._facts.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._num_forgotten += 1
            self._facts.clear()
