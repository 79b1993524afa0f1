from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.settings import ServingSettings
from hotswap.training.evaluation.engine import FreshEngine, fresh_engine
from tests.peft_adapters import make_adapter

SETTINGS = ServingSettings(
    max_loras=2,
    max_lora_rank=8,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    prefill_chunk=16,
    kv_cache_tokens=2048,
)


@pytest.fixture(scope="session")
def adapter(base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter", seed=1)


@pytest.fixture(scope="module")
def engine(base: BaseDirectory) -> Iterator[FreshEngine]:
    with fresh_engine(base, SETTINGS) as engine:
        yield engine
