"""The tutorial, run as it stands: its commands succeed, and print what it says they print.

Three things differ for the test: a tiny base answers, it learns from a fifth of the rows, and the
server has a free port.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hotswap.serving.base_model import BaseDirectory
from tests.prose import FENCED, ROOT
from tests.tiny_base import make_tiny_base

PAGE = ROOT / "docs" / "tutorial.md"
URL = "http://127.0.0.1:8000"
START = "hotswap up"
ON_THE_BASE = """hotswap() {
  if [ "$1" = train ]; then set -- "$@" --base "$BASE"; fi
  command hotswap "$@"
}"""


def form(text: str) -> str:
    """What is left of an output without digests, times, numbers and the width of columns."""
    text = re.sub(r"sha256:[0-9a-f]+", "<digest>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "<time>", text)
    return " ".join(re.sub(r":\d{4,5}\b", ":<port>", text).split())


@contextmanager
def started(command: list[str], environment: dict[str, str], cwd: Path) -> Iterator[list[str]]:
    """A server in a process of its own; yields the two lines that it prints at its start."""
    with subprocess.Popen(
        command, env=environment, cwd=cwd, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield [process.stdout.readline(), process.stdout.readline()]
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseDirectory:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def environment(base: BaseDirectory, tmp_path: Path) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("HOTSWAP_")}
    programs = Path(sys.executable).parent
    return kept | {
        "PATH": f"{programs}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOTSWAP_HOME": str(tmp_path / "home"),
        "USER": "root",
        "BASE": str(base.path),
        "OMP_NUM_THREADS": "1",
    }


def test_the_tutorial_does_what_it_says(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    page = PAGE.read_text().replace("head -120", "head -24").replace("head -240", "head -48")
    blocks = [(block["kind"], block["code"].strip()) for block in FENCED.finditer(page)]
    begin = blocks.index(("bash", START))
    run_blocks(blocks[:begin], environment, tmp_path)
    command = [*START.split(), "--port", "0", "--base", environment["BASE"]]
    with started(command, environment, tmp_path) as lines:
        assert form(blocks[begin + 1][1]) == form("".join(lines))
        url = lines[0].split()[3]
        after = [(kind, code.replace(URL, url)) for kind, code in blocks[begin + 2 :]]
        run_blocks(after, environment | {"HOTSWAP_REGISTRY_URL": url}, tmp_path)


def run_blocks(blocks: list[tuple[str, str]], environment: dict[str, str], directory: Path) -> None:
    """Run each block; an output that follows without a title must have the same form."""
    output = ""
    for kind, code in blocks:
        if kind == "bash":
            output = run(["bash", "-euc", f"{ON_THE_BASE}\n{code}"], environment, directory)
        elif kind == "python":
            output = run([sys.executable, "-c", code], environment, directory)
        elif kind == "text":
            assert form(output).endswith(form(code)), output


def run(command: list[str], environment: dict[str, str], directory: Path) -> str:
    done = subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout
