"""`hotswap push`: a directory and what is said about it become a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.release import (
    current_move,
    dry_run_option,
    finish_with_plan,
    sign_key_option,
)
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.registry.commands.tables import print_json
from hotswap.registry.commands.times import time_text
from hotswap.registry.connect import signing
from hotswap.registry.domain.adapters import AdapterRef, check_name
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.manifest import BaseFingerprint, Lineage
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.values import first_problem
from hotswap.registry.settings import read_user


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


@click.command(
    epilog=example(
        "hotswap push ./my-adapter team/sql --alias prod --metric em=0.83 --why 'first release'",
        "hotswap push ./my-adapter team/sql --parent 6 --run 20261124-a1 --revision 3f2c9d1",
    ),
    cls=RenamedOptions,
    renamed={"--base": "--fingerprint"},
)
@click.argument("source")
@click.argument("name")
@click.option("--alias", help="Also point this alias to the version.")
@click.option("--why", default="", help="The reason, kept in the alias's history.")
@click.option("--tag", "tags", multiple=True, callback=_pairs, metavar="K=V", help="Repeatable.")
@click.option(
    "--metric", "metrics", multiple=True, callback=_numbers, metavar="K=V", help="Repeatable."
)
@click.option("--repair", is_flag=True, help="Upload every file, also in place of a damaged one.")
@click.option("--description", default="", help="What the adapter does, in a sentence.")
@click.option("--parent", metavar="REF|NUMBER", help="The version this one was made from.")
@click.option("--dataset-digest", metavar="SHA256", help="Of the file it was trained on.")
@click.option("--run", help="The id of the training run that made it.")
@click.option("--revision", help="Of the code that trained it.")
@click.option(
    "--fingerprint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The base's fingerprint, as `hotswap base` prints it.",
)
@click.option("--allow-no-effect", is_flag=True, help="Push an adapter whose B·A is zero.")
@sign_key_option
@dry_run_option
@registry_option
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    source: str,
    name: str,
    alias: str | None,
    why: str,
    tags: dict[str, str],
    metrics: dict[str, float],
    repair: bool,
    description: str,
    parent: str | None,
    dataset_digest: str | None,
    run: str | None,
    revision: str | None,
    fingerprint: Path | None,
    allow_no_effect: bool,
    sign_key: Path | None,
    dry_run: bool,
    location: str | None,
    as_json: bool,
) -> None:
    """Make the PEFT adapter SOURCE a version of NAME.

    SOURCE is a directory, a tar file, a snapshot in the hub's cache, or a hub id (owner/name).
    """
    from hotswap.registry.bundles.sources import open_source
    from hotswap.registry.bundles.transfer import plan_push
    from hotswap.registry.bundles.transfer import push as push_bundle

    check_name(name)
    if dry_run and alias is None:
        raise click.UsageError("--dry-run says what an alias would do; give --alias")
    stated = _lineage(dataset_digest, run, revision)
    with open_source(source) as directory:
        bundle = Bundle.read(directory)
        for note in bundle.notes:
            say(f"note: {note}", err=True)
        base = _read_fingerprint(fingerprint) if fingerprint else None
        with open_registry_at(location) as registry:
            lineage = stated if parent is None else _parent(registry, name, parent).over(stated)
            manifest = bundle.manifest(
                base=base,
                metrics=metrics,
                description=description,
                tags=tags,
                lineage=lineage,
            )
            said: dict[str, Any] = {
                "by": read_user(),
                "alias": alias,
                "why": why,
                "allow_no_effect": allow_no_effect,
            }
            if dry_run:
                plan = plan_push(registry, name, bundle, manifest, **said)
                finish_with_plan(ctx, plan, as_json=as_json)
                return
            before = None if alias is None else current_move(registry, name, alias)
            to = signing(registry, sign_key)
            version = push_bundle(to, name, bundle, manifest, repair=repair, **said)
    if as_json:
        print_json(version.model_dump(mode="json"))
        return
    say(f"pushed {version.ref} {version.manifest_digest}")
    if alias is not None:
        stays = before is not None and before.to_number == version.number and sign_key is None
        already = f" already, since {time_text(before.moved_at)}" if before and stays else ""
        say(f"{name}@{alias} points to version {version.number}{already}")


def _read_fingerprint(path: Path) -> BaseFingerprint:
    try:
        return BaseFingerprint.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidRequest(f"{path} is not a base fingerprint: {first_problem(error)}") from None


def _lineage(dataset_digest: str | None, run: str | None, revision: str | None) -> Lineage:
    digest = None if dataset_digest is None else Digest.parse(dataset_digest)
    try:
        return Lineage(dataset_digest=digest, run=run, revision=revision)
    except ValidationError as error:
        raise InvalidRequest(f"--{first_problem(error)}") from None


def _parent(registry: AdapterRegistry, name: str, parent: str) -> Lineage:
    """The version that `parent` means now: a number of `name`, or a reference."""
    ref = AdapterRef.parse(f"{name}:{parent}" if parent.isdecimal() else parent)
    version = registry.versions.resolve(ref)
    return Lineage(parent=str(version.ref), parent_digest=version.manifest_digest)
