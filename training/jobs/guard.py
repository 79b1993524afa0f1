"""The outer process of a job: starts the inner one, which trains, and says when it may run.

While the server answers requests, the inner process runs for a share of the time only: it is
stopped and continued, so that the bound holds whatever it computes, and whatever cores have in
common. It ends when the outer one does, and that when the server does. No torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread
from types import FrameType
from typing import BinaryIO, NoReturn

PERIOD_S = 0.1
"""In each of which the inner process runs for its share."""

BUSY, IDLE = b"busy\n", b"idle\n"
"""What the server writes when it begins to answer requests, and when it has no more of them."""

_PR_SET_PDEATHSIG = 1


def run_guarded(work: Callable[[], None], lines: BinaryIO, share: float) -> None:
    """Run `work` in an inner process, from which this returns; the outer one ends with its status.

    `lines` are BUSY and IDLE, and its end is the server's. SIGTERM is passed on.
    """
    outer = os.getpid()
    inner = os.fork()
    if inner:
        Guard(inner, share).watch(lines)
    _end_with(outer)
    work()


class Guard:
    """Invariant: the inner process is stopped only while the server is busy, and never for longer
    than PERIOD_S; also one that was asked to end, whose step may take long."""

    def __init__(self, inner: int, share: float) -> None:
        self._inner = os.pidfd_open(inner)  # never another process, even when this one has ended
        self._pid = inner
        self._share = share
        self._changed = Condition()
        self._is_busy = False

    def watch(self, lines: BinaryIO) -> NoReturn:
        """This process ends as the inner one does."""
        signal.signal(signal.SIGTERM, self._end)
        Thread(target=self._listen, args=(lines,), daemon=True).start()
        if self._share < 1:
            Thread(target=self._pace, daemon=True).start()
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            if -code != signal.SIGKILL:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._send(signal.Signals(number))

    def _listen(self, lines: BinaryIO) -> None:
        for line in lines:
            with self._changed:
                self._is_busy = line == BUSY
                self._changed.notify()
        self._send(signal.SIGKILL)

    def _pace(self) -> None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._is_busy)
                self._send(signal.SIGSTOP)
                self._wait_while_busy((1 - self._share) * PERIOD_S)
                self._send(signal.SIGCONT)
                self._wait_while_busy(self._share * PERIOD_S)

    def _wait_while_busy(self, seconds: float) -> None:
        self._changed.wait_for(lambda: not self._is_busy, seconds)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            signal.pidfd_send_signal(self._inner, number)


def _end_with(outer: int) -> None:
    """A process that is stopped cannot notice anything; the kernel ends it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != outer:
        os._exit(1)
