"""Watches whether serving answers requests, and says so again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

LOOK_S = 0.05
LINGER_S = 1.0
"""Requests that follow one another are one busy time."""


class BusyWatch:
    """Calls `tell` at every look, from a thread of its own, so that what began in between hears;
    and at the end, when there are no requests any more."""

    def __init__(self, is_busy: Callable[[], bool], tell: Callable[[bool], None]) -> None:
        self._is_busy = is_busy
        self._tell = tell
        self._is_ending = Event()
        self._thread = Thread(target=self._watch, name="hotswap-busy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_ending.set()
        self._thread.join()
        self._tell(False)

    def _watch(self) -> None:
        until = 0.0
        while not self._is_ending.wait(LOOK_S):
            now = time.monotonic()
            if self._is_busy():
                until = now + LINGER_S
            self._tell(now < until)
