"""The top layer: rows of text in, a checked, trained and measured LoRA adapter out.

The public names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotswap.training.evaluation.report import EvalReport as EvalReport
    from hotswap.training.runs.run import Run as Run
    from hotswap.training.settings import TrainingHome as TrainingHome
    from hotswap.training.settings import TrainingSettings as TrainingSettings
    from hotswap.training.spec import TrainingSpec as TrainingSpec

__all__ = [
    "EvalReport",
    "Run",
    "TrainingHome",
    "TrainingSettings",
    "TrainingSpec",
]

_HOMES = {
    "EvalReport": "hotswap.training.evaluation.report",
    "Run": "hotswap.training.runs.run",
    "TrainingHome": "hotswap.training.settings",
    "TrainingSettings": "hotswap.training.settings",
    "TrainingSpec": "hotswap.training.spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
