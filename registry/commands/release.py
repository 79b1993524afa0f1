"""What the commands that move aliases share: the dry run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from registry.commands.tables import print_json, print_table
from registry.release.policy import MovePlan

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def dry_run_option(function: CommandT) -> CommandT:
    return click.option(
        "--dry-run", is_flag=True, help="Only say what would happen and why not; status 1 if not."
    )(function)


def finish_with_plan(ctx: click.Context, plan: MovePlan, *, as_json: bool) -> None:
    """Print the plan and leave with status 1 when the move would be refused."""
    if as_json:
        print_json(plan.model_dump(mode="json"))
    else:
        click.echo(_sentence(plan))
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
