"""What servers report and where an alias points, in process and over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import AdapterNotFound, AliasNotFound, InvalidRequest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.domain.servers import ServerReport
from tests.contracts.pushes import NAME, push_version

TIMEOUT_S = 30
DIGEST = Digest.of(b"an adapter")


def report_at(cursor: int) -> ServerReport:
    return ServerReport(
        base="tiny", cursor=cursor, aliases={f"{NAME}@prod": DIGEST}, loaded=(DIGEST,)
    )


def test_the_newest_report_of_each_server_is_shown(registry: AdapterRegistry) -> None:
    for server_id, cursor in (("b", 1), ("a", 1), ("b", 2)):
        registry.events.report(server_id, report_at(cursor))
    shown = registry.events.servers()
    assert [(server.server_id, server.cursor) for server in shown] == [("a", 1), ("b", 2)]
    assert (shown[0].aliases, shown[0].loaded) == ({f"{NAME}@prod": DIGEST}, (DIGEST,))


def test_server_that_says_goodbye_is_not_shown(registry: AdapterRegistry) -> None:
    registry.events.report("a", report_at(1))
    registry.events.forget("a")
    registry.events.forget("unknown")
    assert registry.events.servers() == []


def test_goodbye_ends_the_wait_for_events(registry: AdapterRegistry) -> None:
    registry.events.report("a", report_at(0))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(registry.events.read, 0, wait_s=TIMEOUT_S)
        while not waiting.done():  # the wait may not have begun at the first goodbye
            registry.events.forget("a")
        assert waiting.result().events == ()


@pytest.mark.parametrize("server_id", ["A", "a/b", "-", "a" * 101])
def test_what_is_no_servers_id_is_refused(registry: AdapterRegistry, server_id: str) -> None:
    with pytest.raises(InvalidRequest):
        registry.events.report(server_id, report_at(1))


def test_target_of_an_alias_comes_with_its_move(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    version = push_version(registry, tmp_path, 2)
    move = registry.aliases.move(MoveRequest(NAME, "prod", 2, by="bob"))
    target = registry.aliases.target(NAME, "prod")
    assert (target.move, target.version) == (move, version)
    with pytest.raises(AliasNotFound):
        registry.aliases.target(NAME, "canary")
    with pytest.raises(AdapterNotFound):
        registry.aliases.target("no/such", "prod")
