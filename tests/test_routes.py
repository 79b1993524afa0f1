"""Every route of a server with all planes has a rule of its own plane, and of no other's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from hotswap.registry.http.app import Plane, assemble, registry_plane
from hotswap.registry.http.rules import PUBLIC, Rules
from hotswap.registry.registry import Registry
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.training.jobs.plane import jobs_plane
from hotswap.training.settings import TrainingHome, TrainingSettings
from tests.serving.conftest import registry, serving_settings, tiny_base

__all__ = ["registry", "tiny_base"]


@pytest.fixture
def planes(tiny_base: BaseDirectory, registry: Registry, tmp_path: Path) -> Sequence[Plane]:
    home = TrainingHome(tmp_path / "home")
    serving = Serving(serving_settings(tiny_base), registry, home)
    jobs = jobs_plane(serving.plane_host(home), TrainingSettings())
    assert jobs is not None
    return [registry_plane(registry), serving.plane(), jobs]


def requests(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, str]]:
    """A method and a path for all that the routes answer."""
    for route in iter_route_contexts(routes):
        assert route.path is not None
        path = re.sub(r"\{\w+:path\}", "team/a", route.path)
        for method in route.methods or ():
            yield method, re.sub(r"\{\w+\}", "a", path)


def test_every_route_has_a_rule_of_its_plane_or_is_public(planes: Sequence[Plane]) -> None:
    rules = [Rules(plane.rules) for plane in planes]
    own = {
        request: [at for at, of_plane in enumerate(rules) if of_plane.naming(*request)]
        for request in requests(assemble(planes).routes)
        if request[1] not in PUBLIC
    }
    expected = {
        request: [at]
        for at, plane in enumerate(planes)
        for request in requests(plane.router.routes)
    }
    assert own == expected


def test_every_rule_names_a_route(planes: Sequence[Plane]) -> None:
    for plane in planes:
        asked = list(requests(plane.router.routes))
        assert [rule for rule in plane.rules if not any(rule.names(*one) for one in asked)] == []
