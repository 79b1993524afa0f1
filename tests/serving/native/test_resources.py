"""An engine of the kernels that the system gives no memory or no threads: an error, no crash."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hotswap.serving.native import library
from tests.serving.native.compiling import compiled
from tests.serving.native.engines import NUM_THREADS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

library.load()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What became of an engine of which one call was refused, call by call."""
    to = tmp_path_factory.mktemp("preloaded") / "refusing.so"
    preloaded = compiled(HERE / "refusing.c", to, "-shared", "-fPIC", "-ldl", "-pthread")
    found: list[dict[str, Any]] = engines("refused", str(preloaded), LD_PRELOAD=str(preloaded))
    return found


def engines(*arguments: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.native.engines", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert not done.returncode, f"died with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def test_every_refused_call_becomes_an_error_with_its_reason(
    outcomes: list[dict[str, Any]],
) -> None:
    reasons = [outcome["errno"] for outcome in outcomes]
    assert set(reasons) == {errno.ENOMEM, errno.EAGAIN}
    assert reasons.count(errno.EAGAIN) == NUM_THREADS - 1


def test_an_engine_that_was_not_made_keeps_no_memory_and_no_thread(
    outcomes: list[dict[str, Any]],
) -> None:
    assert not any(outcome["pieces"] or outcome["threads"] for outcome in outcomes)


@pytest.mark.parametrize(
    ("max_rows", "num_threads", "reason"),
    [(1_000_000, 1, errno.ENOMEM), (1, 1_000, errno.EAGAIN)],
    ids=["memory", "threads"],
)
def test_a_limit_of_the_system_is_said_and_a_smaller_engine_still_made(
    max_rows: int, num_threads: int, reason: int
) -> None:
    found = engines("limited", str(max_rows), str(num_threads))
    assert found == {
        "errno": reason,
        "text": f"[Errno {reason}] the kernels get no room for {max_rows} rows on {num_threads} "
        f"threads: {os.strerror(reason)}; lower max_num_batched_tokens or num_threads",
    }
