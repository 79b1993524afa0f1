"""Tests reach the product through what it offers: no private name of it, and no error's prose."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hotswap.serving.errors
import hotswap.training.errors
from hotswap.registry.domain.errors import HotswapError

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
# Other packages' own underscores, which no seam of ours can replace.
FOREIGN = ("torch", "_aten", "Tensor", "ctypes", "os")

__all__ = ["hotswap"]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def reaches(tree: ast.AST) -> Iterator[str]:
    """Private names of others that a file reads, patches or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and not owner.startswith(FOREIGN):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hotswap"):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            for value in node.args[:2]:
                if isinstance(value, ast.Constant) and is_private(str(value.value).split(".")[-1]):
                    yield str(value.value)


def errors(kind: type[HotswapError] = HotswapError) -> Iterator[str]:
    yield kind.__name__
    for each in kind.__subclasses__():
        yield from errors(each)


def prose_of_errors(tree: ast.AST) -> Iterator[str]:
    """Our errors whose message is matched; `tests.refusals.refused` asks for class and values."""
    ours = set(errors())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises" and node.args:
            kind = ast.unparse(node.args[0]).split(".")[-1]
            if kind in ours and any(keyword.arg == "match" for keyword in node.keywords):
                yield f"{kind} in line {node.lineno}"


def test_tests_reach_into_no_private_name() -> None:
    found = {path.name: list(reaches(ast.parse(path.read_text()))) for path in FILES}
    assert {name: names for name, names in found.items() if names} == {}


def test_tests_match_no_prose_of_our_errors() -> None:
    assert len(set(errors())) > 50
    found = {path.name: list(prose_of_errors(ast.parse(path.read_text()))) for path in FILES}
    assert {name: kinds for name, kinds in found.items() if kinds} == {}
