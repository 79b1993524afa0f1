"""Keys, and what the commands that move aliases share: the dry run and the signing key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.domain.adapters import AliasMove
from hotswap.registry.domain.errors import Forbidden, NotFound
from hotswap.registry.domain.policy import MovePlan
from hotswap.registry.domain.protocol import AdapterRegistry

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def dry_run_option(function: CommandT) -> CommandT:
    return click.option(
        "--dry-run", is_flag=True, help="Only say what would happen and why not; status 1 if not."
    )(function)


def sign_key_option(function: CommandT) -> CommandT:
    return click.option(
        "--sign-key",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Sign with this key; default: HOTSWAP_REGISTRY_SIGN_KEY, if set.",
    )(function)


@click.command(epilog=example("hotswap key new release.pem"))
@click.argument("file", type=click.Path(path_type=Path))
def new(file: Path) -> None:
    """Make an Ed25519 key in the new FILE and print its public key."""
    from hotswap.registry.signing import SigningKey

    say(SigningKey.create(file).public)
    say(f"{file} is secret; the public key goes into the servers' trust files", err=True)


@click.command(epilog=example("hotswap key show release.pem"))
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print the public key of the key in FILE."""
    from hotswap.registry.signing import SigningKey

    say(SigningKey.load(file).public)


def finish_with_plan(ctx: click.Context, plan: MovePlan, *, as_json: bool) -> None:
    """Print the plan and leave with status 1 when the move would be refused."""
    if as_json:
        print_json(plan.model_dump(mode="json"))
    else:
        say(_sentence(plan))
        if plan.conditions:
            print_table(
                ("", "ASKED", "FOUND", "RULE"),
                [
                    ("ok" if c.holds else "FAILS", c.asked, c.found, c.rule or "-")
                    for c in plan.conditions
                ],
            )
    if not plan.allowed:
        ctx.exit(1)


def _sentence(plan: MovePlan) -> str:
    where = f"{plan.name}@{plan.alias}"
    if not plan.allowed:
        return f"dry run: {where} would not move to version {plan.to_number}"
    if plan.from_number == plan.to_number:
        return f"dry run: {where} points to version {plan.to_number} already"
    new = "the new version" if plan.is_new_version else "version"
    start = "be created at" if plan.from_number is None else f"move from {plan.from_number} to"
    return f"dry run: {where} would {start} {new} {plan.to_number}"


def current_move(registry: AdapterRegistry, name: str, alias: str) -> AliasMove | None:
    """The alias's last move; None for none, or for a token that may not read it."""
    try:
        return next((move for move in registry.aliases.all(name) if move.alias == alias), None)
    except (Forbidden, NotFound):
        return None
