"""`hotswap adapter diff`: two versions side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.parts import example, json_option, open_registry_at, registry_option
from hotswap.registry.commands.tables import Row, print_json, print_table
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest

if TYPE_CHECKING:
    from hotswap.registry.bundles.changes import LayerChange
    from hotswap.registry.bundles.comparison import FieldChange, VersionComparison

_LISTED = 20
_WIDTH = 40


@click.command(
    epilog=example(
        "hotswap adapter diff team/sql:6 team/sql:7",
        "hotswap adapter diff team/sql@prod other --json",
    )
)
@click.argument("a")
@click.argument("b")
@click.option("--all", "all_layers", is_flag=True, help="List every layer.")
@registry_option
@json_option
def diff(a: str, b: str, all_layers: bool, location: str | None, as_json: bool) -> None:
    """Show what differs from the version A to the version B: config, metrics, data and weights.

    The change of a layer is the norm of its update's difference over the norm of A's update.
    """
    from hotswap.registry.bundles.comparison import compare

    refs = AdapterRef.parse(a), AdapterRef.parse(b)
    with open_registry_at(location) as registry:
        comparison = compare(registry, *refs)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
    else:
        _show(comparison, None if all_layers else _LISTED)


def _show(comparison: VersionComparison, max_layers: int | None) -> None:
    for side, version in (("A", comparison.a), ("B", comparison.b)):
        say(f"{side}  {version.ref}  {version.manifest_digest}")
    metrics: list[Row] = [
        (m.metric, _number(m.a), _number(m.b), _number(m.difference, "+"))
        for m in comparison.metrics
    ]
    _section(("CONFIG", "A", "B"), _field_rows(comparison.config))
    _section(("METRIC", "A", "B", "DIFFERENCE"), metrics)
    _section(("DATA", "A", "B"), _field_rows(comparison.data))
    _section(("ABOUT", "A", "B"), _field_rows(comparison.about))
    _section(("FILE", "A", "B"), _field_rows(comparison.files))
    _section(
        ("LAYER", "CHANGE", "NORM A", "NORM B"), list(map(_layer, comparison.layers[:max_layers]))
    )
    if max_layers is not None and (more := len(comparison.layers) - max_layers) > 0:
        say(f"and {more} more layers; list them with --all")
    say()
    say(f"all layers: {_number(comparison.change)}")
    for note in comparison.notes:
        say(f"note: {note}")


def _section(header: Row, rows: Sequence[Row]) -> None:
    if rows:
        say()
        print_table(header, rows)


def _field_rows(changes: Sequence[FieldChange]) -> list[Row]:
    return [(change.field, _value(change.a), _value(change.b)) for change in changes]


def _value(value: Any) -> str:
    """A long value's beginning, with its digest, because two of them may begin alike."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= _WIDTH or text.startswith("sha256:"):
        return text[: len("sha256:") + 12] if text.startswith("sha256:") else text
    return f"{text[:_WIDTH]}… ({Digest.of(text.encode()).short})"


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4g}"


def _layer(layer: LayerChange) -> Row:
    change = _number(layer.change)
    if layer.norm_a is None:
        change = "new"
    elif layer.norm_b is None:
        change = "gone"
    elif layer.difference is None:
        change = "other shape"
    elif layer.change is None:
        change = "was zero"
    return layer.module, change, _number(layer.norm_a), _number(layer.norm_b)
