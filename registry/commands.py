"""The registry's commands: they read arguments, call one verb and print what it returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from registry.adapters import DEFAULT_ALIAS, AdapterRef, check_name
from registry.bundle import Bundle
from registry.errors import InvalidReference, InvalidRequest
from registry.manifest import BaseFingerprint, first_problem
from registry.protocol import AdapterRegistry
from registry.settings import RegistrySettings, read_home, read_section, read_user
from registry.tables import (
    print_json,
    print_table,
    show_version,
    summary_rows,
    time_text,
    version_rows,
)

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_PAGE = 500


def _example(*lines: str) -> str:
    """An epilog whose lines click leaves as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def _registry_option(function: CommandT) -> CommandT:
    return click.option(
        "--registry",
        "location",
        metavar="URL",
        help="The registry's URL, or a store: a directory or s3://bucket/prefix.",
    )(function)


def _json_option(function: CommandT) -> CommandT:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@contextmanager
def _open(location: str | None) -> Iterator[AdapterRegistry]:
    from registry.connect import connect  # a help text needs no HTTP client

    with connect(location, read_section("registry", RegistrySettings), read_home()) as registry:
        yield registry


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    for value in values:
        if "=" not in value or value.startswith("="):
            raise click.BadParameter(f"{value!r} is not of the form key=value")
    return pairs


def _numbers(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    try:
        return {key: float(text) for key, text in _pairs(context, parameter, values).items()}
    except ValueError as error:
        raise click.BadParameter(f"a metric must be a number: {error}") from None


def _alias_of(text: str) -> tuple[str, str]:
    """Name and alias of `team/sql@prod`; a bare name means the default alias."""
    ref = AdapterRef.parse(text)
    if (alias := ref.effective_alias) is None:
        raise InvalidReference(
            f"{text!r} names a version; name an alias (example: '{ref.name}@{DEFAULT_ALIAS}')"
        )
    return ref.name, alias


@click.command(
    epilog=_example(
        "hotswap push ./my-adapter team/sql --alias prod --metric em=0.83 --why 'first release'"
    )
)
@click.argument("source")
@click.argument("name")
@click.option("--alias", help="Also point this alias to the version.")
@click.option("--why", default="", help="The reason, kept in the alias's history.")
@click.option("--tag", "tags", multiple=True, callback=_pairs, metavar="K=V", help="Repeatable.")
@click.option(
    "--metric", "metrics", multiple=True, callback=_numbers, metavar="K=V", help="Repeatable."
)
@click.option("--description", default="", help="What the adapter does, in a sentence.")
@click.option(
    "--base", type=click.Path(path_type=Path), help="JSON file with the base's fingerprint."
)
@click.option("--allow-no-effect", is_flag=True, help="Push an adapter whose B·A is zero.")
@_registry_option
@_json_option
def push(
    source: str,
    name: str,
    alias: str | None,
    why: str,
    tags: dict[str, str],
    metrics: dict[str, float],
    description: str,
    base: Path | None,
    allow_no_effect: bool,
    location: str | None,
    as_json: bool,
) -> None:
    """Make the PEFT adapter SOURCE a version of NAME.

    SOURCE is a directory, a tar file, a snapshot in the hub's cache, or a hub id (owner/name).
    """
    from registry.sources import open_source
    from registry.transfer import push as push_bundle

    check_name(name)
    with open_source(source) as directory:
        bundle = Bundle.read(directory)
        manifest = bundle.manifest(
            base=_read_fingerprint(base) if base else None,
            metrics=metrics,
            description=description,
            tags=tags,
        )
        with _open(location) as registry:
            version = push_bundle(
                registry,
                name,
                bundle,
                manifest,
                by=read_user(),
                alias=alias,
                why=why,
                allow_no_effect=allow_no_effect,
            )
    if as_json:
        print_json(version.model_dump(mode="json"))
        return
    click.echo(f"pushed {version.ref} {version.manifest_digest}")
    if alias is not None:
        click.echo(f"{name}@{alias} points to version {version.number}")


def _read_fingerprint(path: Path) -> BaseFingerprint:
    try:
        return BaseFingerprint.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidRequest(f"{path} is not a base fingerprint: {first_problem(error)}") from None


@click.command(epilog=_example("hotswap pull team/sql@prod ./sql-adapter"))
@click.argument("ref")
@click.argument("directory", type=click.Path(path_type=Path))
@_registry_option
@_json_option
def pull(ref: str, directory: Path, location: str | None, as_json: bool) -> None:
    """Write the adapter REF into the new DIRECTORY, every file verified."""
    from registry.transfer import pull as pull_files

    wanted = AdapterRef.parse(ref)
    with _open(location) as registry:
        version = pull_files(registry, wanted, directory)
    if as_json:
        print_json(version.model_dump(mode="json"))
    else:
        click.echo(f"pulled {version.ref} {version.manifest_digest} into {directory}")


@click.command(epilog=_example("hotswap ls", "hotswap ls team/sql"))
@click.argument("name", required=False)
@_registry_option
@_json_option
def ls(name: str | None, location: str | None, as_json: bool) -> None:
    """List the adapters, or the versions of NAME."""
    with _open(location) as registry:
        if name is None:
            summaries = _all_adapters(registry)
            header, rows = summary_rows(summaries)
            items = [summary.model_dump(mode="json") for summary in summaries]
        else:
            versions = registry.versions(check_name(name))
            header, rows = version_rows(versions, registry.aliases(name))
            items = [version.model_dump(mode="json") for version in versions]
    if as_json:
        print_json(items)
    else:
        print_table(header, rows)


def _all_adapters(registry: AdapterRegistry) -> list[Any]:
    found = page = registry.adapters(limit=_PAGE)
    while len(page) == _PAGE:
        page = registry.adapters(after=page[-1].name, limit=_PAGE)
        found = found + page
    return found


@click.command(epilog=_example("hotswap show team/sql@prod", "hotswap show team/sql:7 --json"))
@click.argument("ref")
@_registry_option
@_json_option
def show(ref: str, location: str | None, as_json: bool) -> None:
    """Show what the adapter REF is: its base, shape, files and metrics."""
    wanted = AdapterRef.parse(ref)
    with _open(location) as registry:
        version = registry.resolve(wanted)
        manifest = registry.manifest(version.manifest_digest)
        moves = registry.aliases(version.name)
    if as_json:
        documents = {"version": version, "manifest": manifest}
        print_json({key: model.model_dump(mode="json") for key, model in documents.items()})
    else:
        show_version(version, manifest, moves)


@click.command(
    epilog=_example(
        "hotswap alias team/sql@prod 7 --why 'better on dates'",
        "hotswap alias team/sql@prod 7 --expect 6",
    )
)
@click.argument("ref")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--expect", type=int, help="Only if the alias points to this version now.")
@click.option("--why", default="", help="The reason, kept in the alias's history.")
@_registry_option
@_json_option
def alias(
    ref: str, number: int, expect: int | None, why: str, location: str | None, as_json: bool
) -> None:
    """Point the alias REF (team/sql@prod) to version NUMBER."""
    name, alias_name = _alias_of(ref)
    with _open(location) as registry:
        move = registry.move_alias(name, alias_name, number, by=read_user(), why=why, expect=expect)
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        click.echo(f"{name}@{alias_name} points to version {move.to_number}")


@click.command(epilog=_example("hotswap history team/sql@prod"))
@click.argument("ref")
@_registry_option
@_json_option
def history(ref: str, location: str | None, as_json: bool) -> None:
    """List every move of the alias REF (team/sql@prod), oldest first."""
    name, alias_name = _alias_of(ref)
    with _open(location) as registry:
        moves = registry.history(name, alias_name)
    if as_json:
        print_json([move.model_dump(mode="json") for move in moves])
        return
    print_table(
        ("MOVE", "FROM", "TO", "BY", "AT", "WHY"),
        [
            (
                str(m.sequence),
                str(m.from_number or "-"),
                str(m.to_number),
                m.moved_by,
                time_text(m.moved_at),
                m.why,
            )
            for m in moves
        ],
    )


@click.command(epilog=_example("hotswap rollback team/sql@prod --why 'wrong dates since 7'"))
@click.argument("ref")
@click.option("--expect", type=int, help="Only if the alias points to this version now.")
@click.option("--why", default="", help="The reason, kept in the alias's history.")
@_registry_option
@_json_option
def rollback(ref: str, expect: int | None, why: str, location: str | None, as_json: bool) -> None:
    """Move the alias REF (team/sql@prod) back to its last different version."""
    name, alias_name = _alias_of(ref)
    with _open(location) as registry:
        move = registry.rollback(name, alias_name, by=read_user(), why=why, expect=expect)
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        click.echo(
            f"{name}@{alias_name} points to version {move.to_number} again (was {move.from_number})"
        )


@click.command(
    epilog=_example(
        "hotswap registry", "HOTSWAP_REGISTRY_STORE=s3://bucket/hotswap hotswap registry"
    )
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on; 0: a free one.")
@click.option("--store", help="A directory or s3://bucket/prefix; goes before the settings.")
def registry(host: str, port: int, store: str | None) -> None:
    """Serve the registry alone over HTTP."""
    from registry.app import assemble, registry_plane, run
    from registry.connect import open_registry

    settings = read_section("registry", RegistrySettings, {"store": store})
    with open_registry(settings, read_home()) as opened:
        run(assemble([registry_plane(opened)]), host, port)


COMMANDS: tuple[click.Command, ...] = (
    push,
    pull,
    ls,
    show,
    alias,
    history,
    rollback,
    registry,
)
