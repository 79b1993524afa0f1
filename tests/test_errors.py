"""Each layer draws its own errors, and a client gets them back when it knows the layer."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import pytest

from hotswap.registry.domain.errors import HotswapError

MODULES = ("registry.domain.errors", "serving.errors", "training.errors")
LINE = re.compile(r"[ │├└─]*(\w+)(?: +(\d{3}))?(?: +([a-z_]+))?")


def drawn(doc: str) -> dict[str, tuple[str | None, str | None]]:
    """Name → status and code, where the drawing has them."""
    lines = [line for line in doc.splitlines() if line.startswith("    ")]
    found = [match for match in map(LINE.fullmatch, lines) if match]
    assert len(found) == len(lines)
    return {match[1]: (match[2], match[3]) for match in found}


@pytest.mark.parametrize("name", MODULES)
def test_drawing_shows_every_error_of_the_layer(name: str) -> None:
    module = importlib.import_module(f"hotswap.{name}")
    own = {
        kind.__name__: kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, HotswapError) and kind.__module__ == module.__name__
    }
    shown = drawn(module.__doc__ or "")
    with_code = {error: parts for error, parts in shown.items() if parts[1] is not None}
    assert with_code.keys() == own.keys()
    for error, (status, code) in with_code.items():
        assert own[error].code == code
        assert status in (None, str(own[error].status))


@pytest.mark.parametrize(
    ("imported", "kind"),
    [
        ("hotswap.registry.domain.errors", "Conflict"),
        ("hotswap.serving.errors", "BaseMismatch"),
        ("hotswap.serving.http.chat", "BaseMismatch"),
    ],
)
def test_client_that_imports_serving_gets_its_errors(imported: str, kind: str) -> None:
    code = (
        f"import {imported}\n"
        "from hotswap.registry.domain.errors import HotswapError\n"
        "sent = {'error': {'message': 'no', 'code': 'base_mismatch', 'fields': {'base': 'x'}}}\n"
        "error = HotswapError.from_body(409, sent)\n"
        "print(type(error).__name__, error.code, error.status, error.fields['base'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{kind} base_mismatch 409 x\n"
