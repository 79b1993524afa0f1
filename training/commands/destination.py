"""Where `hotswap train` leaves an adapter: its run's directory, another one, a registry."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hotswap.registry.domain.adapters import check_name
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import Home, RegistrySettings, read_section, read_user

if TYPE_CHECKING:
    from hotswap.registry.bundles.bundle import Bundle
    from hotswap.registry.domain.policy import Condition
    from hotswap.training.runs.run import Run

CANDIDATE = "candidate"
"""The alias that a requirement guards when none is named."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Invariant: an alias and a registry are named only together with an adapter's name."""

    directory: Path | None
    name: str | None
    alias: str | None
    registry: str | None

    @classmethod
    def read(
        cls, directory: Path | None, name: str | None, alias: str | None, registry: str | None
    ) -> Destination:
        """Raises InvalidReference for what is no name, InvalidRequest for what needs one."""
        if name is not None:
            check_name(name)
        elif alias is not None or registry is not None:
            raise InvalidRequest("--alias and --registry need --push NAME")
        return cls(directory, name, alias, registry)

    def require_absent(self) -> None:
        """Raises Conflict when the directory is there already."""
        from hotswap.training.runs.publish import require_absent

        if self.directory is not None:
            require_absent(self.directory)

    def place(self, bundle: Bundle) -> Bundle:
        """The bundle in the directory that was asked for, or where it is when none was."""
        if self.directory is None:
            return bundle
        from hotswap.registry.bundles.bundle import Bundle

        shutil.copytree(bundle.directory, self.directory, dirs_exist_ok=True)
        return Bundle.read(self.directory)

    def push(
        self, bundle: Bundle, run: Run, requirement: Condition | None, *, why: str, home: Home
    ) -> None:
        """Push the adapter under its name. Without a name, print how to.

        A requirement that holds moves the alias, or CANDIDATE; one that fails moves none.
        """
        if self.name is None:
            click.echo(
                f"push it with: hotswap push {bundle.directory} NAME --alias prod --run {run.id}"
            )
            return
        from hotswap.registry.bundles.transfer import push
        from hotswap.registry.connect import connect

        alias = self._alias_after(requirement)
        manifest = bundle.manifest(lineage=run.lineage)
        settings = read_section("registry", RegistrySettings)
        with connect(self.registry, settings, home) as registry:
            version = push(
                registry, self.name, bundle, manifest, by=read_user(), alias=alias, why=why
            )
        click.echo(f"pushed {version.ref} {version.manifest_digest}")
        if alias is not None:
            click.echo(f"{self.name}@{alias} points to version {version.number}")

    def _alias_after(self, requirement: Condition | None) -> str | None:
        if requirement is None:
            return self.alias
        return (self.alias or CANDIDATE) if requirement.holds else None
