"""Which records of other processes the catalog lacks, until somebody needs them. Pure."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from hotswap.registry.domain.event import Event


class Subject(NamedTuple):
    """The versions of `name`, the moves of its `alias`, or the states of its version `number`."""

    name: str
    alias: str | None = None
    number: int | None = None


class Backlog:
    """Invariant: one entry a name, alias and version, however many events. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subjects: dict[Subject, None] = {}  # in the order they came

    def add(self, events: Iterable[Event]) -> None:
        """Note what events are about whose records the catalog lacks."""
        self.put(map(_subject, events))

    def put(self, subjects: Iterable[Subject]) -> None:
        with self._lock:
            self._subjects.update(dict.fromkeys(subjects))

    def pop(self) -> Subject | None:
        """The oldest entry, which is no longer here; None when there is none."""
        with self._lock:
            oldest = next(iter(self._subjects), None)
            if oldest is not None:
                del self._subjects[oldest]
            return oldest


def _subject(event: Event) -> Subject:
    if event.move is not None:
        return Subject(event.move.name, alias=event.move.alias)
    if event.state is not None:
        return Subject(event.state.name, number=event.state.number)
    return Subject(event.version.name)
