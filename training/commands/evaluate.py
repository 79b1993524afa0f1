"""`hotswap evaluate`: asks an adapter, and what it is compared with, the questions of a file.

Torch is imported only when the asking starts, so that help is quick.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from hotswap.registry.commands.parts import registry_option
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import read_home
from hotswap.training.commands.reports import (
    print_report,
    print_status,
    report_options,
    require_met,
    write_report,
)
from hotswap.training.evaluation.gate import Requirement
from hotswap.training.evaluation.session import (
    BASE,
    RegistryOnDemand,
    base_of,
    open_session,
    sources_of,
)
from hotswap.training.settings import TrainingHome


@click.command(
    epilog="\b\nExample:\n"
    "  hotswap evaluate test.jsonl --adapter orders-v1 --against base,team/orders@prod \\\n"
    "    --require 'em >= 0.9 and em >= prod.em' --html report.html",
    cls=RenamedOptions,
    json_was_file=True,
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--adapter", metavar="DIR|REF", help="What is evaluated; the base without it.")
@click.option(
    "--against",
    default="",
    metavar="LIST",
    help="What it is compared with, by commas: base, references; @prod is the adapter's own alias.",
)
@click.option("--metrics", default="", metavar="LIST", help="By commas; all that fit by default.")
@click.option("--require", "required", metavar="EXPR", help="Exit with an error unless it holds.")
@click.option(
    "--base",
    "base_name",
    metavar="MODEL",
    help="The base model; default: the one the adapter names.",
)
@click.option("--max-rows", type=click.IntRange(1), help="Ask only a seeded sample of so many.")
@click.option("--max-tokens", type=click.IntRange(1), help="The most tokens of an answer.")
@click.option("--seed", default=0, show_default=True, help="Of samples, intervals and tests.")
@report_options
@registry_option
def evaluate(
    data: Path,
    adapter: str | None,
    against: str,
    metrics: str,
    required: str | None,
    base_name: str | None,
    max_rows: int | None,
    max_tokens: int | None,
    seed: int,
    as_json: bool,
    report_file: Path | None,
    html_file: Path | None,
    location: str | None,
) -> None:
    """Ask an adapter the questions of DATA, a file of rows as `hotswap train` takes them.

    A fresh engine answers, quantized as HOTSWAP_SERVING_* says. The last answer of a row is the one
    expected. `base.X` and `prod.X` in --require are the metrics of the base and of the adapter's
    own alias.
    """
    requirement = None if required is None else Requirement.parse(required)
    with ExitStack() as stack:
        registry = RegistryOnDemand(location, stack)
        own = _own_name(adapter)
        names = _names(against, requirement, own)
        from hotswap.serving.base_model import provide_base, quiet_libraries

        quiet_libraries()
        from hotswap.training.evaluation.evaluate import EvalSet

        home = read_home(TrainingHome)
        base = provide_base(base_name or base_of(adapter, registry), home.bases)
        asked = EvalSet.read(
            data,
            base,
            chosen=_listed(metrics),
            max_rows=max_rows,
            max_tokens=max_tokens,
            seed=seed,
        )
        if requirement is not None:
            requirement.require_known(asked.metric_names)
        session = stack.enter_context(open_session(base, registry, print_status))
        evaluated = (adapter or BASE, session.target(adapter))
        report, verdict = session.measure(asked, evaluated, names, requirement, seed=seed)
    if not as_json:
        print_report(report)
    about = {"base": base.model_id, "data": asked.about(), "seed": seed}
    write_report(
        report, about, verdict, report_file=report_file, html_file=html_file, as_json=as_json
    )
    if verdict is not None:
        require_met(verdict, quiet=as_json)


def _names(against: str, requirement: Requirement | None, own: str | None) -> dict[str, str]:
    names = sources_of(requirement, own)
    for name in _listed(against):
        if name.startswith("@") and own is None:
            raise InvalidRequest(f"--against {name} needs an adapter with a name")
        full = f"{own}{name}" if name.startswith("@") else name
        if full not in names.values():
            names[full] = full
    return names


def _own_name(adapter: str | None) -> str | None:
    if adapter is None or Path(adapter).is_dir():
        return None
    return AdapterRef.parse(adapter).name


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
