"""A thousand registered adapters, few in memory, the popular ones asked for most."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hotswap.registry.domain.digests import Digest
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.serving.settings import Kernels, Quantization
from tests.serving.conftest import MakeRunner, load_adapter, push_adapter, serving_settings
from tests.serving.sequences import make_sequence, run_to_end
from tests.serving.test_engine import Inbox

NUM_ADAPTERS, NUM_REQUESTS, NUM_CHECKED = 1000, 400, 40
WEIGHTS = "adapter_model.safetensors"


def copy_with_other_weights(source: Path, directory: Path, seed: int) -> Path:
    shutil.copytree(source, directory)
    torch.manual_seed(seed)
    tensors = load_file(source / WEIGHTS)
    save_file(
        {name: t + 0.2 * torch.randn_like(t) for name, t in tensors.items()}, directory / WEIGHTS
    )
    return directory


def test_no_request_fails_the_bounds_hold_and_answers_are_those_alone(
    registry: Registry,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    make_runner: MakeRunner,
    tmp_path: Path,
) -> None:
    paths = [
        copy_with_other_weights(adapter_dirs[2], tmp_path / f"a{seed}", seed)
        for seed in range(NUM_ADAPTERS)
    ]
    digests: list[Digest] = [
        push_adapter(registry, f"team/a{i}", path, alias=None).manifest_digest
        for i, path in enumerate(paths)
    ]
    settings = serving_settings(tiny_base).model_copy(update={"max_loras": 8, "max_cpu_loras": 32})
    serving = Serving(settings, registry, Home(tmp_path / "home"))
    rng = random.Random(0)
    popularity = [1 / rank for rank in range(1, NUM_ADAPTERS + 1)]  # Zipf(1.0)
    chosen = rng.choices(range(NUM_ADAPTERS), popularity, k=NUM_REQUESTS)
    inboxes = [Inbox(digests[index], (5, 6, 7), max_tokens=4) for index in chosen]
    serving.start()
    try:
        for inbox in inboxes:
            serving.engine.submit(inbox.sequence)
        for inbox in inboxes:
            assert inbox.last().error is None
            assert len(serving.engine.health()["loaded_adapters"]) <= 8
            assert serving.adapters.num_in_memory <= 32
    finally:
        serving.stop()
    runner = make_runner(Kernels.NATIVE, Quantization.INT8)
    for index, inbox in list(zip(chosen, inboxes, strict=True))[:NUM_CHECKED]:
        runner.load(1, runner.prepare(load_adapter(paths[index])))
        alone = make_sequence([5, 6, 7], slot=1, max_tokens=4)
        run_to_end(runner, [alone])
        assert inbox.sequence.output_ids == alone.output_ids
