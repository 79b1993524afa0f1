"""What serving is measured with: prompts, adapters, the cases; and our own server as one answerer.

Prompts are words drawn at random, other words for every case and round, so that no prefix cache
can help; a word is one token. Adapters are random, of rank 16, on all linear layers, in bfloat16
(10 MB).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import torch
from safetensors.torch import save_file

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.http.client import RegistryClient
from hotswap.serving.base_model import BaseDirectory

BASE = "smollm2-135m"
NUM_ADAPTERS = 16
CONCURRENCY, NUM_ALONE = 32, 4
PROMPT_TOKENS, NEW_TOKENS = 73, 64
LONG_PROMPT_TOKENS = 512
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Case:
    """Requests of which `concurrency` are sent at a time; `adapters` has an adapter's number, or
    None, for each."""

    name: str
    adapters: Sequence[int | None]
    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = NEW_TOKENS
    concurrency: int = CONCURRENCY

    @property
    def counted_tokens(self) -> int:
        """Tokens that a rate is of: new ones; the prompts' where one new token is asked for."""
        each = self.prompt_tokens if self.new_tokens == 1 else self.new_tokens
        return each * len(self.adapters)

    def turns(self) -> list[Case]:
        """The case as cases whose requests may all be sent at once."""
        if self.concurrency > 1:
            return [self]
        return [replace(self, adapters=[adapter]) for adapter in self.adapters]


def cases(num_requests: int) -> list[Case]:
    mixed = [index % NUM_ADAPTERS for index in range(num_requests)]
    return [
        Case("base only", [None] * num_requests),
        Case("one adapter", [0] * num_requests),
        Case("16 adapters mixed", mixed),
        Case("one request, one adapter", [0] * NUM_ALONE, concurrency=1),
        Case("prompts of 512 tokens, 8 adapters", mixed[:8], LONG_PROMPT_TOKENS, 1, 8),
    ]


class Prompts:
    """Texts of a given length in tokens, each one other than all before."""

    def __init__(self, base: BaseDirectory, seed: int = 0) -> None:
        vocabulary = sorted(base.tokenizer.get_vocab().items(), key=lambda item: item[1])
        whole = [token[1:] for token, _ in vocabulary if token[:1] == "Ġ" and token[1:].isalpha()]
        self._words = [word for word in whole if word.isascii() and word.islower()][:4000]
        self._random = random.Random(seed)

    def draw(self, count: int, num_tokens: int) -> list[str]:
        return [" ".join(self._random.choices(self._words, k=num_tokens)) for _ in range(count)]


async def ask(client: httpx.AsyncClient, model: str, prompt: str, new_tokens: int) -> int:
    """The number of new tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
    response = await client.post("/v1/completions", json={**body, "ignore_eos": True})
    response.raise_for_status()
    return int(response.json()["usage"]["completion_tokens"])


@dataclass(frozen=True)
class Timing:
    """Seconds until all requests were answered, and that each took from when it was sent."""

    total: float
    each: Sequence[float]


async def ask_all(
    url: str, models: Sequence[str], prompts: Sequence[str], new_tokens: int, concurrency: int
) -> Timing:
    """Let the server answer all, `concurrency` at a time."""
    gate = asyncio.Semaphore(concurrency)
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def wait_and_ask(model: str, prompt: str) -> float:
            async with gate:
                start = time.perf_counter()
                assert await ask(client, model, prompt, new_tokens) == new_tokens
                return time.perf_counter() - start

        start = time.perf_counter()
        pairs = zip(models, prompts, strict=True)
        each = await asyncio.gather(*(wait_and_ask(model, prompt) for model, prompt in pairs))
        return Timing(time.perf_counter() - start, each)


def model_name(adapter: int | None) -> str:
    return BASE if adapter is None else f"bench/a{adapter}"


def run_case(url: str, case: Case, prompts: Sequence[str]) -> float:
    """Seconds that a case takes on our server."""
    models = [model_name(adapter) for adapter in case.adapters]
    answered = ask_all(url, models, prompts, case.new_tokens, case.concurrency)
    return asyncio.run(answered).total


def push_adapters(
    base: BaseDirectory, url: str, directories: Sequence[Path], first: int = 0
) -> None:
    """Numbered from `first` on."""
    fingerprint = base.fingerprint()
    with RegistryClient(url) as registry:
        for number, directory in enumerate(directories, first):
            bundle = Bundle.read(directory)
            manifest = bundle.manifest(base=fingerprint)
            push(registry, f"bench/a{number}", bundle, manifest, by="benchmark", alias="prod")


def random_adapter(base: BaseDirectory, directory: Path, seed: int, r: int = 16) -> Path:
    """A PEFT directory with small random weights on every linear layer."""
    config = base.config
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "self_attn.q_proj": (hidden, heads),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (heads, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (num_in, num_out) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            for part, shape in (("A", (r, num_in)), ("B", (num_out, r))):
                values = torch.randn(shape, generator=generator) * 0.02
                tensors[f"{stem}.lora_{part}.weight"] = values.bfloat16()
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.model_id,
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": list(MODULES),
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(written))
    return directory
