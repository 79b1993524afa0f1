"""C code of tests, compiled with the compiler that the kernels are compiled with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "serving/native/src"


def compiled(source: Path, to: Path, *options: str) -> Path:
    """Warnings are errors. Skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    warnings = ["-Wall", "-Wextra", "-Wno-missing-braces", "-Werror"]
    command = [compiler, "-std=gnu11", *warnings, f"-I{SOURCES}"]
    done = subprocess.run(
        [*command, str(source), "-o", str(to), *options], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return to
