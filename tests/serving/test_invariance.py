"""The promise: with int8 weights a greedy answer is bit for bit the same alone and in any mix."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.scheduler import Limits
from hotswap.serving.engine.sequence import Delta
from hotswap.serving.quantization import Int8Linear, make_linear
from hotswap.serving.settings import Kernels, Quantization
from tests.serving.conftest import MakeRunner
from tests.serving.sequences import make_sequence, random_prompt, run_to_end

each_kernels = pytest.mark.parametrize("kernels", [Kernels.NATIVE, Kernels.TORCH])


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 16, 33, 64])
def test_an_int8_row_does_not_depend_on_the_rows_beside_it(num_rows: int) -> None:
    torch.manual_seed(num_rows)
    linear = Int8Linear(torch.randn(96, 64), torch.randn(96), torch.float32)
    rows = torch.randn(64, 64)
    whole = linear(rows)
    for start in range(0, 64 - num_rows + 1, 9):
        assert torch.equal(linear(rows[start : start + num_rows]), whole[start : start + num_rows])


def test_int8_is_within_its_rounding_of_the_exact_product() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 256), torch.randn(20, 256)
    got = make_linear(weight, None, Quantization.INT8, torch.float32)(x)
    exact = x.double() @ weight.double().T
    # Each factor is off by at most half a step of max / 127; the largest group's for x.
    step_x = x.abs().amax(1, keepdim=True) / 254
    step_w = weight.abs().amax(1) / 254
    bound = step_x * weight.abs().sum(1) + step_w * x.abs().sum(1, keepdim=True)
    assert ((got - exact).abs() <= bound + 256 * step_x * step_w).all()


@each_kernels
@pytest.mark.parametrize("seed", range(8))
def test_greedy_tokens_and_logprobs_are_the_same_alone_and_in_random_mixes(
    make_runner: MakeRunner, tiny_base: BaseDirectory, kernels: Kernels, seed: int
) -> None:
    rng = random.Random(seed)
    runner = make_runner(kernels, Quantization.INT8)
    vocab_size = tiny_base.tokenizer.get_vocab_size()
    requests = [
        (random_prompt(rng, vocab_size), rng.randrange(7), rng.randint(1, 20), random_options(rng))
        for _ in range(10)
    ]
    answers: list[list[Delta]] = [[] for _ in requests]
    mixed = [
        make_sequence(p, slot=s, max_tokens=n, deltas=deltas, **options)
        for (p, s, n, options), deltas in zip(requests, answers, strict=True)
    ]
    run_to_end(
        runner,
        mixed,
        Limits(
            max_num_seqs=rng.randint(2, 10),
            max_num_batched_tokens=rng.randint(26, 200),
            prefill_chunk=16,
            num_pages=64,
        ),
    )
    for (prompt, slot, num_tokens, options), in_mix in zip(requests, answers, strict=True):
        alone: list[Delta] = []
        sequence = make_sequence(prompt, slot=slot, max_tokens=num_tokens, deltas=alone, **options)
        run_to_end(runner, [sequence])
        assert in_mix == alone
        assert all(delta.logprobs for delta in alone) == ("logprobs" in options)


def random_options(rng: random.Random) -> dict[str, Any]:
    """Nothing for half of the requests: they take the way that looks at no logits."""
    if rng.random() < 0.5:
        return {}
    return {
        "scale": rng.choice([1.0, 0.5, -1.0]),
        "stacked": rng.choice([(), ((2, 0.5),), ((1, 1.0), (3, -0.5))]),
        "logprobs": rng.randint(0, 20),
        "repetition_penalty": rng.choice([1.0, 1.2]),
        "presence_penalty": rng.choice([0.0, 0.7]),
        "frequency_penalty": rng.choice([0.0, 0.3]),
        "logit_bias": rng.choice([{}, {5: 3.0, 9: -100.0}]),
        "min_tokens": rng.randint(0, 3),
    }


@each_kernels
def test_seeded_sampling_is_the_same_alone_and_in_a_mix(
    make_runner: MakeRunner, tiny_base: BaseDirectory, kernels: Kernels
) -> None:
    rng = random.Random(11)
    runner = make_runner(kernels, Quantization.INT8)
    prompts = [random_prompt(rng, tiny_base.tokenizer.get_vocab_size()) for _ in range(5)]
    options = {"temperature": 0.9, "top_p": 0.95, "min_p": 0.01, "max_tokens": 16}
    options |= {"presence_penalty": 0.5, "repetition_penalty": 1.1}
    mixed = [make_sequence(p, slot=i, seed=i, **options) for i, p in enumerate(prompts)]
    run_to_end(runner, mixed)
    for index, prompt in enumerate(prompts):
        alone = make_sequence(prompt, slot=index, seed=index, **options)
        run_to_end(runner, [alone])
        assert alone.output_ids == mixed[index].output_ids
