"""Prints records for people, as aligned plain text, and for programs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from hotswap.registry.commands.output import say, visible, visible_json
from hotswap.registry.commands.times import time_text
from hotswap.registry.domain.adapters import AdapterSummary, AdapterVersion, AliasMove, VersionState
from hotswap.registry.domain.manifest import Lineage, Manifest
from hotswap.registry.domain.signatures import Signature

Row = tuple[str, ...]


def print_json(value: Any) -> None:
    click.echo(visible_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_table(header: Row, rows: Sequence[Row]) -> None:
    """Columns padded to their widest cell; the last one is not padded."""
    lines = [header, *([visible(" ".join(cell.split())) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def size_text(size_bytes: int) -> str:
    """A size in the unit that leaves one to three digits before the point."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def summary_rows(summaries: Sequence[AdapterSummary]) -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        (s.name, str(s.num_versions), _pointers(s.aliases), time_text(s.updated_at))
        for s in summaries
    ]
    return ("NAME", "VERSIONS", "ALIASES", "UPDATED"), rows


def version_rows(
    versions: Sequence[AdapterVersion],
    moves: Sequence[AliasMove],
    states: Sequence[VersionState] = (),
) -> tuple[Row, list[Row]]:
    yanked = {state.number for state in states if state.state == "yanked"}
    rows: list[Row] = [
        (
            str(v.number) + (" (yanked)" if v.number in yanked else ""),
            v.manifest_digest.short,
            ", ".join(m.alias for m in moves if m.to_number == v.number),
            v.created_by,
            time_text(v.created_at),
        )
        for v in versions
    ]
    return ("VERSION", "DIGEST", "ALIASES", "BY", "AT"), rows


def found_rows(versions: Sequence[AdapterVersion]) -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        (str(v.ref), v.manifest_digest.short, v.created_by, time_text(v.created_at))
        for v in versions
    ]
    return ("VERSION", "DIGEST", "BY", "AT"), rows


def show_version(
    version: AdapterVersion,
    manifest: Manifest,
    moves: Sequence[AliasMove],
    signatures: Sequence[Signature],
) -> None:
    lora = manifest.lora
    fields = {
        "version": str(version.ref),
        "digest": str(version.manifest_digest),
        "pushed": f"by {version.created_by} at {time_text(version.created_at)}",
        "signed": ", ".join(f"by {signature.key}" for signature in signatures),
        "aliases": ", ".join(m.alias for m in moves if m.to_number == version.number),
        "description": manifest.description,
        "base": manifest.base.model_id,
        "lora": f"{lora.kind}, r={lora.r}, lora_alpha={lora.lora_alpha:g}, "
        f"{len(lora.modules)} modules, {lora.num_parameters:,} parameters",
        "not servable": "; ".join(lora.not_servable),
        "prompt": "chat template stored" if manifest.prompt else "the base's own",
        "metrics": ", ".join(f"{key}={value:g}" for key, value in manifest.metrics.items()),
        "tags": ", ".join(f"{key}={value}" for key, value in manifest.tags.items()),
        **_lineage_fields(manifest.lineage),
    }
    for label, text in fields.items():
        if text:
            say(f"{label + ':':<14}{text}")
    say()
    print_table(
        ("FILE", "SIZE", "DIGEST"),
        [(f.file_name, size_text(f.size_bytes), f.digest.short) for f in manifest.files],
    )


def _lineage_fields(lineage: Lineage | None) -> dict[str, str]:
    if lineage is None:
        return {}
    digest = lineage.parent_digest
    return {
        "parent": f"{lineage.parent or ''} {digest.short if digest else ''}".strip(),
        "dataset": str(lineage.dataset_digest or ""),
        "run": lineage.run or "",
        "revision": lineage.revision or "",
    }


def _pointers(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias}={number}" for alias, number in sorted(aliases.items()))
