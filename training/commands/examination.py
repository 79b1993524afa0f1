"""`--evaluate` and `--require` of `hotswap train`: known before training, asked after it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.commands.reports import print_report, print_status, write_report
from hotswap.training.evaluation.gate import Requirement
from hotswap.training.evaluation.session import RegistryOnDemand, open_session, sources_of

if TYPE_CHECKING:
    from hotswap.registry.bundles.bundle import Bundle
    from hotswap.registry.domain.policy import Condition
    from hotswap.serving.base_model import BaseDirectory
    from hotswap.training.evaluation.evaluate import EvalSet
    from hotswap.training.runs.run import Run


@dataclass(frozen=True)
class Examination:
    """What is asked of an adapter once it is trained. Invariant: the set was read, and every
    metric of the requirement is one that the set measures."""

    base: BaseDirectory
    asked: EvalSet
    requirement: Requirement | None
    names: dict[str, str]

    @classmethod
    def prepare(
        cls, data: Path, requirement: Requirement | None, name: str | None, base: BaseDirectory
    ) -> Examination:
        """Raises InvalidData for the rows, InvalidRequest for a metric that is not measured or an
        alias of an adapter without a name."""
        from hotswap.training.evaluation.evaluate import EvalSet

        names = sources_of(requirement, name)
        asked = EvalSet.read(data, base)
        if requirement is not None:
            requirement.require_known(asked.metric_names)
        return cls(base, asked, requirement, names)

    def hold(self, run: Run, location: str | None) -> tuple[Bundle, Condition | None]:
        """Ask the run's adapter in a fresh engine; let adapter and record state the metrics, and
        write the report beside them. The adapter with its metrics, and whether it meets the
        requirement."""
        with ExitStack() as stack:
            registry = RegistryOnDemand(location, stack)
            session = stack.enter_context(open_session(self.base, registry, print_status))
            evaluated = ("the adapter", session.target(str(run.adapter)))
            report, verdict = session.measure(self.asked, evaluated, self.names, self.requirement)
        bundle = run.state_metrics(report.values())
        print_report(report)
        page = run.directory / "evaluation.html"
        write_report(
            report,
            {"base": self.base.model_id, "data": self.asked.about(), "seed": 0},
            verdict,
            report_file=run.directory / "evaluation.json",
            html_file=page,
            curve=run.directory / "curve.csv",
        )
        click.echo(f"report   {page}")
        return bundle, verdict


def read_requirement(text: str | None, evaluated: Path | None) -> Requirement | None:
    """Raises InvalidRequest for what is no requirement, or when nothing would be evaluated."""
    if text is None:
        return None
    if evaluated is None:
        raise InvalidRequest("--require needs --evaluate FILE: the rows that are asked")
    return Requirement.parse(text)
