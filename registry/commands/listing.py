"""`hotswap ls`: adapters, the versions of one, or the versions for which a filter holds."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hotswap.registry.commands.measures import (
    check_sort,
    measure,
    measured_rows,
    sort_versions,
)
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import (
    Row,
    found_rows,
    print_json,
    print_table,
    summary_rows,
    version_rows,
)
from hotswap.registry.domain.access import covers
from hotswap.registry.domain.adapters import AdapterRef, AdapterSummary, AdapterVersion, check_name
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.search.paging import read_pages
from hotswap.registry.search.parser import parse_filter


@click.command(
    epilog=example(
        "hotswap ls",
        "hotswap ls team/sql",
        "hotswap ls team/",
        "hotswap ls team/sql --sort metrics.em --limit 3",
        "hotswap ls --filter 'metrics.em > 0.8 and tag.team = \"x\"'",
        'hotswap ls --filter \'alias = "prod" and not name ~ "team/*"\' --limit 20',
    )
)
@click.argument("name", required=False)
@click.option("--filter", "expression", metavar="EXPR", help="List the versions it holds for.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; all by default.")
@click.option(
    "--sort",
    metavar="FIELD",
    help="List versions by name, created, size or metrics.NAME: newest, largest, best first.",
)
@click.option("--long", "-l", "is_long", is_flag=True, help="List versions with size and metrics.")
@click.option("--after", help="Go on behind this line: a NAME, of versions a NAME:NUMBER.")
@registry_option
@json_option
def ls(
    name: str | None,
    expression: str | None,
    limit: int | None,
    sort: str | None,
    is_long: bool,
    after: str | None,
    location: str | None,
    as_json: bool,
) -> None:
    """List the adapters, the versions of NAME, or those a filter holds for.

    NAME may be a pattern: `team/*`, or `team/` for all below it.

    A filter compares fields (=, !=, <, <=, >, >=, in, and ~ with * for any characters) and joins
    comparisons with and, or, not and parentheses. Fields: name, number, created, by, base, state,
    alias, description, lora.kind, lora.r, lora.alpha, metrics.<key>, tag.<key>, lineage.parent,
    lineage.parent_digest, lineage.dataset_digest, lineage.run, lineage.revision.
    """
    if expression is not None:
        parse_filter(expression)  # its columns are those of what was typed
    if sort is not None:
        check_sort(sort)
        if after is not None:
            raise InvalidRequest("--after goes on in order of name; leave out --sort or --after")
    pattern = f"{name}*" if name is not None and name.endswith("/") else name
    is_pattern = pattern is not None and "*" in pattern
    if pattern is not None:
        check_name(pattern.replace("*", "x"))
    with open_registry_at(location) as registry:
        if sort is not None or is_long:
            wanted = _joined(pattern, expression) or "number >= 1"
            header, rows, items = _measured(registry, wanted, after, limit, sort)
        elif expression is None and (name is None or is_pattern):
            header, rows, items = _adapters(registry, pattern or "*", after or "", limit)
        elif name is not None and (expression, limit, after) == (None, None, None):
            header, rows, items = _versions(registry, name)
        else:
            header, rows, items = _search(registry, _joined(pattern, expression), after, limit)
    if as_json:
        print_json([item.model_dump(mode="json") for item in items])
    else:
        print_table(header, rows)


Listing = tuple[Row, list[Row], Sequence[AdapterSummary | AdapterVersion]]


def _adapters(registry: AdapterRegistry, pattern: str, after: str, limit: int | None) -> Listing:
    summaries = read_pages(
        lambda last, size: registry.adapters.all(after=last.name if last else after, limit=size),
        limit if pattern == "*" else None,
    )
    summaries = [each for each in summaries if covers(pattern, each.name)][:limit]
    return *summary_rows(summaries), summaries


def _versions(registry: AdapterRegistry, name: str) -> Listing:
    versions = registry.adapters.versions(name)
    return *version_rows(
        versions, registry.aliases.all(name), registry.adapters.states(name)
    ), versions


def _search(
    registry: AdapterRegistry, expression: str, after: str | None, limit: int | None
) -> Listing:
    start = None if after is None else AdapterRef.parse(after)
    versions = read_pages(
        lambda last, size: registry.adapters.search(
            expression, after=last.ref if last else start, limit=size
        ),
        limit,
    )
    return *found_rows(versions), versions


def _measured(
    registry: AdapterRegistry,
    expression: str,
    after: str | None,
    limit: int | None,
    sort: str | None,
) -> Listing:
    """With a sort order all that the expression holds for is read, and the limit cuts the rest."""
    versions = _search(registry, expression, after, None if sort else limit)[2]
    measured = measure(registry, [each for each in versions if isinstance(each, AdapterVersion)])
    if sort is not None:
        measured = sort_versions(measured, sort)[:limit]
    return *measured_rows(measured), [each.version for each in measured]


def _joined(name: str | None, expression: str | None) -> str:
    """The filter for the versions of a name, or of the names that a pattern with * means."""
    parts = [] if expression is None else [f"({expression})"]
    if name is not None:
        parts.append(f"name {'~' if '*' in name else '='} '{name}'")
    return " and ".join(parts)
