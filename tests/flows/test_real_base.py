"""The same promises on the real 135M base: transformers and PEFT are the oracle."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hotswap.registry.settings import read_home
from hotswap.serving.adapters.lora import LoraRoom
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.engine.scheduler import Limits
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.models import Model
from hotswap.serving.models.llama import Llama
from hotswap.serving.models.native_llama import NativeLlama
from hotswap.serving.rendering import render
from hotswap.serving.settings import Quantization, ServingHome
from tests.peft_adapters import greedy, load_with_peft, make_adapter
from tests.serving.conftest import load_adapter
from tests.serving.sequences import make_sequence, run_to_end
from tests.serving.test_speculation import answers

pytestmark = pytest.mark.real

QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three colours.",
    "Why is the sky blue? Answer briefly.",
]
NUM_TOKENS = 12
LIMITS = Limits(max_num_seqs=8, max_num_batched_tokens=96, prefill_chunk=64, num_pages=256)


@pytest.fixture(scope="module")
def base() -> BaseDirectory:
    return provide_base("smollm2-135m", read_home(ServingHome).bases)


@pytest.fixture(scope="module")
def adapters(base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("real")
    return [
        make_adapter(base, root / f"a{seed}", seed=seed, strength=0.02, r=r, use_dora=is_dora)
        for seed, (r, is_dora) in enumerate([(16, False), (8, False), (4, True)])
    ]


@pytest.fixture(scope="module")
def prompts(base: BaseDirectory) -> list[list[int]]:
    prompt = base.prompt_format()
    questions = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [list(base.tokenizer.encode(render(prompt, messages)).ids) for messages in questions]


def make_runner(base: BaseDirectory, adapters: list[Path], model: Model) -> ModelRunner:
    runner = ModelRunner(model, probe_tolerance=0.02)
    for slot, directory in enumerate(adapters, start=1):
        runner.load(slot, runner.prepare(load_adapter(directory)))
    return runner


def in_float32(base: BaseDirectory) -> Model:
    room = LoraRoom(num_slots=4, max_rank=16, dtype=torch.float32)
    return Llama(
        base, Quantization.NONE, torch.float32, room, num_pages=LIMITS.num_pages, max_rows=96
    )


@pytest.fixture(scope="module")
def native(base: BaseDirectory, adapters: list[Path]) -> ModelRunner:
    room = LoraRoom(num_slots=4, max_rank=16, dtype=torch.bfloat16)
    model = NativeLlama(base, room, num_pages=LIMITS.num_pages, max_rows=96, num_threads=2)
    return make_runner(base, adapters, model)


def test_a_mixed_batch_gives_the_greedy_tokens_each_adapter_gives_through_peft(
    base: BaseDirectory, adapters: list[Path], prompts: list[list[int]]
) -> None:
    runner = make_runner(base, adapters, in_float32(base))
    sequences = [make_sequence(p, slot=s, max_tokens=NUM_TOKENS) for s, p in enumerate(prompts)]
    run_to_end(runner, sequences, LIMITS)
    for slot, sequence in enumerate(sequences):
        oracle = load_with_peft(base, adapters[slot - 1] if slot else None)
        assert sequence.output_ids == greedy(oracle, sequence.prompt_ids, NUM_TOKENS)


def test_int8_answers_are_bit_for_bit_the_same_alone_and_in_a_mix(
    native: ModelRunner, prompts: list[list[int]]
) -> None:
    rng = random.Random(7)
    requests = [(rng.choice(prompts), rng.randrange(4), rng.randint(4, 20)) for _ in range(12)]
    mixed = [make_sequence(p, slot=s, max_tokens=n) for p, s, n in requests]
    run_to_end(native, mixed, LIMITS)
    for (prompt, slot, num_tokens), in_mix in zip(requests, mixed, strict=True):
        alone = make_sequence(prompt, slot=slot, max_tokens=num_tokens)
        run_to_end(native, [alone], LIMITS)
        assert in_mix.output_ids == alone.output_ids


def test_the_int8_base_still_knows_the_capital_of_france(
    base: BaseDirectory, native: ModelRunner, prompts: list[list[int]]
) -> None:
    sequence = make_sequence(prompts[0], max_tokens=NUM_TOKENS, stop_token_ids=base.stop_token_ids)
    run_to_end(native, [sequence], LIMITS)
    assert "Paris" in base.tokenizer.decode(sequence.output_ids)


def test_a_second_start_finds_the_converted_base(base: BaseDirectory) -> None:
    config = base.path / "config.json"
    before = config.stat().st_mtime_ns
    again = provide_base("smollm2-135m", read_home(ServingHome).bases)
    assert again.path == base.path
    assert config.stat().st_mtime_ns == before
    assert again.fingerprint() == base.fingerprint()


def test_copying_from_a_prompt_takes_half_the_steps_and_gives_the_same_bits(
    base: BaseDirectory, native: ModelRunner
) -> None:
    invoice = (
        "Invoice 2291 from Northwind Traders Ltd, 14 Harbour Street, Bristol BS1 4RN. Items: 12 "
        "boxes of Assam tea at 18.50 each, 4 crates of Valencia oranges at 32.75 each."
    )
    messages = [{"role": "user", "content": f"Copy the following text exactly.\n\n{invoice}"}]
    prompt = list(base.tokenizer.encode(render(base.prompt_format(), messages)).ids)
    request = {"prompt_ids": prompt, "slot": 0, "max_tokens": 64, "logprobs": 2}
    limits = replace(LIMITS, is_cut_invariant=True)
    plain, expected = answers(native, [request], limits)
    guessing, found = answers(native, [request], replace(limits, num_speculative_tokens=8))
    assert found == expected
    assert guessing.num_steps < plain.num_steps / 2
