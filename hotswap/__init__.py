"""Adapters on one base model, versioned and served.

    import hotswap

    with hotswap.connect("http://127.0.0.1:8000", token="…") as client:
        version = client.push("my-adapter", "team/sql", alias="candidate", metrics={"em": 0.83})
        client.alias("team/sql@prod", version.number, why="better on dates")
        print(client.chat("team/sql@prod", "How many users signed up today?"))
        client.rollback("team/sql@prod", why="wrong dates")

Importing it imports neither torch nor a database: names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotswap.registry.domain.errors import HotswapError as HotswapError
    from hotswap.sdk import Client as Client
    from hotswap.sdk import connect as connect

__all__ = ["Client", "HotswapError", "connect"]

_HOMES = {
    "Client": "hotswap.sdk",
    "HotswapError": "hotswap.registry.domain.errors",
    "connect": "hotswap.sdk",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
