"""What no other tool says of the product's files: their length, and who reads the environment.

Who may import whom stands in pyproject.toml and is asked by `lint-imports`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hotswap", "registry", "serving", "training")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted((ROOT / "serving/native/src").iterdir())
MAX_LINES = 400


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_file = pytest.mark.parametrize("path", FILES, ids=map(where, FILES))


def uses_environment(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"}:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            return bool({alias.name for alias in node.names} & {"environ", "getenv"})
    return False


@each_file
def test_environment_is_read_in_one_place(path: Path) -> None:
    if uses_environment(path):
        assert where(path) == "registry/settings.py"


@each_file
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_source_of_the_kernels_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
