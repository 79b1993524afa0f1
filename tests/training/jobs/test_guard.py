"""The guard of a job's process: real processes that do nothing but compute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotswap.training.jobs.guard import BUSY, IDLE

SHARE = 0.1
PROGRAM = f"""
import os, sys
from hotswap.training.jobs.guard import run_guarded
def work():
    print(os.getpid(), flush=True)
    while True: pass
run_guarded(work, sys.stdin.buffer, {SHARE})
"""
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Guarded:
    """A guard whose inner process computes without end."""

    def __init__(self) -> None:
        self.outer = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.outer.stdout is not None
        self.inner = int(self.outer.stdout.readline())

    def tell(self, line: bytes) -> None:
        assert self.outer.stdin is not None
        self.outer.stdin.write(line)
        self.outer.stdin.flush()

    def stat(self) -> list[str]:
        """What `/proc/<pid>/stat` says behind the name, the state first."""
        return Path(f"/proc/{self.inner}/stat").read_text().rpartition(") ")[2].split()

    def cpu_s(self) -> float:
        return (int(self.stat()[11]) + int(self.stat()[12])) / _TICKS_A_SECOND

    def state_is(self, state: str) -> bool:
        """Whether it is so within a few seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.stat()[0] == state:
                return True
            time.sleep(0.005)
        return False

    def is_gone(self) -> bool:
        """Whether the inner process ends within a few seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if self.stat()[0] == "Z":
                    return True
            except FileNotFoundError:
                return True
            time.sleep(0.01)
        return False


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    made = Guarded()
    with made.outer:
        yield made
        made.outer.kill()


def test_it_runs_for_its_share_while_the_server_is_busy_and_freely_otherwise(
    guarded: Guarded,
) -> None:
    guarded.tell(BUSY)
    assert guarded.state_is("T")
    before, start = guarded.cpu_s(), time.monotonic()
    time.sleep(3)
    used = (guarded.cpu_s() - before) / (time.monotonic() - start)
    assert 0 < used < 0.4  # the machine may be busy, too
    guarded.tell(IDLE)
    assert guarded.state_is("R")
    states = set()
    for _ in range(40):
        states.add(guarded.stat()[0])
        time.sleep(0.01)
    assert "T" not in states


@pytest.mark.parametrize("line", [BUSY, IDLE])
def test_it_ends_when_the_server_does(guarded: Guarded, line: bytes) -> None:
    guarded.tell(line)
    assert guarded.outer.stdin is not None
    guarded.outer.stdin.close()
    assert guarded.outer.wait(10) == -signal.SIGKILL
    assert guarded.is_gone()


def test_a_stopped_process_ends_with_its_guard(guarded: Guarded) -> None:
    guarded.tell(BUSY)
    assert guarded.state_is("T")
    guarded.outer.kill()
    assert guarded.is_gone()


def test_a_request_to_end_reaches_a_stopped_process_and_its_status_is_told(
    guarded: Guarded,
) -> None:
    guarded.tell(BUSY)
    assert guarded.state_is("T")
    guarded.outer.terminate()
    assert guarded.outer.wait(10) == -signal.SIGTERM
