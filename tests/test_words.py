"""Names are the field's words: each public class has a name of its own, and no value is named by a
word that says nothing of what it is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for top in ("registry", "serving", "training") for path in (ROOT / top).rglob("*.py")
)

# What was found, told or heard is something: name that.
EMPTY_WORDS = frozenset({"found", "told", "tell", "tells", "heard", "hear", "news", "lean", "owed"})


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def public_classes(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def test_no_two_public_classes_have_one_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for name in public_classes(path):
            places[name].append(relative(path))
    assert len(places) > 100
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def named(tree: ast.AST) -> Iterator[str]:
    """Variables, functions and classes; a field's name belongs to what is stored."""
    fields = {
        id(node.target)
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
        for node in each.body
        if isinstance(node, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)
            and id(node) not in fields
        ):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def test_no_value_is_named_by_an_empty_word() -> None:
    named_by = {
        relative(path): sorted(EMPTY_WORDS & set(named(ast.parse(path.read_text()))))
        for path in FILES
    }
    assert {path: words for path, words in named_by.items() if words} == {}
