"""What differs between two versions, in their manifests and in their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hotswap.registry.bundles.changes import (
    AdapterWeights,
    LayerChange,
    layer_changes,
    total_change,
)
from hotswap.registry.bundles.peft_config import MAGNITUDE, WEIGHTS_FILE
from hotswap.registry.bundles.transfer import fetch_file
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.values import ValueObject


class FieldChange(ValueObject):
    """A field's value in both; None where it is not stated. Of `lora.modules`, those the other
    version lacks."""

    field: str
    a: Any
    b: Any


class MetricChange(ValueObject):
    """A metric in both; the difference b − a where both have it."""

    metric: str
    a: float | None
    b: float | None
    difference: float | None


class VersionComparison(ValueObject):
    """Only what differs; `layers` has every layer. `change` is that of all layers together."""

    a: AdapterVersion
    b: AdapterVersion
    config: tuple[FieldChange, ...]
    metrics: tuple[MetricChange, ...]
    data: tuple[FieldChange, ...]
    about: tuple[FieldChange, ...]
    files: tuple[FieldChange, ...]
    layers: tuple[LayerChange, ...]
    change: float | None
    notes: tuple[str, ...]


def compare(registry: AdapterRegistry, a: AdapterRef, b: AdapterRef) -> VersionComparison:
    """Compare what two references mean now. Reads both weights files through the registry."""
    versions = [registry.versions.resolve(ref) for ref in (a, b)]
    one, other = (registry.versions.manifest(version.manifest_digest) for version in versions)
    layers, notes = _weights(registry, one, other)
    fields = [_fields(manifest) for manifest in (one, other)]
    return VersionComparison(
        a=versions[0],
        b=versions[1],
        config=_differing(fields, "base", "lora", "prompt"),
        metrics=tuple(_metrics(one.metrics, other.metrics)),
        data=_differing(fields, "provenance", "lineage"),
        about=_differing(fields, "description", "tags"),
        files=_differing(fields, "files"),
        layers=tuple(layers),
        change=total_change(layers),
        notes=(*_base_notes(one, other), *notes),
    )


def _weights(
    registry: AdapterRegistry, a: Manifest, b: Manifest
) -> tuple[list[LayerChange], list[str]]:
    with TemporaryDirectory() as directory, ExitStack() as stack:
        opened = []
        for side, manifest in (("A", a), ("B", b)):
            path = Path(directory) / side
            fetch_file(registry, manifest.file(WEIGHTS_FILE), path)
            opened.append(stack.enter_context(AdapterWeights(path, manifest.lora)))
        notes = [
            note
            for side, weights in zip("AB", opened, strict=True)
            for note in _left_out(side, weights.other_tensors)
        ]
        return layer_changes(*opened), notes


def _left_out(side: str, other_tensors: Sequence[str]) -> Iterator[str]:
    """What the layers' figures leave out."""
    if any(MAGNITUDE in name for name in other_tensors):
        yield (
            f"{side} is a DoRA adapter: the change is that of its low-rank part B·A alone; its "
            "magnitudes rescale the base's weights, which the registry does not have"
        )
    if rest := [name for name in other_tensors if MAGNITUDE not in name]:
        yield f"{side} holds {len(rest)} other tensors that are not compared ({rest[0]})"


def _base_notes(a: Manifest, b: Manifest) -> Iterator[str]:
    if differing := a.base.mismatches(b.base):
        yield f"the versions belong to different bases; they differ in {', '.join(differing)}"


def _fields(manifest: Manifest) -> dict[str, Any]:
    """Dotted name → value of everything in the manifest but its metrics and probes."""
    document = manifest.model_dump(mode="json", exclude={"metrics", "probes", "files"})
    files = {f"files.{file.file_name}": str(file.digest) for file in manifest.files}
    return {**dict(_flat("", document)), **files}


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value


def _differing(fields: Sequence[dict[str, Any]], *sections: str) -> tuple[FieldChange, ...]:
    a, b = fields
    names = sorted(n for n in a.keys() | b.keys() if n.partition(".")[0] in sections)
    return tuple(_field(n, a.get(n), b.get(n)) for n in names if a.get(n) != b.get(n))


def _field(name: str, a: Any, b: Any) -> FieldChange:
    if name == "lora.modules":
        a, b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    return FieldChange(field=name, a=a, b=b)


def _metrics(a: dict[str, float], b: dict[str, float]) -> Iterator[MetricChange]:
    for key in sorted(a.keys() | b.keys()):
        before, after = a.get(key), b.get(key)
        if before != after:
            difference = None if before is None or after is None else after - before
            yield MetricChange(metric=key, a=before, b=after, difference=difference)
