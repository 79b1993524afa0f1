"""The commands for the catalog, the index that can be thrown away: its schema, its rows."""

from __future__ import annotations

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option
from hotswap.registry.commands.tables import print_json
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section


@click.command(
    epilog=example(
        "hotswap store migrate",
        "hotswap store migrate --catalog postgresql://hotswap:PASSWORD@db.example/hotswap",
    )
)
@click.option("--catalog", metavar="URL", help="SQLAlchemy URL; goes before the settings.")
@json_option
def migrate(catalog: str | None, as_json: bool) -> None:
    """Bring the catalog's tables to what this version of hotswap needs.

    A catalog on PostgreSQL needs it once after an upgrade; SQLite files are migrated when opened.
    """
    from hotswap.registry.connect import configured_catalog
    from hotswap.registry.database.database import Database
    from hotswap.registry.database.revisions import HEAD, upgrade

    settings = read_section("registry", RegistrySettings, {"catalog": catalog})
    database = Database(configured_catalog(settings, read_home(Home)))
    try:
        before = upgrade(database)
    finally:
        database.close()
    if as_json:
        print_json({"catalog": database.place, "from": before, "to": HEAD})
    elif before == HEAD:
        say(f"{database.place} is at schema {HEAD} already")
    else:
        say(f"{database.place}: {before or 'no schema'} → {HEAD}")


@click.command(
    epilog=example("hotswap store rebuild", "hotswap store rebuild --store s3://bucket/prefix")
)
@click.option("--store", help="A directory or s3://bucket/prefix; goes before the settings.")
@json_option
def rebuild(store: str | None, as_json: bool) -> None:
    """Make the catalog again from the object store alone: versions, aliases and their history.

    Servers may go on meanwhile. A start does the same by itself when the catalog is lost.
    """
    from hotswap.registry.connect import open_registry

    settings = read_section("registry", RegistrySettings)
    with open_registry(settings, read_home(Home), store=store) as registry:
        rebuilt = registry.rebuild()
    if as_json:
        print_json(rebuilt._asdict())
        return
    say(
        f"{rebuilt.num_versions} versions, {rebuilt.num_moves} alias moves and "
        f"{rebuilt.num_states} changes of state are in the catalog"
    )
