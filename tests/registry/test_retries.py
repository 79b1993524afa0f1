"""What fails for a reason that passes is done again, and nothing else."""

from __future__ import annotations

import pytest

from hotswap.registry import retries


class Act:
    """Raises each of `errors` once, then returns 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.num_calls = 0

    def __call__(self) -> int:
        self.num_calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", pauses.append)
    return pauses


def test_what_passes_is_tried_after_each_pause(slept: list[float]) -> None:
    assert retries.retried(Act(KeyError(), KeyError()), KeyError, (1, 2, 4)) == 7
    assert slept == [1, 2]


def test_the_last_attempts_error_is_raised(slept: list[float]) -> None:
    last = KeyError()
    with pytest.raises(KeyError) as caught:
        retries.retried(Act(KeyError(), last), KeyError, (1,))
    assert caught.value is last
    assert slept == [1]


def test_another_error_is_raised_at_once(slept: list[float]) -> None:
    act = Act(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        retries.retried(act, (KeyError, OSError), (1, 2))
    assert (act.num_calls, slept) == (1, [])
