"""One quantized base in memory, many adapters beside it, one engine that mixes them in a batch.

Imports `registry`; is imported by `training`, which evaluates with the engine that will serve. The
public names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotswap.serving.base_model import BaseDirectory as BaseDirectory
    from hotswap.serving.base_model import provide_base as provide_base
    from hotswap.serving.engine.engine import Engine as Engine
    from hotswap.serving.http.app import Serving as Serving
    from hotswap.serving.http.chat import stream_answer as stream_answer
    from hotswap.serving.settings import ServingHome as ServingHome
    from hotswap.serving.settings import ServingSettings as ServingSettings

__all__ = [
    "BaseDirectory",
    "Engine",
    "Serving",
    "ServingHome",
    "ServingSettings",
    "provide_base",
    "stream_answer",
]

_HOMES = {
    "BaseDirectory": "hotswap.serving.base_model",
    "Engine": "hotswap.serving.engine.engine",
    "Serving": "hotswap.serving.http.app",
    "ServingHome": "hotswap.serving.settings",
    "ServingSettings": "hotswap.serving.settings",
    "provide_base": "hotswap.serving.base_model",
    "stream_answer": "hotswap.serving.http.chat",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
