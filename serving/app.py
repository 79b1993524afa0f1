"""Builds serving's parts in order and returns them as a plane: routes, lifespan, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from registry.app import Plane
from registry.manifest import Manifest
from registry.protocol import AdapterRegistry
from registry.settings import Home
from registry.tomlfile import read_toml
from serving.adapter_cache import AdapterCache
from serving.api import serving_router
from serving.base_model import BaseDirectory, provide_base
from serving.engine import Engine
from serving.follower import Follower
from serving.inference import Inference
from serving.lora import LoraWeights, read_lora_weights
from serving.models import Llama
from serving.models.llama import LoraRoom
from serving.probes import check_text
from serving.resolver import Resolver, Servable
from serving.runner import ModelRunner
from serving.scheduler import Limits
from serving.seen_moves import SeenMoves
from serving.settings import PROBE_TOLERANCES, Quantization, ServingSettings
from serving.trust import Trust, TrustPolicy
from serving.version_table import VersionTable


class Serving:
    """One base, its engine and the adapters around it. `start` before use, `stop` after."""

    def __init__(self, settings: ServingSettings, registry: AdapterRegistry, home: Home) -> None:
        """Loads and quantizes the base; raises BaseNotFound, or InvalidSettings for the trust
        file."""
        policy = read_toml(settings.trust, TrustPolicy) if settings.trust else TrustPolicy()
        trust = Trust(policy, registry, SeenMoves(home.seen_moves))
        num_threads = settings.num_threads or torch.get_num_threads()
        _use_one_thread()  # here and wherever adapters are read: see ModelRunner.attach
        self.base = provide_base(settings.base, home.bases)
        dtype, lora_dtype = _dtypes(settings)
        room = LoraRoom(settings.max_loras, settings.max_lora_rank, lora_dtype)
        model = Llama(self.base, settings.quantization, dtype, room)
        self.registry = registry
        self.adapters: AdapterCache[LoraWeights] = AdapterCache(
            registry,
            home.adapter_cache,
            lambda path, manifest: self._read(path, manifest, lora_dtype),
            max_cpu_loras=settings.max_cpu_loras,
            prepare_thread=_use_one_thread,
        )
        self.engine: Engine[LoraWeights] = Engine(
            ModelRunner(
                model,
                probe_tolerance=settings.probe_tolerance or PROBE_TOLERANCES[settings.quantization],
                num_threads=num_threads,
            ),
            self.adapters,
            _limits(settings),
            max_loras=settings.max_loras,
            max_num_waiting=settings.max_num_waiting,
        )
        self.adapters.on_arrival = self.engine.wake
        versions = VersionTable(
            registry, max_age_s=settings.alias_max_age_s, grace_s=settings.alias_grace_s
        )
        resolver = _resolver(settings, self.base, model, registry, versions, trust)
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
            prefetch=self.adapters.prefetch,
            max_model_len=min(model.max_positions, settings.kv_cache_tokens),
            default_max_tokens=settings.default_max_tokens,
        )
        self._facts = {
            "base": self.base.model_id,
            "quantization": settings.quantization.value,
            "max_model_len": self.inference.max_model_len,
        }

    def _read(self, path: Path, manifest: Manifest, dtype: torch.dtype) -> LoraWeights:
        prompt = manifest.prompt or self.base.prompt_format()
        check_text(manifest.probes, prompt, self.base.tokenizer)
        return read_lora_weights(path, manifest.lora, dtype, manifest.probes)

    def start(self) -> None:
        self.engine.start()
        self.follower.start()

    def stop(self) -> None:
        self.follower.stop()
        self.engine.stop()
        self.adapters.close()

    def health(self) -> dict[str, Any]:
        return {**self._facts, **self.engine.health(), **self.follower.health()}

    def plane(self) -> Plane:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            self.start()
            try:
                yield
            finally:
                self.stop()

        router = serving_router(self.inference, self.registry)
        return Plane("serving", router, lifespan, self.health)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _limits(settings: ServingSettings) -> Limits:
    return Limits(
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        prefill_chunk=settings.prefill_chunk,
        kv_cache_tokens=settings.kv_cache_tokens,
    )


def _resolver(
    settings: ServingSettings,
    base: BaseDirectory,
    model: Llama,
    registry: AdapterRegistry,
    versions: VersionTable,
    trust: Trust,
) -> Resolver:
    servable = Servable(
        base_name=base.model_id,
        fingerprint=base.fingerprint(settings.quantization.value),
        modules={module for slots in model.lora_slots for module in slots.part_of},
        max_lora_rank=settings.max_lora_rank,
    )
    return Resolver(registry, versions, trust, servable, base.prompt_format())


def _dtypes(settings: ServingSettings) -> tuple[torch.dtype, torch.dtype]:
    """The compute type and the type of the adapters in their slots."""
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if settings.quantization is Quantization.INT8 else "bfloat16"
    lora_dtype = dtype if settings.lora_dtype == "auto" else settings.lora_dtype
    return getattr(torch, dtype), getattr(torch, lora_dtype)
