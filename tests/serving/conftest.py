"""A tiny base, a few PEFT adapters of different kinds, and ways to run sequences on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.registry.storage.local import LocalStore
from hotswap.serving.adapters.lora import LoraRoom, LoraWeights, read_lora_weights
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.http.app import Serving
from hotswap.serving.models import Model
from hotswap.serving.models.llama import Llama
from hotswap.serving.models.native_llama import NativeLlama
from hotswap.serving.settings import Kernels, Quantization, ServingSettings
from tests.peft_adapters import make_adapter
from tests.tiny_base import make_tiny_base

NUM_SLOTS = 6
MAX_RANK = 8
NUM_PAGES = 256
MAX_ROWS = 256
NUM_THREADS = 2

MakeRunner = Callable[..., ModelRunner]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseDirectory:
    return make_tiny_base(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def adapter_dirs(tiny_base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of different kinds, ranks and target modules; number 4 has no effect."""
    root = tmp_path_factory.mktemp("adapters")
    kinds = [
        {},
        {"r": 8, "use_rslora": True},
        {"r": 2, "target_modules": ["q_proj", "v_proj"]},
        {"rank_pattern": {"down_proj": 8, "q_proj": 1}, "alpha_pattern": {"o_proj": 32}},
        {"strength": 0.0},
        {"r": 3, "use_dora": True, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]},
    ]
    return [
        make_adapter(tiny_base, root / f"adapter-{seed}", seed=seed, **kind)
        for seed, kind in enumerate(kinds)
    ]


def load_adapter(directory: Path) -> LoraWeights:
    return read_lora_weights(directory, Bundle.read(directory).lora)


def make_tiny_model(
    base: BaseDirectory, kernels: Kernels, quantization: Quantization = Quantization.INT8
) -> Model:
    """With NUM_SLOTS slots, in float32 but for what the native kernels fix."""
    if kernels is Kernels.NATIVE:
        room = LoraRoom(NUM_SLOTS, MAX_RANK, torch.bfloat16)
        return NativeLlama(
            base,
            room,
            num_pages=NUM_PAGES,
            max_rows=MAX_ROWS,
            num_threads=NUM_THREADS,
            bits=4 if quantization is Quantization.INT4 else 8,
        )
    room = LoraRoom(NUM_SLOTS, MAX_RANK, torch.float32)
    return Llama(base, quantization, torch.float32, room, num_pages=NUM_PAGES, max_rows=MAX_ROWS)


@pytest.fixture(scope="session")
def make_runner(tiny_base: BaseDirectory, adapter_dirs: list[Path]) -> MakeRunner:
    """Runners with adapter number i of `adapter_dirs` in slot i + 1."""

    def make(
        kernels: Kernels = Kernels.TORCH, quantization: Quantization = Quantization.NONE
    ) -> ModelRunner:
        runner = ModelRunner(
            make_tiny_model(tiny_base, kernels, quantization), probe_tolerance=0.02
        )
        for slot, directory in enumerate(adapter_dirs, start=1):
            runner.load(slot, runner.prepare(load_adapter(directory)))
        return runner

    return make


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry over a directory store."""
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    opened = Registry.open(LocalStore(tmp_path / "store"), catalog)
    yield opened
    opened.close()


def serving_settings(base: BaseDirectory) -> ServingSettings:
    """int8 weights, two slots and ranks up to 8."""
    return ServingSettings(
        base=str(base.path),
        max_loras=2,
        max_lora_rank=MAX_RANK,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        prefill_chunk=16,
        kv_cache_tokens=2048,
        default_max_tokens=24,
    )


@pytest.fixture
def serving(tiny_base: BaseDirectory, registry: Registry, tmp_path: Path) -> Serving:
    """Serving on the tiny base; not started."""
    return Serving(serving_settings(tiny_base), registry, Home(tmp_path / "home"))


def push_adapter(
    registry: AdapterRegistry, name: str, directory: Path, alias: str | None = "prod"
) -> AdapterVersion:
    bundle = Bundle.read(directory)
    return push(
        registry, name, bundle, bundle.manifest(), by="tests", alias=alias, allow_no_effect=True
    )
