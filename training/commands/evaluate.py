"""`hotswap evaluate`: asks an adapter, and what it is compared with, the questions of a file.

Torch is imported only when the asking starts, so that help is quick.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.adapters import AdapterRef
from registry.errors import AliasNotFound, InvalidRequest, NotFound
from registry.settings import RegistrySettings, read_home, read_section
from training.evaluation.gate import OWN, Requirement, RequirementNotMet, Values

if TYPE_CHECKING:
    from registry.protocol import AdapterRegistry
    from registry.release.policy import Condition
    from serving.base_model import BaseDirectory
    from serving.resolver import Target
    from training.evaluation.engine import FreshEngine
    from training.evaluation.evaluate import EvalSet
    from training.evaluation.report import EvalReport

BASE = "base"


@click.command(
    epilog="\b\nExample:\n"
    "  hotswap evaluate test.jsonl --adapter orders-v1 --against base,team/orders@prod \\\n"
    "    --require 'em >= 0.9 and em >= prod.em' --html report.html",
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
@click.option("--base", "base_name", help="The base model; default: the one the adapter names.")
@click.option("--max-rows", type=click.IntRange(1), help="Ask only a seeded sample of so many.")
@click.option("--max-tokens", type=click.IntRange(1), help="The most tokens of an answer.")
@click.option("--seed", default=0, show_default=True, help="Of samples, intervals and tests.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write the page here.")
@click.option("--registry", "location", metavar="WHERE", help="The registry's URL or store.")
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
    json_file: Path | None,
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
        registry = OpenedRegistry(location, stack)
        own = _own_name(adapter)
        names = _names(against, requirement, own)
        from serving.base_model import provide_base, quiet_libraries
        from serving.settings import ServingSettings

        quiet_libraries()
        from training.evaluation.engine import fresh_engine
        from training.evaluation.evaluate import EvalSet

        home = read_home()
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
        engine = stack.enter_context(fresh_engine(base, read_section("serving", ServingSettings)))
        target = target_of(engine, adapter, registry)
        report, verdict = measure(
            engine, base, asked, (adapter or BASE, target), names, registry, requirement, seed
        )
    print_report(report)
    about = {"base": base.model_id, "data": asked.about(), "seed": seed}
    write_report(report, about, verdict, json_file=json_file, html_file=html_file)
    if verdict is not None:
        require_met(verdict)


class OpenedRegistry:
    """The registry, connected to when something of it is first asked for."""

    def __init__(self, location: str | None, stack: ExitStack) -> None:
        self._location = location
        self._stack = stack
        self._registry: AdapterRegistry | None = None

    def get(self) -> AdapterRegistry:
        if self._registry is None:
            from registry.connect import connect

            settings = read_section("registry", RegistrySettings)
            opened = connect(self._location, settings, read_home())
            self._registry = self._stack.enter_context(opened)
        return self._registry


def measure(
    engine: FreshEngine,
    base: BaseDirectory,
    asked: EvalSet,
    evaluated: tuple[str, Target],
    names: dict[str, str],
    registry: OpenedRegistry,
    requirement: Requirement | None,
    seed: int = 0,
) -> tuple[EvalReport, Condition | None]:
    """The report, beside everybody in `names` (source in a requirement → base or reference), and
    what a requirement comes to. An alias of `names` that points nowhere is left out; what else
    is not there raises NotFound."""
    from training.evaluation.evaluate import evaluate as evaluate_set

    others: list[tuple[str, Target]] = []
    at: dict[str, int | None] = {}
    for source, name in names.items():
        target = _other(engine, evaluated[1], name, source, registry)
        at[source] = None if target is None else len(others)
        if target is not None:
            others.append((name, target))
    report = evaluate_set(engine, base, asked, evaluated, others, seed=seed, hear=say)
    values: dict[str, dict[str, float] | None] = {OWN: report.values()}
    for source, index in at.items():
        found = None if index is None else report.comparisons[index].metrics
        values[source] = None if found is None else {n: e.value for n, e in found.items()}
    judged: Values = values
    return report, None if requirement is None else requirement.judge(judged)


def print_report(report: EvalReport) -> None:
    click.echo(f"{report.name}: {report.num_rows} rows")
    for name, found in report.metrics.items():
        click.echo(f"  {name:<16} {found.value:9.4g}  ({found.low:.4g} to {found.high:.4g})")
    for other in report.comparisons:
        click.echo(f"beside {other.name}")
        for name, difference in other.differences.items():
            found = difference.estimate
            click.echo(
                f"  {name:<16} {other.metrics[name].value:9.4g}  {found.value:+.4g}"
                f" ({found.low:+.4g} to {found.high:+.4g}), p = {difference.p_value:.3g}"
            )


def write_report(
    report: EvalReport,
    about: dict[str, Any],
    verdict: Condition | None,
    *,
    json_file: Path | None,
    html_file: Path | None,
    curve: Path | None = None,
) -> None:
    from training.evaluation.page import page

    judged = None if verdict is None else verdict.model_dump(mode="json")
    if json_file is not None:
        value = report.as_json({**about, "requirement": judged})
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        json_file.write_text(text + "\n", encoding="utf-8")
    if html_file is not None:
        facts = {"base": about["base"], **about["data"], "seed": about["seed"]}
        text = page(report, facts.pop("file_name"), facts, curve=curve, verdict=verdict)
        html_file.write_text(text, encoding="utf-8")


def require_met(verdict: Condition) -> None:
    """Prints what a requirement came to; raises RequirementNotMet when it does not hold."""
    if not verdict.holds:
        raise RequirementNotMet(
            f"required: {verdict.asked}; found: {verdict.found}; {verdict.to_do}",
            condition=verdict.model_dump(mode="json"),
        )
    click.echo(f"required: {verdict.asked}; found: {verdict.found}; it holds")


def sources_of(requirement: Requirement | None, own: str | None) -> dict[str, str]:
    """Whom a requirement compares with: `base`, and aliases of `own`. Raises InvalidRequest when
    an alias is named and there is no name that it could be of."""
    found: dict[str, str] = {}
    for source in requirement.sources if requirement else ():
        if source != BASE and own is None:
            raise InvalidRequest(
                f"the requirement names {source}, an alias of the adapter's name, and it has none;"
                " evaluate a reference, or train with --push NAME"
            )
        found[source] = BASE if source == BASE else f"{own}@{source}"
    return found


def _names(against: str, requirement: Requirement | None, own: str | None) -> dict[str, str]:
    names = sources_of(requirement, own)
    for name in _listed(against):
        if name.startswith("@") and own is None:
            raise InvalidRequest(f"--against {name} needs an adapter with a name")
        full = f"{own}{name}" if name.startswith("@") else name
        if full not in names.values():
            names[full] = full
    return names


def _other(
    engine: FreshEngine, evaluated: Target, name: str, source: str, registry: OpenedRegistry
) -> Target | None:
    """The base is asked in the evaluated's prompt format: only the weights differ."""
    if name == BASE:
        return engine.base(evaluated.prompt)
    try:
        return engine.load_version(registry.get(), AdapterRef.parse(name))
    except (AliasNotFound, NotFound):
        if source == name:  # it was asked for by name, and not as an alias to be better than
            raise
        return None


def target_of(engine: FreshEngine, adapter: str | None, registry: OpenedRegistry) -> Target:
    if adapter is None:
        return engine.base()
    if Path(adapter).is_dir():
        return engine.load(Path(adapter))
    return engine.load_version(registry.get(), AdapterRef.parse(adapter))


def base_of(adapter: str | None, registry: OpenedRegistry) -> str:
    from serving.settings import ServingSettings

    configured = read_section("serving", ServingSettings).base
    if adapter is None:
        return configured
    if Path(adapter).is_dir():
        from registry.bundles.bundle import Bundle

        bundle = Bundle.read(Path(adapter))
        stated = bundle.metadata.base
        return stated.model_id if stated else bundle.stated_base or configured
    version = registry.get().resolve(AdapterRef.parse(adapter))
    return registry.get().manifest(version.manifest_digest).base.model_id


def _own_name(adapter: str | None) -> str | None:
    if adapter is None or Path(adapter).is_dir():
        return None
    return AdapterRef.parse(adapter).name


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def say(text: str) -> None:
    click.echo(text, err=True)
