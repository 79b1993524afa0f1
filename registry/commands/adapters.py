"""The registry's commands: they read arguments, call one verb and print what it returned."""

from __future__ import annotations

from pathlib import Path

import click

from hotswap.registry.commands.output import say, visible_lines
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import print_json, show_version
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section


@click.command(epilog=example("hotswap pull team/sql@prod ./sql-adapter"))
@click.argument("ref")
@click.argument("directory", type=click.Path(path_type=Path))
@registry_option
@json_option
def pull(ref: str, directory: Path, location: str | None, as_json: bool) -> None:
    """Write the adapter REF into the new DIRECTORY, every file verified."""
    from hotswap.registry.bundles.transfer import pull as pull_files

    wanted = AdapterRef.parse(ref)
    with open_registry_at(location) as registry:
        version = pull_files(registry, wanted, directory)
    if as_json:
        print_json(version.model_dump(mode="json"))
    else:
        say(f"pulled {version.ref} {version.manifest_digest} into {directory}")


@click.command(
    epilog=example(
        "hotswap show team/sql@prod",
        "hotswap show team/sql:7 --json",
        "hotswap show team/sql:7 --card > README.md",
    )
)
@click.argument("ref")
@click.option("--card", is_flag=True, help="Print the model card, in Markdown.")
@registry_option
@json_option
def show(ref: str, card: bool, location: str | None, as_json: bool) -> None:
    """Show what the adapter REF is: its base, shape, files and metrics."""
    wanted = AdapterRef.parse(ref)
    if card and as_json:
        raise InvalidRequest("--card is Markdown and --json is not; give one of them")
    with open_registry_at(location) as registry:
        if card:
            from hotswap.registry.bundles.card import make_card

            click.echo(visible_lines(make_card(registry, wanted)), nl=False)
            return
        version = registry.versions.resolve(wanted)
        manifest = registry.versions.manifest(version.manifest_digest)
        moves = registry.aliases.all(version.name)
        signatures = registry.versions.signatures(version.name, version.manifest_digest)
    if as_json:
        print_json(
            {
                "version": version.model_dump(mode="json"),
                "manifest": manifest.model_dump(mode="json"),
                "signatures": [signature.model_dump(mode="json") for signature in signatures],
            }
        )
    else:
        show_version(version, manifest, moves, signatures)


@click.command(
    epilog=example(
        "hotswap store serve", "HOTSWAP_REGISTRY_STORE=s3://bucket/hotswap hotswap store serve"
    )
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on; 0: a free one.")
@click.option("--store", help="A directory or s3://bucket/prefix; goes before the settings.")
def serve(host: str, port: int, store: str | None) -> None:
    """Serve the registry alone over HTTP."""
    from hotswap.registry.connect import configured_webhooks, open_registry
    from hotswap.registry.http.app import assemble, registry_plane, run

    settings = read_section("registry", RegistrySettings, {"store": store})
    webhooks = configured_webhooks(settings)
    with open_registry(settings, read_home(Home)) as opened:
        run(
            assemble([registry_plane(opened, opened.delivery(webhooks))], opened.access), host, port
        )
