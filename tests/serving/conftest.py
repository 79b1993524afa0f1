"""A tiny base, a few PEFT adapters of different kinds, and ways to run sequences on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from registry.adapters import AdapterVersion
from registry.bundles.bundle import Bundle
from registry.bundles.transfer import push
from registry.database.catalog import Catalog
from registry.protocol import AdapterRegistry
from registry.registry import Registry
from registry.settings import Home
from registry.storage.local import LocalStore
from serving.app import Serving
from serving.base_model import BaseDirectory
from serving.lora import LoraWeights, read_lora_weights
from serving.models import Llama
from serving.models.llama import LoraRoom
from serving.runner import ModelRunner
from serving.settings import Quantization, ServingSettings
from tests.peft_adapters import make_adapter
from tests.tiny_base import make_tiny_base

NUM_SLOTS = 6
MAX_RANK = 8

MakeRunner = Callable[..., ModelRunner]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseDirectory:
    return make_tiny_base(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def adapter_dirs(tiny_base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of different kinds, ranks and target modules, and one with no effect."""
    root = tmp_path_factory.mktemp("adapters")
    kinds = [
        {},
        {"r": 8, "use_rslora": True},
        {"r": 2, "target_modules": ["q_proj", "v_proj"]},
        {"rank_pattern": {"down_proj": 8, "q_proj": 1}, "alpha_pattern": {"o_proj": 32}},
        {"strength": 0.0},
    ]
    return [
        make_adapter(tiny_base, root / f"adapter-{seed}", seed=seed, **kind)
        for seed, kind in enumerate(kinds)
    ]


def load_adapter(directory: Path, dtype: torch.dtype = torch.float32) -> LoraWeights:
    return read_lora_weights(directory, Bundle.read(directory).lora, dtype)


@pytest.fixture(scope="session")
def make_runner(tiny_base: BaseDirectory, adapter_dirs: list[Path]) -> MakeRunner:
    """Runners with adapter number i of `adapter_dirs` in slot i + 1."""

    def make(quantization: Quantization = Quantization.NONE) -> ModelRunner:
        room = LoraRoom(NUM_SLOTS, MAX_RANK, torch.float32)
        runner = ModelRunner(
            Llama(tiny_base, quantization, torch.float32, room), probe_tolerance=0.02
        )
        for slot, directory in enumerate(adapter_dirs, start=1):
            runner.load(slot, load_adapter(directory))
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
        lora_dtype="float32",
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
