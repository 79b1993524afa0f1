"""A server goes on answering while its registry, or the store behind it, is killed or stalls."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from hotswap.registry.connect import open_registry
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home, RegistrySettings
from hotswap.serving.aliases.known_access import KnownAccess
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from tests.contracts.conftest import BUCKET, s3_credentials, seaweedfs_url
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.servers import serving_app
from tests.serving.conftest import push_adapter, serving_settings

__all__ = ["s3_credentials", "seaweedfs_url"]

NAME = "team/sql"
TIMEOUT_S = 60
GRACE_S = 600


@dataclass
class Deployment:
    """A server, what stands between it and what it depends on, and the registry itself."""

    url: str
    proxy: CuttingProxy
    registry: Registry
    token: str | None

    def ask(self) -> httpx.Response:
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        body = {"model": f"{NAME}@prod", "prompt": "order", "max_tokens": 2, "temperature": 0}
        return httpx.post(
            f"{self.url}/v1/completions", json=body, headers=headers, timeout=TIMEOUT_S
        )


Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(
    registry: Registry,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Deploy]:
    stack = ExitStack()

    def proxied(url: str) -> CuttingProxy:
        return stack.enter_context(cutting_proxy(urlsplit(url).port or 0))

    def serve(with_tokens: bool, grace_s: float) -> Deployment:
        """`hotswap serve --registry`: the registry is elsewhere."""
        push_adapter(registry, NAME, adapter_dirs[0], alias="prod")
        token = _token(registry) if with_tokens else None
        own = registry.access.create("server", ["pull:*"], by="tests").token if token else None
        app = assemble([registry_plane(registry)], registry.access)
        proxy = proxied(stack.enter_context(serving_app(app)))
        client = stack.enter_context(RegistryClient(proxy.url, token=own))
        settings = serving_settings(tiny_base).model_copy(update={"alias_grace_s": grace_s})
        serving = Serving(settings, client, Home(tmp_path / "home"))
        access = KnownAccess(client.access, grace_s=grace_s)
        url = stack.enter_context(serving_app(assemble([serving.plane()], access)))
        return Deployment(url, proxy, registry, token)

    def up(with_tokens: bool, grace_s: float) -> Deployment:
        """`hotswap up` on an S3 store."""
        proxy = proxied(request.getfixturevalue("seaweedfs_url"))
        home = Home(tmp_path / "home")
        stored = RegistrySettings(store=f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_endpoint=proxy.url)
        here = stack.enter_context(open_registry(stored, home))
        push_adapter(here, NAME, adapter_dirs[0], alias="prod")
        token = _token(here) if with_tokens else None
        settings = serving_settings(tiny_base).model_copy(update={"alias_grace_s": grace_s})
        serving = Serving(settings, here, home)
        access = KnownAccess(here.access, grace_s=grace_s)
        planes = [registry_plane(here), serving.plane()]
        return Deployment(
            stack.enter_context(serving_app(assemble(planes, access))), proxy, here, token
        )

    deployments: list[Deployment] = []

    def deploy(kind: str, *, with_tokens: bool, grace_s: float = GRACE_S) -> Deployment:
        made = {"serve": serve, "up": up}[kind](with_tokens, grace_s)
        deployments.append(made)
        return made

    yield deploy
    for made in deployments:
        made.proxy.heal()
    stack.close()


def _token(registry: Registry) -> str:
    return registry.access.create("app", ["infer:*"], by="tests").token


def end(deployment: Deployment, outage: str) -> None:
    """Begin the outage: nothing that the server depends on answers any more."""
    {"killed": deployment.proxy.cut_all, "stalled": deployment.proxy.stall}[outage]()


KINDS = pytest.mark.parametrize("kind", ["serve", "up"])
TOKENS = pytest.mark.parametrize("with_tokens", [False, True], ids=["open", "tokens"])


@KINDS
@TOKENS
@pytest.mark.parametrize("outage", ["killed", "stalled"])
def test_no_request_fails_within_the_grace(
    deploy: Deploy, kind: str, with_tokens: bool, outage: str
) -> None:
    deployment = deploy(kind, with_tokens=with_tokens)
    with ThreadPoolExecutor(4) as pool:
        assert deployment.ask().status_code == 200
        running = [pool.submit(deployment.ask) for _ in range(8)]
        end(deployment, outage)
        running += [pool.submit(deployment.ask) for _ in range(24)]
        answers = [each.result() for each in running]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert {answer.json()["hotswap"]["version"] for answer in answers} == {f"{NAME}:1"}


@KINDS
@TOKENS
def test_behind_the_grace_it_is_a_clear_503(deploy: Deploy, kind: str, with_tokens: bool) -> None:
    deployment = deploy(kind, with_tokens=with_tokens, grace_s=0)
    assert deployment.ask().status_code == 200
    end(deployment, "killed")
    answer = deployment.ask()
    ends_at = time.monotonic() + TIMEOUT_S
    while answer.status_code != 503 and time.monotonic() < ends_at:
        answer = deployment.ask()
    assert answer.status_code == 503
    assert answer.json()["error"]["message"]


def test_a_revocation_arrives_when_the_registry_is_back(deploy: Deploy) -> None:
    deployment = deploy("serve", with_tokens=True)
    assert deployment.ask().status_code == 200
    end(deployment, "killed")
    deployment.registry.access.revoke("app", by="tests")
    assert deployment.ask().status_code == 200
    deployment.proxy.heal()
    until(lambda: deployment.ask().status_code == 401)
    end(deployment, "killed")
    assert deployment.ask().status_code in (401, 503)


def until(holds: Callable[[], bool]) -> None:
    """Asks again and again; fails after TIMEOUT_S."""
    ends_at = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < ends_at
