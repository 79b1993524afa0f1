"""Run in a process of its own: engines where memory or threads are not to be had; prints JSON.

python -m tests.serving.native.engines refused PRELOADED | limited ROWS THREADS
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from pathlib import Path

from hotswap.serving.native import layout, library

NUM_THREADS = 4
SPARE_BYTES = 64 << 20


def main(kind: str, *arguments: str) -> None:
    found = {"refused": refused, "limited": limited}[kind](*arguments)
    sys.stdout.write(json.dumps(found))


def refused(preloaded: str) -> list[dict[str, int | None]]:
    """Makes an engine once for each call with which it asks for something, which is refused."""
    control = ctypes.CDLL(preloaded)
    control.refuse(0)
    make(max_rows=8, num_threads=NUM_THREADS)
    num_calls = control.calls_since()
    found = []
    for number in range(1, num_calls + 1):
        control.refuse(number)
        error = error_of(max_rows=8, num_threads=NUM_THREADS)
        found.append(
            {
                "errno": error and error.errno,
                "pieces": control.pieces_kept(),
                "threads": control.threads_kept(),
            }
        )
    return found


def limited(max_rows: str, num_threads: str) -> dict[str, object]:
    """Makes an engine in a process that may take SPARE_BYTES more, and then a small one."""
    make(max_rows=1, num_threads=1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    error = error_of(int(max_rows), int(num_threads))
    make(max_rows=1, num_threads=1)
    return {"errno": error and error.errno, "text": str(error)}


def make(max_rows: int, num_threads: int) -> None:
    model = layout.ModelStruct(
        hidden=64, num_heads=2, num_kv_heads=1, head_dim=32, num_layers=1, intermediate=64,
        max_rows=max_rows, max_keys=16, max_ranks=16, vocab=16,
    )  # fmt: skip
    library.NativeEngine(model, max_entries=1, num_threads=num_threads)


def error_of(max_rows: int, num_threads: int) -> OSError | None:
    try:
        make(max_rows, num_threads)
    except OSError as error:
        return error
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
