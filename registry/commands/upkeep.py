"""The commands that keep a store healthy: verify and sweep."""

from __future__ import annotations

from datetime import timedelta

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import print_json, print_table, size_text
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Digest
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section
from hotswap.registry.upkeep.sweep import DEFAULT_GRACE, Sweep, SweepReport


@click.command(epilog=example("hotswap store verify team/sql:7", "hotswap store verify --all"))
@click.argument("ref", required=False)
@click.option("--all", "everything", is_flag=True, help="Every version, blob and manifest.")
@registry_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, ref: str | None, everything: bool, location: str | None, as_json: bool
) -> None:
    """Re-hash the files of the adapter REF, or all that is stored; status 1 for damage."""
    if (ref is None) is not everything:
        raise click.UsageError("give either REF or --all")
    wanted = None if ref is None else AdapterRef.parse(ref)
    with open_registry_at(location) as registry:
        report = registry.versions.verify(wanted)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        if report.damage:
            rows = [(d.key, d.expected, d.got) for d in report.damage]
            print_table(("KEY", "EXPECTED", "GOT"), rows)
        say(
            f"{report.num_objects} objects, {size_text(report.size_bytes)}: "
            + (f"{len(report.damage)} damaged; heal with `hotswap push --repair`"
               if report.damage else "all intact")
        )  # fmt: skip
        say(_store_text(report.store))
    if report.damage:
        ctx.exit(1)


def _store_text(store: Capabilities) -> str:
    return "the store " + "; ".join(
        (
            "refuses wrong checksums"
            if store.enforces_checksums
            else "ignores checksums, so uploads are read and hashed again",
            "completes multipart uploads once"
            if store.create_once_multipart
            else "overwrites on multipart completion",
        )
    )


def _digests(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[Digest]:
    return [Digest.parse(value) for value in values]


@click.command(
    epilog=example("hotswap store sweep", "hotswap store sweep --delete --grace-hours 24")
)
@click.option("--delete", is_flag=True, help="Do it; without, only say what would be done.")
@click.option(
    "--grace-hours",
    type=click.FloatRange(min=1),
    default=DEFAULT_GRACE.total_seconds() / 3600,
    show_default=True,
    help="How long something must be unreferenced, or a version deleted, before it goes.",
)
@click.option(
    "--loaded",
    multiple=True,
    callback=_digests,
    metavar="DIGEST",
    help="A manifest digest that a server holds, kept with its files. Repeatable.",
)
@click.option("--store", help="A directory or s3://bucket/prefix; goes before the settings.")
@json_option
def sweep(
    delete: bool, grace_hours: float, loaded: list[Digest], store: str | None, as_json: bool
) -> None:
    """Delete what nothing refers to any more. Works on the store; pushes may go on."""
    from hotswap.registry.storage import open_store
    from hotswap.registry.storage.format import require_known_format

    settings = read_section("registry", RegistrySettings, {"store": store})
    opened = open_store(settings.store or str(read_home(Home).store), settings)
    try:
        require_known_format(opened)
        grace = timedelta(hours=grace_hours)
        report = Sweep(opened, grace=grace, loaded=lambda: loaded).run(delete=delete)
    finally:
        opened.close()
    if as_json:
        print_json({**report.model_dump(mode="json"), "freed_bytes": report.freed_bytes})
    else:
        _show_sweep(report)


def _show_sweep(report: SweepReport) -> None:
    rows = []
    for word in ("deleted", "unfinished", "condemned", "waiting"):
        swept = getattr(report, word)
        size_bytes = sum(each.size_bytes for each in swept)
        rows.append((word, str(len(swept)), size_text(size_bytes)))
        for each in swept if word != "waiting" else ():
            say(f"{word}: {each.key} ({size_text(each.size_bytes)})")
    for ref in report.purged:
        say(f"purged: {ref}")
    print_table(("", "OBJECTS", "SIZE"), [("live", str(report.num_live), "-"), *rows])
    if report.dry_run:
        say(f"dry run: nothing was changed; --delete frees {size_text(report.freed_bytes)}")
    else:
        say(f"freed {size_text(report.freed_bytes)}")
