"""The commands that look at and move aliases."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.release import (
    current_move,
    dry_run_option,
    finish_with_plan,
    sign_key_option,
)
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.registry.commands.servers import wait_options
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.commands.times import time_parameter, time_text
from hotswap.registry.connect import signing
from hotswap.registry.domain.adapters import DEFAULT_ALIAS, AdapterRef, AliasMove
from hotswap.registry.domain.errors import InvalidReference
from hotswap.registry.domain.moves import served_at
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.http.acknowledgement import require_waitable, wait_for_servers
from hotswap.registry.settings import read_user


def _alias_of(text: str) -> tuple[str, str]:
    """Name and alias of `team/sql@prod`; a bare name means the default alias."""
    ref = AdapterRef.parse(text)
    if (alias := ref.effective_alias) is None:
        raise InvalidReference(
            f"{text!r} names a version; name an alias (example: '{ref.name}@{DEFAULT_ALIAS}')"
        )
    return ref.name, alias


@click.command(
    epilog=example(
        "hotswap alias set team/sql@prod 7 --why 'better on dates'",
        "hotswap alias set team/sql@prod 7 --expect 6",
        "hotswap alias set team/sql@prod 7 --dry-run",
        "hotswap alias set team/sql@prod 7 --sign-key release.pem",
    )
)
@click.argument("ref")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--expect", type=int, help="Only if the alias points to this version now.")
@click.option("--why", default="", help="The reason, kept in the alias's history.")
@sign_key_option
@dry_run_option
@wait_options
@registry_option
@json_option
@click.pass_context
def set_alias(
    ctx: click.Context,
    ref: str,
    number: int,
    expect: int | None,
    why: str,
    sign_key: Path | None,
    dry_run: bool,
    wait: bool,
    timeout_s: float,
    location: str | None,
    as_json: bool,
) -> None:
    """Point the alias REF (team/sql@prod) to version NUMBER."""
    name, alias_name = AdapterRef.parse_alias(ref)
    request = MoveRequest(name, alias_name, number, by=read_user(), why=why, expect=expect)
    with open_registry_at(location) as registry:
        if dry_run:
            finish_with_plan(ctx, registry.aliases.plan_move(request), as_json=as_json)
            return
        if wait:
            require_waitable(registry)
        before = current_move(registry, name, alias_name)
        move = signing(registry, sign_key).aliases.move(request)
        text = f"points to version {move.to_number}"
        if before is not None and before.sequence == move.sequence:
            text += f" already, since {time_text(move.moved_at)}; nothing was changed"
        _finish(registry, move, text, wait, timeout_s, as_json=as_json)


@click.command(epilog=example("hotswap alias history team/sql@prod"))
@click.argument("ref")
@registry_option
@json_option
def history(ref: str, location: str | None, as_json: bool) -> None:
    """List every move of the alias REF (team/sql@prod), oldest first."""
    name, alias_name = _alias_of(ref)
    with open_registry_at(location) as registry:
        moves = registry.aliases.history(name, alias_name)
    if as_json:
        print_json([move.model_dump(mode="json") for move in moves])
        return
    print_table(
        ("MOVE", "FROM", "TO", "BY", "AT", "SIGNED BY", "WHY"),
        [
            (
                str(m.sequence),
                str(m.from_number or "-"),
                str(m.to_number),
                m.moved_by,
                time_text(m.moved_at),
                "-" if m.signature is None else m.signature.key,
                m.why,
            )
            for m in moves
        ],
    )


@click.command(
    epilog=example(
        "hotswap rollback team/sql@prod --why 'wrong dates since 7'",
        "hotswap rollback team/sql@prod --to 3 --wait",
    )
)
@click.argument("ref")
@click.option(
    "--to", type=click.IntRange(min=1), help="An earlier target; default: the last different one."
)
@click.option("--expect", type=int, help="Only if the alias points to this version now.")
@click.option("--why", default="", help="The reason, kept in the alias's history.")
@sign_key_option
@dry_run_option
@wait_options
@registry_option
@json_option
@click.pass_context
def rollback(
    ctx: click.Context,
    ref: str,
    to: int | None,
    expect: int | None,
    why: str,
    sign_key: Path | None,
    dry_run: bool,
    wait: bool,
    timeout_s: float,
    location: str | None,
    as_json: bool,
) -> None:
    """Move the alias REF (team/sql@prod) back to an earlier version."""
    name, alias_name = AdapterRef.parse_alias(ref)
    request = MoveRequest(name, alias_name, to, by=read_user(), why=why, expect=expect)
    with open_registry_at(location) as registry:
        if dry_run:
            finish_with_plan(ctx, registry.aliases.plan_rollback(request), as_json=as_json)
            return
        if wait:
            require_waitable(registry)
        move = signing(registry, sign_key).aliases.rollback(request)
        text = f"points to version {move.to_number} again (was {move.from_number})"
        _finish(registry, move, text, wait, timeout_s, as_json=as_json)


def _finish(
    registry: AdapterRegistry,
    move: AliasMove,
    text: str,
    wait: bool,
    timeout_s: float,
    *,
    as_json: bool,
) -> None:
    """Tell of the move that was made, then wait for the servers, which may still fail."""
    ref = f"{move.name}@{move.alias}"
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        say(f"{ref} {text}")
    if wait:
        reached = wait_for_servers(registry, ref, timeout_s)
        if not as_json:
            say(reached)


@click.command(
    epilog=example(
        "hotswap alias at team/sql@prod 2026-11-24T09:30:00+01:00",
        "hotswap alias at team/sql@prod yesterday",
    ),
    cls=RenamedOptions,
    renamed={"--at": "TIME"},
)
@click.argument("ref")
@click.argument("time", callback=time_parameter("past"))
@registry_option
@json_option
def at(ref: str, time: datetime, location: str | None, as_json: bool) -> None:
    """Tell which version the alias REF (team/sql@prod) pointed to at TIME.

    TIME is what other commands print, a day, or a length of time ago: 2026-11-24T09:30:00Z,
    2026-11-24, yesterday, 12h. A time to the second means that second's end.
    """
    name, alias_name = _alias_of(ref)
    with open_registry_at(location) as registry:
        move = served_at(registry.aliases.history(name, alias_name), _end_of_second(time))
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        say(
            f"{name}@{alias_name} pointed to version {move.to_number} at {time_text(time)} "
            f"(since {time_text(move.moved_at)}, moved by {move.moved_by})"
        )


def _end_of_second(time: datetime) -> datetime:
    """Tables leave out the fraction of the second in which a move was made."""
    return time if time.microsecond else time + timedelta(microseconds=999_999)
