from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from registry.prompts import PromptFormat
from serving.base_model import BaseDirectory
from tests.tiny_base import make_tiny_base

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
