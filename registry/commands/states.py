"""The commands that withdraw versions and bring them back: delete, undelete, yank, unyank."""

from __future__ import annotations

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import print_json
from hotswap.registry.domain.adapters import AdapterRef, StateVerb, VersionState
from hotswap.registry.domain.errors import InvalidReference
from hotswap.registry.domain.requests import StateRequest
from hotswap.registry.settings import read_user


def _state_command(verb: StateVerb, done: str, text: str) -> click.Command:
    @click.command(
        verb, help=text, epilog=example(f"hotswap adapter {verb} team/sql:7 --why 'reason'")
    )
    @click.argument("ref")
    @click.option("--why", default="", help="The reason, kept in the version's states.")
    @registry_option
    @json_option
    def command(ref: str, why: str, location: str | None, as_json: bool) -> None:
        wanted = AdapterRef.parse(ref)
        if wanted.number is None:
            raise InvalidReference(f"{ref!r} names no number; name one (example: 'team/sql:7')")
        with open_registry_at(location) as registry:
            state = registry.versions.change(
                StateRequest(wanted.name, wanted.number, verb, by=read_user(), why=why)
            )
        _show_state(state, done, as_json=as_json)

    return command


def _show_state(state: VersionState, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json(state.model_dump(mode="json"))
    else:
        say(f"{state.name}:{state.number} {done}")


delete = _state_command(
    "delete",
    "is deleted; `hotswap adapter undelete` brings it back until a sweep makes it final",
    "Delete the version REF (team/sql:7); refused while an alias points to it.",
)
undelete = _state_command("undelete", "is back", "Bring the deleted version REF (team/sql:7) back.")
yank = _state_command(
    "yank",
    "is yanked: it can be pulled by number, and no alias may move to it",
    "Let no alias move to the version REF (team/sql:7); it can still be pulled.",
)
unyank = _state_command("unyank", "is active again", "Take the yank of REF (team/sql:7) back.")
