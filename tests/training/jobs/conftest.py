"""A server with registry, serving and jobs on the tiny base, asked by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.planes import PlaneHost
from hotswap.registry.registry import Registry
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.training.jobs.plane import jobs_plane
from hotswap.training.settings import TrainingHome, TrainingSettings
from tests.servers import serving_app
from tests.serving.conftest import registry, serving_settings, tiny_base

__all__ = ["registry", "tiny_base"]

# Other work on the machine must not starve the jobs of tests.
SETTINGS = TrainingSettings(job_niceness=0, job_threads=1, max_file_mb=1)


class Site:
    """What stays when a server ends: the registry and the home. `open` starts a server on it."""

    def __init__(self, base: BaseDirectory, registry: Registry, home: TrainingHome) -> None:
        self.base = base
        self.registry = registry
        self.home = home

    @property
    def surroundings(self) -> PlaneHost:
        return PlaneHost(self.registry, self.home, self.base.path, self.base.model_id)

    @contextmanager
    def open(
        self, settings: TrainingSettings = SETTINGS, *, with_serving: bool = False
    ) -> Iterator[str]:
        planes = [registry_plane(self.registry)]
        if with_serving:
            planes.append(Serving(serving_settings(self.base), self.registry, self.home).plane())
        jobs = jobs_plane(self.surroundings, settings)
        assert jobs is not None
        with serving_app(assemble([*planes, jobs], self.registry.access)) as url:
            yield url

    def login(self, url: str, name: str, *scopes: str) -> openai.OpenAI:
        token = self.registry.access.create(name, scopes, by="tests").token
        return client_of(url, token)


def client_of(url: str, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)


@pytest.fixture
def site(tiny_base: BaseDirectory, registry: Registry, tmp_path: Path) -> Site:
    return Site(tiny_base, registry, TrainingHome(tmp_path / "home"))


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with site.open() as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as opened:
        yield opened
