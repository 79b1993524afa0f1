"""Pushes that the contract suites start with."""

from __future__ import annotations

from pathlib import Path

from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.protocol import AdapterRegistry
from tests.registry.bundles import read_bundle

NAME = "team/sql"


def push_version(
    registry: AdapterRegistry, tmp_path: Path, seed: int, name: str = NAME, alias: str | None = None
) -> AdapterVersion:
    directory = tmp_path / f"{name.replace('/', '-')}-{seed}-{alias}"
    bundle, manifest = read_bundle(directory, seed)
    return push(registry, name, bundle, manifest, by="ann", alias=alias, why=f"seed {seed}")
