"""A rollback that waits: when the command returns, every server answers with the old version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from tests.flows.test_rollback_under_load import NAME, PROMPTS, ask
from tests.registry.test_cli import Shell, shell
from tests.servers import serving_app
from tests.serving.conftest import push_adapter, serving_settings

__all__ = ["shell"]

NUM_SERVERS = 2


@pytest.fixture
def registry_url(registry: Registry) -> Iterator[str]:
    with serving_app(assemble([registry_plane(registry)])) as url:
        yield url


@dataclass
class Server:
    """A server that follows the registry over HTTP."""

    client: httpx.Client
    stack: ExitStack

    def version(self) -> str:
        answer = ask(self.client, f"{NAME}@prod", PROMPTS[0])
        found: str = answer.json()["hotswap"]["version"]
        return found


@pytest.fixture
def servers(
    registry: Registry,
    registry_url: str,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    tmp_path: Path,
) -> Iterator[list[Server]]:
    """Live servers that have answered with version 2, to which `prod` points."""
    push_adapter(registry, NAME, adapter_dirs[0])
    push_adapter(registry, NAME, adapter_dirs[1])
    with ExitStack() as all_servers:
        started = []
        for number in range(NUM_SERVERS):
            stack = all_servers.enter_context(ExitStack())
            follower = stack.enter_context(RegistryClient(registry_url))
            home = Home(tmp_path / f"home{number}")
            serving = Serving(serving_settings(tiny_base), follower, home)
            url = stack.enter_context(serving_app(assemble([serving.plane()])))
            client = stack.enter_context(httpx.Client(base_url=url, timeout=60))
            started.append(Server(client, stack))
        while len(registry.events.servers()) < NUM_SERVERS:
            pass
        assert [server.version() for server in started] == [f"{NAME}:2"] * NUM_SERVERS
        yield started


def test_when_the_command_returns_every_server_answers_with_the_version_moved_to(
    servers: list[Server], registry_url: str, shell: Shell
) -> None:
    for number, command in (
        (1, ("rollback", f"{NAME}@prod")),
        (2, ("alias", "set", f"{NAME}@prod", "2")),
    ):
        output = shell.ok(*command, "--wait", "--registry", registry_url)
        assert f"applied by {NUM_SERVERS} live servers" in output
        assert [server.version() for server in servers] == [f"{NAME}:{number}"] * NUM_SERVERS


def test_server_that_stopped_is_not_waited_for(
    servers: list[Server], registry_url: str, shell: Shell
) -> None:
    servers[0].stack.close()
    output = shell.ok("rollback", f"{NAME}@prod", "--wait", "--registry", registry_url)
    assert f"applied by {NUM_SERVERS - 1} live server\n" in output
    assert servers[1].version() == f"{NAME}:1"


def test_what_servers_hold_is_reported(servers: list[Server], registry: Registry) -> None:
    target = registry.aliases.target(NAME, "prod").version
    registry.aliases.rollback(MoveRequest(NAME, "prod", by="tests"))  # makes them report
    end = registry.events.read().cursor
    while any(info.cursor < end for info in registry.events.servers()):
        pass
    assert [info.loaded for info in registry.events.servers()] == [
        (target.manifest_digest,)
    ] * NUM_SERVERS
