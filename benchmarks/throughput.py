"""Output tokens per second over HTTP: the base alone, one adapter, and 16 adapters mixed.

    python -m benchmarks.throughput [--rounds 3] [-- options of `hotswap up`]

Starts a server of its own below a temporary home, with random rank-16 adapters on all linear
layers of SmolLM2-135M. Each round runs every case once, in turn, so that ratios are taken in one
run; the figures are medians over the rounds. 64 requests, 32 at a time, about 73 prompt tokens and
64 new ones each (the end token ignored).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import torch
from safetensors.torch import save_file

from benchmarks.server import server
from registry.settings import read_home
from serving.base_model import BaseDirectory, provide_base

NUM_ADAPTERS = 16
NUM_REQUESTS = 64
CONCURRENCY = 32
NEW_TOKENS = 64
WORDS = "the sea is wide and the wind carries every small boat to another shore where people wait "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("up_options", nargs="*", help="options of `hotswap up`, behind --")
    arguments = parser.parse_args()
    base = provide_base("smollm2-135m", read_home().bases)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "bases").symlink_to(read_home().bases)
        with server(home, arguments.up_options) as url:
            push_adapters(base, home, url)
            measure(url, base.model_id, arguments.rounds)


def measure(url: str, base: str, rounds: int) -> None:
    cases: dict[str, tuple[Callable[[int], str], int, int]] = {
        "base only": (lambda _: base, NUM_REQUESTS, CONCURRENCY),
        "one adapter": (lambda _: "bench/a0", NUM_REQUESTS, CONCURRENCY),
        "16 adapters mixed": (lambda i: f"bench/a{i % NUM_ADAPTERS}", NUM_REQUESTS, CONCURRENCY),
        "one request, one adapter": (lambda _: "bench/a0", 1, 1),
    }
    for model, _, _ in cases.values():
        asyncio.run(load(url, model, NUM_ADAPTERS, CONCURRENCY))  # warm: adapters in their slots
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (model, num, concurrency) in cases.items():
            rates[name].append(asyncio.run(load(url, model, num, concurrency)))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, medians of {rounds}"
    )
    reference = statistics.median(rates["base only"])
    for name, found in rates.items():
        median = statistics.median(found)
        print(
            f"{name:<26} {median:7.0f} tokens/s  {median / reference:5.2f} of base only"
            f"   (min {min(found):.0f}, max {max(found):.0f})"
        )


async def load(url: str, model: Callable[[int], str], num: int, concurrency: int) -> float:
    """Output tokens per second of `num` requests, `concurrency` at a time."""
    gate = asyncio.Semaphore(concurrency)
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def ask(index: int) -> int:
            body = {
                "model": model(index),
                "prompt": f"Story number {index}. " + WORDS * 4,
                "max_tokens": NEW_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
            }
            async with gate:
                response = await client.post("/v1/completions", json=body)
            response.raise_for_status()
            return int(response.json()["usage"]["completion_tokens"])

        start = time.perf_counter()
        tokens = await asyncio.gather(*(ask(index) for index in range(num)))
        return sum(tokens) / (time.perf_counter() - start)


def push_adapters(base: BaseDirectory, home: Path, url: str) -> None:
    from registry.bundles.bundle import Bundle
    from registry.bundles.transfer import push
    from registry.client import RegistryClient

    with RegistryClient(url) as registry:
        for number in range(NUM_ADAPTERS):
            bundle = Bundle.read(random_adapter(base, home / f"adapter-{number}", number))
            manifest = bundle.manifest(base=base.fingerprint())
            push(registry, f"bench/a{number}", bundle, manifest, by="benchmark", alias="prod")


def random_adapter(base: BaseDirectory, directory: Path, seed: int, r: int = 16) -> Path:
    """A PEFT directory with small random weights on every linear layer."""
    config = base.config
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (num_in, num_out) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(r, num_in, generator=random) * 0.02
            tensors[f"{stem}.lora_B.weight"] = torch.randn(num_out, r, generator=random) * 0.02
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config_file = directory / "adapter_config.json"
    config_file.write_text(json.dumps({"peft_type": "LORA", "r": r, "lora_alpha": 2 * r}))
    return directory


if __name__ == "__main__":
    main()
