"""An evaluation of one adapter beside others: whom it is asked of, and by which engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import AliasNotFound, InvalidRequest, NotFound
from hotswap.registry.domain.policy import Condition
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section
from hotswap.training.evaluation.gate import OWN, Requirement, Values

if TYPE_CHECKING:  # torch comes with these; help is printed without it
    from hotswap.serving.base_model import BaseDirectory
    from hotswap.serving.requests.resolver import Target
    from hotswap.training.evaluation.engine import FreshEngine
    from hotswap.training.evaluation.evaluate import EvalSet
    from hotswap.training.evaluation.report import EvalReport

BASE = "base"


class OpenedRegistry:
    """The registry, connected to when something of it is first asked for."""

    def __init__(self, location: str | None, stack: ExitStack) -> None:
        self._location = location
        self._stack = stack
        self._registry: AdapterRegistry | None = None

    def get(self) -> AdapterRegistry:
        if self._registry is None:
            from hotswap.registry.connect import connect

            settings = read_section("registry", RegistrySettings)
            opened = connect(self._location, settings, read_home(Home))
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
    *,
    hear: Callable[[str], None],
) -> tuple[EvalReport, Condition | None]:
    """The report, beside everybody in `names` (source in a requirement → base or reference), and
    what a requirement comes to. An alias of `names` that points nowhere is left out; what else
    is not there raises NotFound."""
    from hotswap.training.evaluation.evaluate import evaluate as evaluate_set

    others: list[tuple[str, Target]] = []
    at: dict[str, int | None] = {}
    for source, name in names.items():
        target = _other(engine, evaluated[1], name, source, registry)
        at[source] = None if target is None else len(others)
        if target is not None:
            others.append((name, target))
    report = evaluate_set(engine, base, asked, evaluated, others, seed=seed, hear=hear)
    values: dict[str, dict[str, float] | None] = {OWN: report.values()}
    for source, index in at.items():
        found = None if index is None else report.comparisons[index].metrics
        values[source] = None if found is None else {n: e.value for n, e in found.items()}
    judged: Values = values
    return report, None if requirement is None else requirement.judge(judged)


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
    from hotswap.serving.settings import ServingSettings

    configured = read_section("serving", ServingSettings).base
    if adapter is None:
        return configured
    if Path(adapter).is_dir():
        from hotswap.registry.bundles.bundle import Bundle

        bundle = Bundle.read(Path(adapter))
        stated = bundle.metadata.base
        return stated.model_id if stated else bundle.stated_base or configured
    version = registry.get().versions.resolve(AdapterRef.parse(adapter))
    return registry.get().versions.manifest(version.manifest_digest).base.model_id
