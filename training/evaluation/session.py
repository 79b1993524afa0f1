"""An evaluation of one adapter beside others: who is asked, on which engine. Prints nothing.

Torch comes with the engine only, so that a command's help is printed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import InvalidRequest, NotFound
from hotswap.registry.domain.policy import Condition
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section
from hotswap.training.evaluation.gate import OWN, Requirement, Values

if TYPE_CHECKING:
    from hotswap.serving.base_model import BaseDirectory
    from hotswap.serving.requests.resolver import Target
    from hotswap.training.evaluation.engine import FreshEngine
    from hotswap.training.evaluation.evaluate import EvalSet
    from hotswap.training.evaluation.report import EvalReport

BASE = "base"


class RegistryOnDemand:
    """Invariant: it is connected to when it is first used, and then once."""

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


@dataclass(frozen=True, slots=True)
class EvalSession:
    """Invariant: `engine` runs on `base`. References name versions in `registry`; `notify` takes a
    line for people before each adapter is asked."""

    base: BaseDirectory
    engine: FreshEngine
    registry: RegistryOnDemand
    notify: Callable[[str], None]

    def target(self, adapter: str | None) -> Target:
        """A PEFT directory's adapter, the version that a reference means, or the base (None)."""
        if adapter is None:
            return self.engine.base()
        if Path(adapter).is_dir():
            return self.engine.load(Path(adapter))
        return self._version(adapter)

    def measure(
        self,
        asked: EvalSet,
        evaluated: tuple[str, Target],
        names: dict[str, str],
        requirement: Requirement | None,
        *,
        seed: int = 0,
    ) -> tuple[EvalReport, Condition | None]:
        """The report of `evaluated` beside everybody in `names` (source in a requirement → base or
        reference), and what a requirement comes to.

        An alias of `names` that points nowhere is left out; what else is not there raises NotFound.
        """
        from hotswap.training.evaluation.evaluate import evaluate

        targets = {source: self._other(evaluated[1], names[source], source) for source in names}
        others = [
            (names[source], target) for source, target in targets.items() if target is not None
        ]
        report = evaluate(
            self.engine, self.base, asked, evaluated, others, seed=seed, notify=self.notify
        )
        return report, None if requirement is None else requirement.judge(_values(report, targets))

    def _other(self, evaluated: Target, name: str, source: str) -> Target | None:
        """The base is asked in the evaluated's prompt format: only the weights differ."""
        if name == BASE:
            return self.engine.base(evaluated.prompt)
        try:
            return self._version(name)
        except NotFound:
            if source == name:  # it was asked for by name, and not as an alias to be better than
                raise
            return None

    def _version(self, reference: str) -> Target:
        return self.engine.load_version(self.registry.get(), AdapterRef.parse(reference))


@contextmanager
def open_session(
    base: BaseDirectory, registry: RegistryOnDemand, notify: Callable[[str], None]
) -> Iterator[EvalSession]:
    """A session with a fresh engine, quantized as HOTSWAP_SERVING_* says."""
    from hotswap.serving.settings import ServingSettings
    from hotswap.training.evaluation.engine import fresh_engine

    with fresh_engine(base, read_section("serving", ServingSettings)) as engine:
        yield EvalSession(base, engine, registry, notify)


def sources_of(requirement: Requirement | None, own: str | None) -> dict[str, str]:
    """Whom a requirement compares with: `base`, and aliases of `own`. Raises InvalidRequest when
    an alias is named and there is no name that it could be of."""
    names: dict[str, str] = {}
    for source in requirement.sources if requirement else ():
        if source != BASE and own is None:
            raise InvalidRequest(
                f"the requirement names {source}, an alias of the adapter's name, and it has none;"
                " evaluate a reference, or train with --push NAME"
            )
        names[source] = BASE if source == BASE else f"{own}@{source}"
    return names


def base_of(adapter: str | None, registry: RegistryOnDemand) -> str:
    """The base model that an adapter names, or the one that a server is configured with."""
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


def _values(report: EvalReport, targets: Mapping[str, Target | None]) -> Values:
    """What a requirement reads: the metrics by source, in the order of the comparisons."""
    values: dict[str, dict[str, float] | None] = {OWN: report.values()}
    comparisons = iter(report.comparisons)
    for source, target in targets.items():
        values[source] = None if target is None else next(comparisons).values()
    return values
