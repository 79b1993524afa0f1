"""Calls that are made at the same time: all end, and the first error is the one that is raised."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest

from hotswap.registry.tasks import OneByOne, Tasks, Threads

TIMEOUT_S = 30
WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


def fail(text: str) -> None:
    raise ValueError(text)


def run(
    tasks: Tasks, acts: list[Callable[[], object]], body: Callable[[], object] = lambda: None
) -> None:
    with tasks.together() as start:
        for act in acts:
            start(act)
        body()


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(2)
    yield made
    made.close()


def test_calls_run_beside_one_another_and_beside_the_body(threads: Threads) -> None:
    meeting = threading.Barrier(3, timeout=TIMEOUT_S)
    run(threads, [meeting.wait, meeting.wait], meeting.wait)


def test_what_was_started_has_ended_also_when_the_body_fails(threads: Threads) -> None:
    go, ended = threading.Event(), threading.Event()

    def act() -> None:
        assert go.wait(TIMEOUT_S)
        ended.set()

    acts: list[Callable[[], object]] = [act, lambda: fail("a task"), go.set]
    with pytest.raises(ValueError, match="the body"):
        run(threads, acts, lambda: fail("the body"))
    assert ended.is_set()


def test_error_of_the_first_started_is_raised_whichever_failed_first(threads: Threads) -> None:
    failed = threading.Event()

    def wait_and_fail() -> None:
        assert failed.wait(TIMEOUT_S)
        fail("started first")

    def fail_at_once() -> None:
        failed.set()
        fail("failed first")

    with pytest.raises(ValueError, match="started first"):
        run(threads, [wait_and_fail, fail_at_once])


@pytest.mark.parametrize("tasks", [Threads(1), OneByOne()], ids=lambda tasks: type(tasks).__name__)
def test_call_sees_the_context_of_who_started_it(tasks: Tasks) -> None:
    found: list[str] = []
    token = WHO.set("ann")
    run(tasks, [lambda: found.append(WHO.get())])
    WHO.reset(token)
    tasks.close()
    assert found == ["ann"]


def test_one_by_one_makes_no_call_behind_one_that_failed() -> None:
    made: list[int] = []
    acts: list[Callable[[], object]] = [
        lambda: made.append(1),
        lambda: fail("second"),
        lambda: made.append(3),
    ]
    with pytest.raises(ValueError, match="second"):
        run(OneByOne(), acts)
    assert made == [1]
