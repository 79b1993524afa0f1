"""`hotswap whoami`: whom the registry takes this token for."""

from __future__ import annotations

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import print_json
from hotswap.registry.commands.times import time_text
from hotswap.registry.settings import RegistrySettings, read_section


@click.command(epilog=example("hotswap whoami", "hotswap whoami --registry https://hub.example"))
@registry_option
@json_option
def whoami(location: str | None, as_json: bool) -> None:
    """Print which token is used, what it may do, and until when."""
    token = read_section("registry", RegistrySettings).token
    with open_registry_at(location) as registry:
        principal = registry.access.principal(None if token is None else token.get_secret_value())
    if as_json:
        print_json(principal.model_dump(mode="json"))
    elif principal.name is None:
        say("nobody: no token was ever made here, so everybody may do everything")
    else:
        until = f", until {time_text(principal.expires_at)}" if principal.expires_at else ""
        say(f"{principal.name}: {', '.join(principal.scopes)}{until}")
