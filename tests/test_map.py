"""ARCHITECTURE.md shows every file with the sentence of its docstring."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("map_", ROOT / "docs" / "architecture_map.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_is_what_the_files_say(generator: ModuleType) -> None:
    page = generator.PAGE.read_text(encoding="utf-8")
    assert page == generator.with_map(page), "run `make map`"


def test_every_file_has_a_sentence(generator: ModuleType) -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for package in generator.PACKAGES
        for folder in generator.folders(ROOT / package)
        for path in generator.files(folder)
        if not generator.sentence(path)
    ]
    assert silent == []
