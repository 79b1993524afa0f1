"""The command that shows the servers that follow the registry, and waiting until they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.commands.times import time_text

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@click.command(epilog=example("hotswap server ls"))
@registry_option
@json_option
def ls(location: str | None, as_json: bool) -> None:
    """List the servers that follow the registry, and which event each has applied."""
    with open_registry_at(location) as registry:
        servers = registry.events.servers()
        end = registry.events.read().cursor
    if as_json:
        print_json([server.model_dump(mode="json") for server in servers])
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
            for server in servers
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
