"""What is known of a version for a search: short facts, each a text or a number. Pure.

by created base lora.kind lora.r lora.alpha description
metrics.<key> tag.<key> lineage.<field>
"""

from __future__ import annotations

from typing import NamedTuple

from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.manifest import Manifest

# PostgreSQL indexes rows of at most 2,704 bytes: a name, a key and a text of 4 bytes a character.
MAX_KEY = 100
MAX_TEXT = 300


class Fact(NamedTuple):
    """Invariant: either `text`, of at most MAX_TEXT characters, or `value` is set."""

    name: str
    number: int
    key: str
    text: str | None
    value: float | None


def facts_of(version: AdapterVersion, manifest: Manifest | None) -> list[Fact]:
    """The facts of a version; those of its record alone when the manifest cannot be read.

    Keys longer than MAX_KEY cannot be searched for and are left out.
    """
    values: dict[str, str | float] = {
        "by": version.created_by,
        "created": version.created_at.timestamp(),
    }
    if manifest is not None:
        values |= _of_manifest(manifest)
    return [
        Fact(version.name, version.number, key, None, float(value))
        if isinstance(value, int | float)
        else Fact(version.name, version.number, key, searchable(value), None)
        for key, value in values.items()
        if len(key) <= MAX_KEY
    ]


def _of_manifest(manifest: Manifest) -> dict[str, str | float]:
    lineage = manifest.lineage.stated() if manifest.lineage else {}
    return {
        "base": manifest.base.model_id,
        "lora.kind": manifest.lora.kind,
        "lora.r": manifest.lora.r,
        "lora.alpha": manifest.lora.lora_alpha,
        "description": manifest.description,
        **{f"metrics.{searchable(key)}": value for key, value in manifest.metrics.items()},
        **{f"tag.{searchable(key)}": value for key, value in manifest.tags.items()},
        **{f"lineage.{key}": str(value) for key, value in lineage.items()},
    }


def searchable(text: str) -> str:
    """The beginning of a text, as it is stored and searched for; PostgreSQL keeps no NUL."""
    return text[:MAX_TEXT].replace("\0", "\ufffd")
