"""The rules of the layers, checked on the imports of every product file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("registry", "serving", "training")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted((ROOT / "serving/native/src").iterdir())
IDS = [path.relative_to(ROOT).as_posix() for path in FILES]
MAX_LINES = 400

NO_TORCH = ("registry/", "serving/engine/", "serving/aliases/", "serving/adapters/slots.py")
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

each_file = pytest.mark.parametrize("path", FILES, ids=IDS)


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """The full names of the modules a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path)}: relative import"
            yield node.module or ""


def packages(path: Path) -> set[str]:
    """The top-level packages a file imports; of ours, the layers."""
    names = (name.removeprefix("hotswap.") for name in imported(path))
    return {name.partition(".")[0] for name in names}


def uses_environment(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"}:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            return bool({alias.name for alias in node.names} & {"environ", "getenv"})
    return False


@each_file
def test_imports_follow_the_order_of_the_layers(path: Path) -> None:
    layer = PACKAGES.index(where(path).partition("/")[0])
    assert not packages(path) & set(PACKAGES[layer + 1 :])


@each_file
def test_product_does_not_import_tests(path: Path) -> None:
    assert not packages(path) & {"tests", "benchmarks", "examples"}


@each_file
def test_boto3_is_in_the_s3_files(path: Path) -> None:
    if packages(path) & {"boto3", "botocore", "s3transfer"}:
        assert where(path).startswith("registry/storage/s3")


@each_file
def test_sql_is_below_the_database(path: Path) -> None:
    if packages(path) & {"sqlmodel", "sqlalchemy", "sqlite3", "psycopg"}:
        assert where(path).startswith("registry/database/")


@each_file
def test_environment_is_read_in_one_place(path: Path) -> None:
    if uses_environment(path):
        assert where(path) == "registry/settings.py"


@each_file
def test_pickle_is_nowhere(path: Path) -> None:
    assert not packages(path) & PICKLES


@each_file
def test_torch_stays_out_of_the_registry_and_of_policy(path: Path) -> None:
    if where(path).startswith(NO_TORCH):
        assert not packages(path) & {"torch", "transformers", "peft", "bitsandbytes", "safetensors"}


@each_file
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_source_of_the_kernels_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@each_file
def test_foreign_code_is_called_in_one_place(path: Path) -> None:
    if "ctypes" in packages(path):
        assert where(path) in {
            "serving/native/layout.py",
            "serving/native/library.py",
            "serving/models/native_adapter.py",
            "serving/models/native_llama.py",
            "training/jobs/guard.py",  # prctl
        }
