"""Builds serving's parts in order and returns them as a plane: routes, lifespan, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.app import Plane
from hotswap.registry.http.planes import PlaneHost
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
from hotswap.serving.execution.runner import ModelRunner, PreparedAdapter
from hotswap.serving.http.api import SERVING_RULES, serving_router
from hotswap.serving.models import Model
from hotswap.serving.models.choice import Placement, make_model
from hotswap.serving.requests.deliveries import Deliveries
from hotswap.serving.requests.inference import Inference
from hotswap.serving.requests.request_log import RequestLog
from hotswap.serving.requests.resolver import Resolver, Servable
from hotswap.serving.settings import PROBE_TOLERANCES, Quantization, ServingHome, ServingSettings


class Serving:
    """One base, its engine and the adapters around it. `start` before use, `stop` after."""

    def __init__(
        self,
        settings: ServingSettings,
        registry: AdapterRegistry,
        home: Home,
        *,
        base: BaseDirectory | None = None,
    ) -> None:
        """Loads and quantizes `base`, or the one that the settings name; raises BaseNotFound, or
        InvalidSettings for the trust file or the request log."""
        places = ServingHome(home.root)
        self.request_log = _request_log(settings, places)
        policy = read_toml(settings.trust, TrustPolicy) if settings.trust else TrustPolicy()
        trust = Trust(policy, registry, SeenMoves(places.seen_moves))
        self.base = base or provide_base(settings.base, places.bases)
        placement = Placement.of(settings)
        quantization = placement.quantization
        model = make_model(settings, placement, self.base)
        _use_one_thread()  # here and wherever adapters are read: see Model.attach
        self.runner = ModelRunner(
            model,
            probe_tolerance=settings.probe_tolerance or PROBE_TOLERANCES[quantization],
            max_probe_rows=settings.prefill_chunk,
        )
        self.registry = registry
        self.adapters: AdapterCache[PreparedAdapter] = AdapterCache(
            registry,
            places.adapter_cache,
            self._read,
            max_cpu_loras=settings.max_cpu_loras,
            max_bytes=settings.adapter_memory_gb * 1e9,
            size_of=lambda adapter: adapter.num_bytes,
            prepare_thread=_use_one_thread,
        )
        deliveries = Deliveries()
        self.engine: Engine[PreparedAdapter] = Engine(
            self.runner,
            self.adapters,
            _limits(settings, model),
            max_loras=model.room.num_slots,
            max_num_waiting=settings.max_num_waiting,
            after_step=deliveries.hand_over,
        )
        self.adapters.on_arrival = self.engine.wake
        versions = VersionTable(
            registry, max_age_s=settings.alias_max_age_s, grace_s=settings.alias_grace_s
        )
        resolver = _resolver(settings, quantization, self.base, model, registry, versions, trust)
        self.follower = Follower(
            registry,
            versions,
            base=self.base.model_id,
            loaded=self.adapters.held,
            check=resolver.resolve,
        )
        self.inference = Inference(
            base=self.base,
            resolver=resolver,
            engine=self.engine,
            deliveries=deliveries,
            max_model_len=min(model.max_positions, settings.kv_cache_tokens // PAGE * PAGE),
            default_max_tokens=settings.default_max_tokens,
            request_log=self.request_log,
        )
        self._facts = {
            "base": self.base.model_id,
            "device": placement.device.type,
            "quantization": quantization.value,
            "max_model_len": self.inference.max_model_len,
        }

    def _read(self, path: Path, manifest: Manifest) -> PreparedAdapter:
        prompt = manifest.prompt or self.base.prompt_format()
        check_text(manifest.probes, prompt, self.base.tokenizer)
        return self.runner.prepare(read_lora_weights(path, manifest.lora, manifest.probes))

    def start(self) -> None:
        if self.request_log is not None:
            self.request_log.start()
        self.engine.start()
        self.follower.start()

    def stop(self) -> None:
        self.follower.stop()
        self.engine.stop()
        self.adapters.close()
        if self.request_log is not None:
            self.request_log.stop()

    def health(self) -> dict[str, Any]:
        log = {} if self.request_log is None else {"request_log": self.request_log.health()}
        return {**self._facts, **self.engine.health(), **self.follower.health(), **log}

    def plane_host(self, home: Home) -> PlaneHost:
        """What planes of other packages need to know of this one."""
        base = self.base
        return PlaneHost(
            self.registry,
            home,
            base.path,
            base.model_id,
            base.revision,
            is_busy=self.engine.is_busy,
        )

    def plane(self) -> Plane:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            self.start()
            try:
                yield
            finally:
                self.stop()

        router = serving_router(self.inference, self.registry)
        return Plane("serving", router, lifespan, self.health, rules=SERVING_RULES)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


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


def _resolver(
    settings: ServingSettings,
    quantization: Quantization,
    base: BaseDirectory,
    model: Model,
    registry: AdapterRegistry,
    versions: VersionTable,
    trust: Trust,
) -> Resolver:
    servable = Servable(
        base_name=base.model_id,
        fingerprint=base.fingerprint(quantization.value),
        modules=model.modules,
        max_lora_rank=model.room.max_rank,
        max_stacked=min(settings.max_loras_per_request, model.room.num_slots),
    )
    return Resolver(registry, versions, trust, servable, base.prompt_format())
