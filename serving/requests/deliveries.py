"""Carries what a step gave from the engine's thread to the event loops where it is waited for."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Deliveries:
    """Wakes a loop once a step, not once a token: to wake it is a system call that lets the loop's
    thread in before the others' tokens are delivered. For the engine's thread alone."""

    def __init__(self) -> None:
        self._waiting: dict[AbstractEventLoop, list[Callable[[], None]]] = {}

    def add(self, loop: AbstractEventLoop, take: Callable[[], None]) -> None:
        """Let `loop` call `take` after the step."""
        self._waiting.setdefault(loop, []).append(take)

    def hand_over(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for loop, takes in waiting.items():
            try:
                loop.call_soon_threadsafe(_call_all, takes)
            except RuntimeError:  # closed: who waited there has gone away
                _log.exception("%d deliveries have no event loop any more", len(takes))


def _call_all(takes: list[Callable[[], None]]) -> None:
    for take in takes:
        take()
