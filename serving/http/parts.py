"""What serving is made of, built in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hotswap.registry.domain.manifest import BaseFingerprint, Manifest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.settings import Home, read_toml
from hotswap.serving.adapters.cache import AdapterCache
from hotswap.serving.adapters.lora import read_lora_weights
from hotswap.serving.aliases.follower import Follower
from hotswap.serving.aliases.seen_moves import SeenMoves
from hotswap.serving.aliases.trust import Trust, TrustPolicy
from hotswap.serving.aliases.version_table import VersionTable
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.engine.engine import Engine
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.engine.scheduler import Limits
from hotswap.serving.execution.probes import check_text
from hotswap.serving.execution.runner import MAX_PROBE_ROWS, ModelRunner, PreparedAdapter
from hotswap.serving.models import Model
from hotswap.serving.models.choice import Placement, make_model
from hotswap.serving.requests.deliveries import Deliveries
from hotswap.serving.requests.inference import Inference
from hotswap.serving.requests.request_log import RequestLog
from hotswap.serving.requests.resolver import Resolver, Servable
from hotswap.serving.settings import PROBE_TOLERANCES, ServingHome, ServingSettings


@dataclass(frozen=True, slots=True)
class ServingSurroundings:
    """What serving stands on: the registry, the directories of this machine, and the base with
    the model that was made of it."""

    settings: ServingSettings
    registry: AdapterRegistry
    places: ServingHome
    base: BaseDirectory
    placement: Placement
    model: Model

    @classmethod
    def of(
        cls,
        settings: ServingSettings,
        registry: AdapterRegistry,
        home: Home,
        base: BaseDirectory | None,
    ) -> ServingSurroundings:
        """Loads and quantizes `base`, or the one that the settings name; raises BaseNotFound."""
        places = ServingHome(home.root)
        base = base or provide_base(settings.base, places.bases)
        placement = Placement.of(settings)
        model = make_model(settings, placement, base)
        _use_one_thread()  # here and wherever adapters are read: see Model.attach
        return cls(settings, registry, places, base, placement, model)

    @property
    def max_model_len(self) -> int:
        """Tokens of a prompt and its answer together."""
        return min(self.model.max_positions, self.settings.kv_cache_tokens // PAGE * PAGE)

    @property
    def fingerprint(self) -> BaseFingerprint:
        return self.base.fingerprint(self.placement.quantization.value)


@dataclass(frozen=True, slots=True)
class Execution:
    """What computes: adapters in memory, the runner, the engine, and what hands its tokens on."""

    runner: ModelRunner
    adapters: AdapterCache[PreparedAdapter]
    engine: Engine[PreparedAdapter]
    deliveries: Deliveries

    @classmethod
    def over(cls, around: ServingSurroundings) -> Execution:
        settings, model = around.settings, around.model
        runner = ModelRunner(
            model,
            probe_tolerance=settings.probe_tolerance
            or PROBE_TOLERANCES[around.placement.quantization],
            max_probe_rows=min(MAX_PROBE_ROWS, settings.prefill_chunk),
        )
        deliveries = Deliveries()
        adapters = _adapters(around, runner)
        engine = Engine(
            runner,
            adapters,
            _limits(settings, model),
            max_loras=model.room.num_slots,
            max_num_waiting=settings.max_num_waiting,
            after_step=deliveries.hand_over,
        )
        adapters.on_arrival = engine.wake
        return cls(runner, adapters, engine, deliveries)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What pins a request to versions, and what keeps that knowledge current."""

    resolver: Resolver
    follower: Follower

    @classmethod
    def over(
        cls, around: ServingSurroundings, adapters: AdapterCache[PreparedAdapter]
    ) -> Resolution:
        """Raises InvalidSettings for the trust file."""
        settings, registry, base = around.settings, around.registry, around.base
        policy = read_toml(settings.trust, TrustPolicy) if settings.trust else TrustPolicy()
        trust = Trust(policy, registry, SeenMoves(around.places.seen_moves))
        versions = VersionTable(
            registry, max_age_s=settings.alias_max_age_s, grace_s=settings.alias_grace_s
        )
        resolver = Resolver(registry, versions, trust, _servable(around), base.prompt_format())
        follower = Follower(
            registry,
            versions,
            base=base.model_id,
            loaded=adapters.held,
            check=resolver.resolve,
        )
        return cls(resolver, follower)


@dataclass(frozen=True, slots=True)
class ServingParts:
    """One of each over one base and one registry."""

    around: ServingSurroundings
    execution: Execution
    resolution: Resolution
    request_log: RequestLog | None
    inference: Inference

    @classmethod
    def over(
        cls,
        settings: ServingSettings,
        registry: AdapterRegistry,
        home: Home,
        base: BaseDirectory | None,
    ) -> ServingParts:
        """Raises BaseNotFound, or InvalidSettings for the trust file or the request log."""
        request_log = _request_log(settings, ServingHome(home.root))
        around = ServingSurroundings.of(settings, registry, home, base)
        execution = Execution.over(around)
        resolution = Resolution.over(around, execution.adapters)
        inference = Inference(
            base=around.base,
            resolver=resolution.resolver,
            engine=execution.engine,
            deliveries=execution.deliveries,
            max_model_len=around.max_model_len,
            default_max_tokens=settings.default_max_tokens,
            request_log=request_log,
        )
        return cls(around, execution, resolution, request_log, inference)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _adapters(around: ServingSurroundings, runner: ModelRunner) -> AdapterCache[PreparedAdapter]:
    base, settings = around.base, around.settings

    def read(path: Path, manifest: Manifest) -> PreparedAdapter:
        check_text(manifest.probes, manifest.prompt or base.prompt_format(), base.tokenizer)
        return runner.prepare(read_lora_weights(path, manifest.lora, manifest.probes))

    return AdapterCache(
        around.registry,
        around.places.adapter_cache,
        read,
        max_cpu_loras=settings.max_cpu_loras,
        max_bytes=settings.adapter_memory_gb * 1e9,
        size_of=lambda adapter: adapter.num_bytes,
        prepare_thread=_use_one_thread,
    )


def _request_log(settings: ServingSettings, home: ServingHome) -> RequestLog | None:
    if not settings.request_patterns:
        return None
    return RequestLog(
        settings.request_log_directory or home.requests,
        patterns=settings.request_patterns,
        sample_rate=settings.request_log_sample_rate,
        max_bytes=int(settings.request_log_mb * 1e6),
    )


def _limits(settings: ServingSettings, model: Model) -> Limits:
    return Limits(
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        prefill_chunk=settings.prefill_chunk,
        num_pages=settings.kv_cache_tokens // PAGE,
        is_cut_invariant=model.is_cut_invariant,
        keys_per_row=model.keys_per_row,
        enable_prefix_caching=settings.enable_prefix_caching and model.is_cut_invariant,
        num_speculative_tokens=settings.num_speculative_tokens if model.is_cut_invariant else 0,
    )


def _servable(around: ServingSurroundings) -> Servable:
    model = around.model
    return Servable(
        base_name=around.base.model_id,
        fingerprint=around.fingerprint,
        modules=model.modules,
        max_lora_rank=model.room.max_rank,
        max_stacked=min(around.settings.max_loras_per_request, model.room.num_slots),
    )
