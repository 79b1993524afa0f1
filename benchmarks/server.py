"""`hotswap up` or `hotswap store serve` in a process of its own, for benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HOTSWAP = Path(sys.executable).with_name("hotswap")


@contextmanager
def server(
    home: Path,
    options: Sequence[str] = (),
    command: str = "up",
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A server on a free port with its state below `home`; yields its URL."""
    with server_process(home, options, command, variables) as (url, _):
        yield url


@contextmanager
def server_process(
    home: Path,
    options: Sequence[str] = (),
    command: str = "up",
    variables: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, int]]:
    """The same; yields its URL and its process id."""
    arguments = [str(HOTSWAP), *command.split(), "--port", "0", *options]
    environment = {**os.environ, "HOTSWAP_HOME": str(home), **(variables or {})}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[3], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def memory_mb(pid: int) -> dict[str, float]:
    """What a process keeps in memory: its own pages and those of files that it has mapped."""
    text = Path(f"/proc/{pid}/status").read_text()
    facts = dict(line.split(":", 1) for line in text.splitlines())
    return {
        "own": int(facts["RssAnon"].split()[0]) / 1e3,
        "mapped": int(facts["RssFile"].split()[0]) / 1e3,
    }
