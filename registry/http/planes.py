"""Planes that other packages add to a serving process, found without knowing who they are.

An entry point of the group is called with its PlaneHost and gives a Plane, or None when it has
nothing to add. What needs a package that is not installed is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.app import Plane
from hotswap.registry.settings import Home

GROUP = "hotswap.planes"


@dataclass(frozen=True, slots=True)
class PlaneHost:
    """The server that a plane becomes part of: its registry, its home, and the base it serves."""

    registry: AdapterRegistry
    home: Home
    base_path: Path
    base_id: str
    base_revision: str | None = None
    is_busy: Callable[[], bool] = lambda: False
    """Whether it has requests to answer. Callable from any thread."""


PlaneMaker = Callable[[PlaneHost], Plane | None]


def further_planes(host: PlaneHost) -> list[Plane]:
    """Every plane that an installed package adds, in order of name."""
    made = [make(host) for make in _makers()]
    return [plane for plane in made if plane is not None]


def _makers() -> list[PlaneMaker]:
    makers: list[PlaneMaker] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.value.partition(".")[0]
        try:
            makers.append(entry.load())
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == package:
                raise  # our own module is missing: a broken installation, not a missing extra
    return makers
