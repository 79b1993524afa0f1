"""What references mean, as far as this server knows: filled on first use, kept current by events.

While the feed is followed an entry is used without asking, for at most `max_age_s`. Without the
feed every use asks the registry. When the registry cannot be reached, or takes longer than a second
to answer, what was known last stays in use for `grace_s` after it was last confirmed: no rollback
arrives then, but stopping to answer would be worse.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import Unavailable
from hotswap.registry.domain.event import Event
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.serving.aliases.deadline import Deadline

MAX_ENTRIES = 65536
MAX_SERVED = 1000  # a report is sent every few seconds and must stay small
# After a failure, and while one request asks, the others use what is known for this long.
RETRY_S = 1.0


class ResolvedRef(NamedTuple):
    """What a reference means, and which move of the alias says so; 0 for what never moves, a
    number or a digest."""

    version: AdapterVersion
    sequence: int


@dataclass(slots=True)
class _Entry:
    pointer: ResolvedRef
    confirmed_at: float
    ask_at: float
    is_used: bool = False


class VersionTable:
    """Invariant: an alias never goes back to an earlier move, in whatever order events and answers
    arrive; `clear` alone forgets, because then the store itself went back. Thread-safe."""

    def __init__(
        self,
        registry: AdapterRegistry,
        *,
        max_age_s: float,
        grace_s: float,
        now: Callable[[], float] = time.monotonic,
        deadline: Deadline | None = None,
    ) -> None:
        self._registry = registry
        self._max_age_s = max_age_s
        self._grace_s = grace_s
        self._now = now
        self._deadline = deadline or Deadline()
        self._lock = threading.Lock()
        self._entries: OrderedDict[AdapterRef, _Entry] = OrderedDict()
        self._is_followed = False
        # Counts what makes answers worthless that were asked for before.
        self._num_invalidations = 0

    def pointer(self, ref: AdapterRef) -> ResolvedRef:
        """What the reference means; raises what the registry raises.

        Raises Unavailable only when nothing is known, or for too long.
        """
        ref = _normal(ref)
        with self._lock:
            entry, now = self._entries.get(ref), self._now()
            num_invalidations = self._num_invalidations
            if entry is not None:
                entry.is_used = True
                if now < entry.ask_at:
                    return entry.pointer
                entry.ask_at = now + RETRY_S
        if entry is None or now - entry.confirmed_at > self._grace_s:
            return self._asked(ref, num_invalidations)
        try:
            return self._deadline.call(lambda: self._asked(ref, num_invalidations))
        except Unavailable:
            return entry.pointer
        except Exception:
            entry.ask_at = now  # it may be gone: nobody may go on with it unasked
            raise

    def apply(self, event: Event) -> None:
        """Take over the alias's move, or the change of a version's state."""
        with self._lock:
            if event.move is not None:
                ref = AdapterRef(event.move.name, alias=event.move.alias)
                self._store(ref, ResolvedRef(event.version, event.move.sequence), is_used=False)
            elif event.state is not None:
                self._num_invalidations += 1
                for ref, entry in list(self._entries.items()):
                    if ref.alias is None and entry.pointer.version == event.version:
                        del self._entries[ref]

    def follow(self, is_followed: bool) -> None:
        """Say whether events arrive from now on."""
        with self._lock:
            self._is_followed = is_followed
            if is_followed:
                # An answer that is on its way may be older than the cursor the feed begins at.
                self._num_invalidations += 1
            else:
                for entry in self._entries.values():
                    entry.ask_at = min(entry.ask_at, self._now())

    def clear(self) -> None:
        with self._lock:
            self._num_invalidations += 1
            self._entries.clear()

    def served(self) -> dict[str, Digest]:
        """What the aliases that were asked for mean now; the first MAX_SERVED of them."""
        with self._lock:
            used = (
                (str(ref), entry.pointer.version.manifest_digest)
                for ref, entry in self._entries.items()
                if entry.is_used and ref.alias is not None
            )
            return dict(islice(used, MAX_SERVED))

    def _asked(self, ref: AdapterRef, num_invalidations: int) -> ResolvedRef:
        """What the registry says, kept unless that became worthless while it was asked."""
        pointer = self._ask(ref)
        with self._lock:
            if num_invalidations != self._num_invalidations:
                return pointer
            return self._store(ref, pointer, is_used=True)

    def _ask(self, ref: AdapterRef) -> ResolvedRef:
        if ref.alias is None:
            return ResolvedRef(self._registry.versions.resolve(ref), 0)
        target = self._registry.aliases.target(ref.name, ref.alias)
        return ResolvedRef(target.version, target.move.sequence)

    def _store(self, ref: AdapterRef, pointer: ResolvedRef, *, is_used: bool) -> ResolvedRef:
        """Keep what is newer; the caller holds the lock."""
        now = self._now()
        entry = self._entries.get(ref)
        if entry is None:
            entry = self._entries[ref] = _Entry(pointer, now, now)
            if len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
        if pointer.sequence >= entry.pointer.sequence:
            entry.pointer = pointer
        entry.confirmed_at = now
        entry.ask_at = now + self._max_age_s if self._is_followed else now
        entry.is_used |= is_used
        return entry.pointer


def _normal(ref: AdapterRef) -> AdapterRef:
    """A bare name is its default alias."""
    alias = ref.effective_alias
    return ref if alias is None else AdapterRef(ref.name, alias=alias)
