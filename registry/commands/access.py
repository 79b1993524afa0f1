"""Commands for tokens and the audit log."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from hotswap.registry.commands.output import say, visible_json
from hotswap.registry.commands.parts import (
    example,
    json_option,
    open_registry_at,
    registry_option,
    since_option,
)
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.commands.times import time_parameter, time_text
from hotswap.registry.settings import read_user


@click.command(
    epilog=example(
        "hotswap token create admin --scope admin",
        "hotswap token create ci --scope 'push:team/*' --scope 'pull:team/*' --expires 90d",
        "hotswap token create app --scope 'infer:team/*'",
        "hotswap token create releaser --scope 'move:team/sql@prod'",
        "hotswap token create on-call --scope 'release:team/*@prod'",
    )
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="VERB:PATTERN",
    help="push, pull, move, release or infer with a pattern of names, or admin. Repeatable.",
)
@click.option(
    "--expires",
    callback=time_parameter("future"),
    metavar="TIME",
    help="90d, 12h, or a day or time to come; default: never.",
)
@registry_option
@json_option
def create(
    name: str,
    scopes: tuple[str, ...],
    expires: datetime | None,
    location: str | None,
    as_json: bool,
) -> None:
    """Make the token NAME. It is printed once and cannot be shown again."""
    with open_registry_at(location) as registry:
        made = registry.access.create(name, scopes, by=read_user(), expires_at=expires)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    say(made.token)
    say("keep it now, it is not shown again; use it as HOTSWAP_REGISTRY_TOKEN", err=True)


@click.command(epilog=example("hotswap token ls"))
@registry_option
@json_option
def ls(location: str | None, as_json: bool) -> None:
    """List every token ever made, without its secret."""
    with open_registry_at(location) as registry:
        tokens = registry.access.all()
    if as_json:
        print_json([info.model_dump(mode="json") for info in tokens])
        return
    now = datetime.now(UTC)
    print_table(
        ("NAME", "STATE", "EXPIRES", "BY", "AT", "SCOPES"),
        [
            (
                info.name,
                info.state(now),
                time_text(info.expires_at) if info.expires_at else "never",
                info.created_by,
                time_text(info.created_at),
                ", ".join(info.scopes),
            )
            for info in tokens
        ],
    )


@click.command(epilog=example("hotswap token revoke ci"))
@click.argument("name")
@registry_option
@json_option
def revoke(name: str, location: str | None, as_json: bool) -> None:
    """Make the token NAME worthless, for good; its name is not used again."""
    with open_registry_at(location) as registry:
        info = registry.access.revoke(name, by=read_user())
    if as_json:
        print_json(info.model_dump(mode="json"))
    else:
        say(f"token {name} is revoked")


@click.command(epilog=example("hotswap audit --since yesterday", "hotswap audit --json"))
@since_option
@registry_option
@json_option
def audit(since: datetime | None, location: str | None, as_json: bool) -> None:
    """Print who changed what, oldest first; with --json one entry a line, for export."""
    with open_registry_at(location) as registry:
        entries = registry.access.entries(since)
        if as_json:
            for entry in entries:
                text = json.dumps(entry.model_dump(mode="json"), ensure_ascii=False)
                click.echo(visible_json(text))
            return
        rows = [
            (
                time_text(entry.at),
                entry.who,
                entry.action,
                entry.what,
                "-" if entry.before is None else str(entry.before),
                "-" if entry.after is None else str(entry.after),
                entry.request_id or "-",
                entry.why,
            )
            for entry in entries
        ]
    print_table(("AT", "WHO", "ACTION", "WHAT", "BEFORE", "AFTER", "REQUEST", "WHY"), rows)
