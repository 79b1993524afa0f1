"""Waits for the registry no longer than a deadline, whatever stalls behind the question."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

from hotswap.registry.domain.errors import Unavailable

ResultT = TypeVar("ResultT")

DEADLINE_S = 1.0
MAX_UNANSWERED = 64
"""More questions than a server's threads ask at once are waited for only when answers stall."""


class Deadline:
    """Asks in threads of its own, so that a question which stalls holds nobody who has an answer
    to go on with. An answer that comes too late has all its effects. Thread-safe."""

    def __init__(
        self, deadline_s: float = DEADLINE_S, max_unanswered: int = MAX_UNANSWERED
    ) -> None:
        self._deadline_s = deadline_s
        self._unanswered = threading.Semaphore(max_unanswered)

    def call(self, ask: Callable[[], ResultT]) -> ResultT:
        """What `ask` returns or raises; raises Unavailable when that takes longer."""
        if not self._unanswered.acquire(blocking=False):
            raise Unavailable("the registry has not answered for a while; try again")
        answer: Future[ResultT] = Future()

        def run() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)
            finally:
                self._unanswered.release()

        threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
        try:
            return answer.result(self._deadline_s)
        except TimeoutError:
            raise Unavailable(
                f"the registry did not answer within {self._deadline_s:g} s; try again"
            ) from None
