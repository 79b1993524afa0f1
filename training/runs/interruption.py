"""SIGINT and SIGTERM as a question that a run asks between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, the first signal only makes the call true; a second one acts as it did before,
    so that a step that hangs can still be left. To be entered in the main thread.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[int, object] = {}

    def __call__(self) -> bool:
        return self._is_asked

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put_back()

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._is_asked = True
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
