"""`hotswap up` or `hotswap registry` in a process of its own, for benchmarks."""

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
    arguments = [str(HOTSWAP), command, "--port", "0", *options]
    environment = {**os.environ, "HOTSWAP_HOME": str(home), **(variables or {})}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[3]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
