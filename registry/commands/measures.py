"""What `hotswap ls` can sort versions by and show beside them: their size and their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hotswap.registry.commands.tables import Row, size_text
from hotswap.registry.commands.times import time_text
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.protocol import AdapterRegistry

SIZE, METRICS = "size", "metrics."
_PLAIN = ("name", "created", SIZE)


@dataclass(frozen=True)
class MeasuredVersion:
    """A version with its manifest, which states size and metrics."""

    version: AdapterVersion
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.manifest.files)


def check_sort(field: str) -> str:
    """Raises InvalidRequest for what versions cannot be sorted by."""
    if field not in _PLAIN and (not field.startswith(METRICS) or field == METRICS):
        raise InvalidRequest(
            f"--sort {field!r} is no field to sort by; give {', '.join(_PLAIN)} or metrics.NAME"
        )
    return field


def measure(registry: AdapterRegistry, versions: Sequence[AdapterVersion]) -> list[MeasuredVersion]:
    return [
        MeasuredVersion(each, registry.versions.manifest(each.manifest_digest)) for each in versions
    ]


def sort_versions(measured: Sequence[MeasuredVersion], field: str) -> list[MeasuredVersion]:
    """By name and number, or the newest, largest or best first; those without the metric last."""
    by_name = sorted(measured, key=lambda each: (each.version.name, each.version.number))
    if field == "name":
        return by_name
    if field == "created":
        return sorted(by_name, key=lambda each: each.version.created_at, reverse=True)
    if field == SIZE:
        return sorted(by_name, key=lambda each: -each.size_bytes)
    metric = field.removeprefix(METRICS)
    return sorted(by_name, key=lambda each: -each.manifest.metrics.get(metric, float("-inf")))


def measured_rows(measured: Sequence[MeasuredVersion]) -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        (
            str(each.version.ref),
            each.version.manifest_digest.short,
            size_text(each.size_bytes),
            each.version.created_by,
            time_text(each.version.created_at),
            ", ".join(f"{key}={value:g}" for key, value in each.manifest.metrics.items()) or "-",
        )
        for each in measured
    ]
    return ("VERSION", "DIGEST", "SIZE", "BY", "AT", "METRICS"), rows
