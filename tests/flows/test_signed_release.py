"""A server with a trust file, beside a remote registry: only signed releases and rollbacks reach
its users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.signed import signed_by
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.errors import NotAcknowledged
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.http.acknowledgement import wait_for_servers
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.registry.signing import SigningKey
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from tests.flows.test_rollback_under_load import NAME, PROMPTS, ask
from tests.refusals import refused
from tests.servers import serving_app
from tests.serving.conftest import serving_settings


@dataclass
class Server:
    """Answers over HTTP and follows the events of the registry over HTTP."""

    client: httpx.Client
    registry: Registry

    def answer(self) -> httpx.Response:
        """To a request that is sent when everything that happened has been heard of."""
        end = self.registry.events.read().cursor
        while not (servers := self.registry.events.servers()) or servers[0].cursor < end:
            pass
        return ask(self.client, f"{NAME}@prod", PROMPTS[0])

    def version(self) -> str:
        found: str = self.answer().json()["hotswap"]["version"]
        return found


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "key.pem")


@pytest.fixture
def server(
    registry: Registry, tiny_base: BaseDirectory, tmp_path: Path, key: SigningKey
) -> Iterator[Server]:
    trust = tmp_path / "trust.toml"
    trust.write_text(
        f"[[rules]]\nmatch = 'team/*'\nkeys = ['{key.public}']\nrequire = ['version', 'move']\n"
    )
    settings = serving_settings(tiny_base).model_copy(update={"trust": trust})
    with (
        serving_app(assemble([registry_plane(registry)])) as registry_url,
        RegistryClient(registry_url) as remote,
    ):
        plane = Serving(settings, remote, Home(tmp_path / "server")).plane()
        with serving_app(assemble([plane])) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield Server(http, registry)


def test_what_is_not_signed_never_answers_and_a_signed_rollback_does(
    server: Server, registry: Registry, adapter_dirs: list[Path], key: SigningKey
) -> None:
    for number in (0, 1):
        bundle = Bundle.read(adapter_dirs[number])
        push(signed_by(key, registry), NAME, bundle, bundle.manifest(), by="ann", alias="prod")
    assert server.version() == f"{NAME}:2"

    registry.aliases.rollback(MoveRequest(NAME, "prod", by="mallory"))
    unanswered = server.answer()
    error = unanswered.json()["error"]
    assert (unanswered.status_code, error["code"]) == (422, "untrusted")
    assert f"move 3 of {NAME}@prod is not signed" in error["message"]
    assert key.public in error["message"]

    with refused(NotAcknowledged, f"{NAME}@prod"):
        wait_for_servers(registry, f"{NAME}@prod", 1)
    assert not registry.events.servers()[0].aliases

    registry.aliases.move(MoveRequest(NAME, "prod", 2, by="mallory"))
    assert server.answer().json()["error"]["code"] == "untrusted"

    signed_by(key, registry).aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert server.version() == f"{NAME}:1"
    assert wait_for_servers(registry, f"{NAME}@prod", 1) == "applied by 1 live server"
