"""The commands that print the feed of events, and how webhooks got them."""

from __future__ import annotations

import json

import click

from hotswap.registry.commands.output import visible, visible_json
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import print_json, print_table
from hotswap.registry.commands.times import time_text
from hotswap.registry.domain.event import MAX_WAIT_S, Event


@click.command(
    epilog=example("hotswap store events --follow", "hotswap store events --after 120 --json")
)
@click.option("--after", type=click.IntRange(min=0), help="Only what came after this number.")
@click.option("--follow", is_flag=True, help="Go on with what happens, from now if no --after.")
@registry_option
@json_option
def events(after: int | None, follow: bool, location: str | None, as_json: bool) -> None:
    """Print what happened, oldest first: pushes, alias moves, changes of state."""
    with open_registry_at(location) as registry:
        cursor = after if after is not None or follow else 0
        while True:
            page = registry.events.read(cursor, wait_s=MAX_WAIT_S if follow else 0)
            for event in page.events:
                click.echo(visible_json(_json(event)) if as_json else visible(_line(event)))
            if not follow and page.cursor == cursor:
                return
            cursor = page.cursor


def _json(event: Event) -> str:
    return json.dumps(event.model_dump(mode="json"), ensure_ascii=False)


def _line(event: Event) -> str:
    return f"{event.sequence}  {time_text(event.at)}  {_what(event)}"


def _what(event: Event) -> str:
    version, move, state = event.version, event.move, event.state
    if move is not None:
        before = f" (was {move.from_number})" if move.from_number else ""
        what = f"{move.name}@{move.alias} points to version {move.to_number}{before}"
        by, why = move.moved_by, move.why
    elif state is not None:
        what, by, why = f"{version.ref} is {state.state}", state.changed_by, state.why
    else:
        what, by, why = f"{version.ref} was pushed", version.created_by, ""
    return f"{what}, by {by}" + (f": {' '.join(why.split())}" if why else "")


@click.command(epilog=example("hotswap server webhooks", "hotswap server webhooks --json"))
@registry_option
@json_option
def webhooks(location: str | None, as_json: bool) -> None:
    """List the webhooks: how far each has come, and how its last attempt ended."""
    with open_registry_at(location) as registry:
        states = registry.events.webhooks()
    if as_json:
        print_json([webhook.model_dump(mode="json") for webhook in states])
        return
    rows = []
    for webhook in states:
        last = webhook.attempts[-1] if webhook.attempts else None
        rows.append(
            (
                webhook.name,
                str(webhook.cursor),
                str(last.event) if last else "-",
                str(last.number) if last else "-",
                time_text(last.at) if last else "-",
                (last.error or str(last.status)) if last else "-",
            )
        )
    print_table(("WEBHOOK", "CURSOR", "EVENT", "ATTEMPT", "AT", "ANSWER"), rows)
