"""Does again what failed for a reason that passes. Knows nothing of what is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

ResultT = TypeVar("ResultT")
Errors = type[Exception] | tuple[type[Exception], ...]


def retried(act: Callable[[], ResultT], passing: Errors, pauses_s: Iterable[float]) -> ResultT:
    """What `act` returns, tried once more after each pause while it raises one of `passing`; the
    last attempt's error is raised."""
    for pause_s in pauses_s:
        try:
            return act()
        except passing:
            time.sleep(pause_s)
    return act()
