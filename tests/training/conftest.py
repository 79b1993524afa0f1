from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from tests.tiny_base import make_tiny_base

# No test depends on how fast the machine is, nor on what an earlier run found.
settings.register_profile(
    "hotswap", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hotswap")

WriteRows = Callable[[Sequence[object]], Path]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseDirectory:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def prompt(base: BaseDirectory) -> PromptFormat:
    return base.prompt_format(system_prompt="Count.")


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write objects as JSON lines to `rows.jsonl` in the test's directory."""

    def write(rows: Sequence[object]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


# The product refuses variables with its prefix that it does not know.
TEST_DATA = os.environ.pop("HOTSWAP_TEST_DATA", None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with banking77 and snips, which are not part of the repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(TEST_DATA or beside)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; HOTSWAP_TEST_DATA names the folder")
    return folder
