"""The server's end of a job's process: starts it, reads its reports, ends it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread

from hotswap.training.jobs.guard import BUSY, IDLE
from hotswap.training.jobs.reports import Order, Report, parse_report

_END_TIMEOUT_S = 20


class JobProcess:
    """Invariant: `on_end` is called once, from a thread of its own, when the process is gone and
    all its reports have been read: with its exit status, and with what went wrong in reading them,
    for which it was killed.

    The process may be ended at any moment: what it leaves can be gone on with.
    """

    def __init__(
        self,
        order: Order,
        log: Path,
        on_report: Callable[[Report], None],
        on_end: Callable[[int, Exception | None], None],
    ) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hotswap.training.jobs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # an interrupt at the terminal is for the server to handle
            )
        self._on_report = on_report
        self._on_end = on_end
        self._input = Lock()
        self._is_standing_back = False
        self._write(order.model_dump_json().encode() + b"\n")
        self._thread = Thread(target=self._follow, name="hotswap-job")
        self._thread.start()

    def stand_back(self, is_busy: bool) -> None:
        """Say whether requests are answered, during which it runs for its share of the time."""
        with self._input:
            if is_busy != self._is_standing_back:
                self._is_standing_back = is_busy
                self._write(BUSY if is_busy else IDLE)

    def stop(self) -> None:
        """Ask it to end, which it does after the step that it is in."""
        self._process.terminate()

    def join(self) -> None:
        """Wait for the process and `on_end`; what does not end by itself is killed."""
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join()

    def _follow(self) -> None:
        problem: Exception | None = None
        with self._process:
            try:
                self._read_reports()
            except Exception as error:  # whatever it is, the job must not keep its place
                problem = error
                self._process.kill()
        self._on_end(self._process.returncode, problem)

    def _read_reports(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else it was ended in the middle of a report
                self._on_report(parse_report(line))

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # it has ended, and its input may be closed
            pass
