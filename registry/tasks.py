"""Calls that do not depend on one another, made at the same time. Knows nothing of what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import Protocol

Start = Callable[..., None]
"""Takes a function and its arguments."""

NUM_THREADS = 16  # shared by all that start tasks at the same time


def at_once(act: Callable[..., object], *arguments: object) -> None:
    """A Start that makes the call itself."""
    act(*arguments)


class Tasks(Protocol):
    """Starts calls whose order does not matter. A task must not start tasks itself: it could wait
    for threads that wait for it."""

    def together(self) -> AbstractContextManager[Start]:
        """What is started inside has ended afterwards. Raises what the body raises, or else what
        the first of the started calls raised; the others were made nevertheless."""
        ...

    def close(self) -> None: ...


class Threads:
    """Tasks in up to `num_threads` threads, in the context of whoever started them."""

    def __init__(self, num_threads: int = NUM_THREADS) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="hotswap-task")

    @contextmanager
    def together(self) -> Iterator[Start]:
        started: list[Future[object]] = []

        def start(act: Callable[..., object], *arguments: object) -> None:
            started.append(self._pool.submit(copy_context().run, act, *arguments))

        try:
            yield start
        finally:
            wait(started)
        for each in started:
            each.result()

    def close(self) -> None:
        self._pool.shutdown()


class OneByOne:
    """Tasks in the order and the thread in which they are started; one that fails is the last.

    For tests that stop at every step: the steps are the same each time.
    """

    @contextmanager
    def together(self) -> Iterator[Start]:
        yield at_once

    def close(self) -> None:
        """Nothing is held open."""
