"""A server follows a registry in another process: moves arrive, outages end, it says goodbye."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import HotswapError
from hotswap.registry.domain.event import Event
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.domain.servers import ServerInfo
from hotswap.registry.http.client import RegistryClient
from hotswap.serving.aliases.follower import Follower
from hotswap.serving.aliases.version_table import VersionTable
from tests.contracts.pushes import NAME, push_version
from tests.servers import free_ports

TIMEOUT_S = 30
PROD = AdapterRef.parse(f"{NAME}@prod")
LOADED = Digest.of(b"an adapter")


@contextmanager
def registry_process(root: Path, port: int) -> Iterator[str]:
    """`hotswap registry` over the store in `root`; yields its URL."""
    command = [sys.executable, "-m", "hotswap", "store", "serve"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--store", str(root / "store")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOTSWAP_HOME": str(root / "home")},
    )
    try:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)  # as in an outage: nobody is told
        process.wait()
        process.stdout.close()


class WatchedTable(VersionTable):
    """Lets a test wait until something was applied, without asking again and again."""

    changed = threading.Condition()
    is_followed = False

    def apply(self, event: Event) -> None:
        super().apply(event)
        self._tell()

    def follow(self, is_followed: bool) -> None:
        super().follow(is_followed)
        self.is_followed = is_followed
        self._tell()

    def clear(self) -> None:
        super().clear()
        self._tell()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S)

    def knows(self, number: int) -> bool:
        """Whether the alias means this version here; asks nobody."""
        entry = self._entries.get(PROD)
        return entry is not None and entry.pointer.version.number == number

    def _tell(self) -> None:
        with self.changed:
            self.changed.notify_all()


class World:
    """A registry process that can end and start again, an operator, and a server's follower."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.port = free_ports(1)[0]
        self.process = stack.enter_context(ExitStack())
        self.start_registry()
        url = f"http://127.0.0.1:{self.port}"
        self.operator = stack.enter_context(RegistryClient(url))
        self.client = stack.enter_context(RegistryClient(url))
        self.table = WatchedTable(self.client, max_age_s=3600, grace_s=3600)
        self.follower = Follower(
            self.client, self.table, base="tiny", loaded=lambda: [LOADED], check=lambda _: None
        )

    def start_registry(self) -> None:
        self.process.enter_context(registry_process(self.root, self.port))

    def stop_registry(self) -> None:
        self.process.close()

    def server(self) -> ServerInfo:
        (found,) = self.operator.events.servers()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path, stack)
        for seed in (1, 2):
            push_version(made.operator, tmp_path, seed, alias="prod")
        made.follower.start()
        stack.callback(made.follower.stop)
        made.table.wait_for(lambda: made.table.is_followed)
        yield made


def test_a_rollback_is_seen_without_asking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.table.pointer(PROD).version.number == 2

    def refuse(name: str, alias: str) -> None:
        raise AssertionError("the registry was asked")

    monkeypatch.setattr(world.client.aliases, "target", refuse)
    world.operator.aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    world.table.wait_for(lambda: world.table.knows(1))
    assert world.table.pointer(PROD).version.number == 1


def test_server_says_which_event_it_has_applied_and_what_it_serves(world: World) -> None:
    world.table.pointer(PROD)
    world.operator.aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    end = world.operator.events.read().cursor
    while (server := world.server()).cursor < end:
        pass
    target = world.operator.aliases.target(NAME, "prod").version
    assert server.aliases == {f"{NAME}@prod": target.manifest_digest}
    assert (server.base, server.loaded) == ("tiny", (LOADED,))
    assert server.server_id == world.follower.server_id


def test_what_is_known_is_used_in_an_outage_and_what_was_missed_comes_after_it(
    world: World,
) -> None:
    assert world.table.pointer(PROD).version.number == 2
    assert world.follower.health() == {"follows_events": True, "event": 4}
    world.stop_registry()
    world.table.wait_for(lambda: not world.table.is_followed)
    assert world.follower.health() == {"follows_events": False, "event": 4}
    assert world.table.pointer(PROD).version.number == 2
    world.start_registry()
    world.operator.aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    world.table.wait_for(lambda: world.table.knows(1) and world.table.is_followed)


def test_store_that_was_put_back_is_followed_from_its_new_end(world: World) -> None:
    assert world.table.pointer(PROD).version.number == 2
    world.stop_registry()
    for path in ("aliases/team/sql/prod/0000000002.json", "events/0000000004.json"):
        (world.root / "store" / path).unlink()
    world.start_registry()
    world.table.wait_for(lambda: world.table.is_followed and not world.table.knows(2))
    assert world.table.pointer(PROD).version.number == 1


def test_stop_says_goodbye_and_ends_the_wait_at_the_registry(world: World) -> None:
    end = world.operator.events.read().cursor
    while world.operator.events.servers() == [] or world.server().cursor < end:
        pass
    world.follower.stop()
    assert world.operator.events.servers() == []
    assert not world.follower.is_running


def test_stop_ends_also_without_the_registry(world: World) -> None:
    world.stop_registry()
    with pytest.raises(HotswapError):
        world.operator.adapters.all()
    world.follower.stop()
    assert not world.follower.is_running
