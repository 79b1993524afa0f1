"""The command that shows the servers that follow the registry, and waiting until they have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from registry.commands.parts import example, json_option, open_registry_at, registry_option
from registry.commands.tables import print_json, print_table, time_text
from registry.errors import InvalidRequest, NotAcknowledged
from registry.protocol import AdapterRegistry

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

PAUSE_S = 0.02


@click.command(epilog=example("hotswap servers"))
@registry_option
@json_option
def servers(location: str | None, as_json: bool) -> None:
    """List the servers that follow the registry, and which event each has applied."""
    with open_registry_at(location) as registry:
        found = registry.servers()
        end = registry.events().cursor
    if as_json:
        print_json([server.model_dump(mode="json") for server in found])
        return
    print_table(
        ("SERVER", "BASE", "EVENT", "BEHIND", "LOADED", "SEEN", "ALIASES"),
        [
            (
                server.server_id,
                server.base,
                str(server.cursor),
                str(max(end - server.cursor, 0)),
                str(len(server.loaded)),
                time_text(server.seen_at),
                ", ".join(
                    [f"{ref}={digest.short}" for ref, digest in server.aliases.items()]
                    + [f"{ref} refused" for ref in server.refused]
                ),
            )
            for server in found
        ],
    )


def wait_options(function: CommandT) -> CommandT:
    """`--wait` and `--timeout`, for `wait_for_servers`."""
    function = click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        metavar="S",
        help="Seconds to wait at most.",
    )(function)
    return click.option(
        "--wait", is_flag=True, help="Return when every live server has applied the move."
    )(function)


def require_waitable(registry: AdapterRegistry) -> None:
    """Raises InvalidRequest for a registry in this process: servers report to another one."""
    from registry.client import RegistryClient

    if not isinstance(registry, RegistryClient):
        raise InvalidRequest(
            "--wait needs the registry that the servers report to, not its store; give its URL "
            "with --registry or HOTSWAP_REGISTRY_URL"
        )


def wait_for_servers(registry: AdapterRegistry, ref: str, timeout_s: float) -> str:
    """Until every live server has applied the move of `ref` that was just made; says how many.

    Raises NotAcknowledged, naming those that have not after `timeout_s` and those that have heard
    of the move and refuse its target.
    """
    deadline = time.monotonic() + timeout_s
    end = registry.events().cursor
    while True:
        live = registry.servers()
        behind = [server for server in live if server.cursor < end]
        refusing = [s for s in live if s.cursor >= end and ref in s.refused]
        if refusing:
            raise NotAcknowledged(
                f"{ref} was moved, but its new target is refused by "
                + "; ".join(f"{s.server_id}: {s.refused[ref]}" for s in refusing),
                servers=[server.server_id for server in refusing],
            )
        if not behind:
            return f"applied by {len(live)} live server{'' if len(live) == 1 else 's'}"
        if time.monotonic() >= deadline:
            names = ", ".join(f"{s.server_id} (at event {s.cursor} of {end})" for s in behind)
            raise NotAcknowledged(
                f"the alias was moved, but not applied within {timeout_s:g} s by {names}; see "
                "`hotswap servers`",
                servers=[server.server_id for server in behind],
            )
        time.sleep(PAUSE_S)
