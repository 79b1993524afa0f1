"""From options to what a training starts from; what is wrong with its rows goes to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotswap.training.spec import TrainingSpec

if TYPE_CHECKING:
    from hotswap.serving.base_model import BaseDirectory
    from hotswap.serving.settings import ServingHome
    from hotswap.training.data.checks.findings import Finding
    from hotswap.training.prepare import Prepared

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Setup:
    """Invariant: `prepared` holds the rows of `spec`, rendered and tokenised for `base`."""

    spec: TrainingSpec
    base: BaseDirectory
    prepared: Prepared

    @classmethod
    def make(cls, spec: TrainingSpec, home: ServingHome) -> Setup:
        """Fetches the base where it is missing, reads the rows and prints what is wrong with them.
        Raises what `provide_base` and `prepare` raise."""
        from hotswap.serving.base_model import provide_base, quiet_libraries

        quiet_libraries()  # before torch and transformers come with `prepare`
        from hotswap.training.prepare import prepare

        base = provide_base(spec.base, home.bases)
        prepared = prepare(spec, base)
        print_findings(prepared.findings)
        return cls(spec, base, prepared)

    def require_usable_rows(self) -> None:
        """Raises InvalidData when a finding is an error."""
        from hotswap.training.data.checks.findings import refuse

        refuse(self.prepared.findings)


def spec_values(data: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a TrainingSpec that were given on the command line."""
    values = {"data": data, **options}
    modules = options.get("target_modules")
    if modules not in (None, "all-linear"):
        values["target_modules"] = tuple(modules.split(","))
    return {name: value for name, value in values.items() if value is not None}


def print_findings(findings: Sequence[Finding]) -> None:
    for code in dict.fromkeys(finding.code for finding in findings):
        alike = [finding for finding in findings if finding.code == code]
        for finding in alike[:_LISTED]:
            click.echo(str(finding), err=True)
        if len(alike) > _LISTED:
            click.echo(f"{alike[0].severity}: {len(alike) - _LISTED} more [{code}]", err=True)
