"""The forward pass against transformers and PEFT, which are the oracle."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.sequence import Batch, Sequence, Work
from hotswap.serving.execution.runner import ModelRunner
from tests.peft_adapters import greedy, load_with_peft
from tests.serving.conftest import MakeRunner
from tests.serving.sequences import make_sequence, place, random_prompt, run_to_end

RTOL = 1e-4


def logits_of(runner: ModelRunner, works: list[Work]) -> torch.Tensor:
    """(num_works, vocab), in the order of `works` as the runner packs them."""
    place([work.sequence for work in works if not work.sequence.pages])
    return runner.model.forward(runner.pack(works)).logits


def prefill(sequence: Sequence) -> Work:
    return Work(sequence, 0, len(sequence.prompt_ids))


@pytest.fixture(scope="module")
def runner(make_runner: MakeRunner) -> ModelRunner:
    return make_runner()


@pytest.fixture
def prompts(tiny_base: BaseDirectory) -> list[list[int]]:
    rng = random.Random(3)
    return [random_prompt(rng, tiny_base.tokenizer.get_vocab_size()) for _ in range(7)]


def test_base_logits_equal_transformers(
    runner: ModelRunner, tiny_base: BaseDirectory, prompts: list[list[int]]
) -> None:
    oracle = load_with_peft(tiny_base, None)
    got = logits_of(runner, [prefill(make_sequence(p)) for p in prompts])
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            expected = oracle(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(got[row], expected, rtol=RTOL, atol=RTOL)


def test_a_mixed_batch_equals_each_adapter_alone_through_peft(
    runner: ModelRunner,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    prompts: list[list[int]],
) -> None:
    slots = [0, 1, 2, 3, 4, 5, 6]
    got = logits_of(
        runner, [prefill(make_sequence(p, slot=s)) for p, s in zip(prompts, slots, strict=True)]
    )
    for slot, prompt in zip(slots, prompts, strict=True):
        oracle = load_with_peft(tiny_base, adapter_dirs[slot - 1] if slot else None)
        with torch.no_grad():
            expected = oracle(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(got[slot], expected, rtol=RTOL, atol=RTOL)


def test_decoding_in_a_mix_gives_the_tokens_peft_gives(
    runner: ModelRunner,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    prompts: list[list[int]],
) -> None:
    sequences = [make_sequence(p, slot=s, max_tokens=12) for s, p in enumerate(prompts)]
    run_to_end(runner, sequences)
    for slot, sequence in enumerate(sequences):
        oracle = load_with_peft(tiny_base, adapter_dirs[slot - 1] if slot else None)
        assert sequence.output_ids == greedy(oracle, sequence.prompt_ids, 12)


def test_stacked_adapters_with_scales_equal_peft_with_both_active(
    runner: ModelRunner,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    prompts: list[list[int]],
) -> None:
    oracle = load_with_peft(tiny_base, adapter_dirs[0])
    oracle.load_adapter(adapter_dirs[1], "second")
    oracle.base_model.set_adapter(["default", "second"])
    for module in oracle.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] *= 0.5
            module.scaling["second"] *= -1.5
    sequences = [make_sequence(p, slot=1, scale=0.5, stacked=((2, -1.5),)) for p in prompts]
    got = logits_of(runner, [prefill(sequence) for sequence in sequences])
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            expected = oracle(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(got[row], expected, rtol=RTOL, atol=RTOL)


def test_an_untrained_adapter_leaves_the_logits_unchanged(
    runner: ModelRunner, prompts: list[list[int]]
) -> None:
    untrained = 5
    for prompt in prompts:
        base = logits_of(runner, [prefill(make_sequence(prompt))])
        adapted = logits_of(runner, [prefill(make_sequence(prompt, slot=untrained))])
        assert torch.equal(base, adapted)


def test_adapters_differ_from_the_base_and_from_each_other(
    runner: ModelRunner, prompts: list[list[int]]
) -> None:
    got = [logits_of(runner, [prefill(make_sequence(prompts[0], slot=s))])[0] for s in range(5)]
    for i, first in enumerate(got):
        for second in got[i + 1 :]:
            assert (first - second).abs().max() > 0.1


def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(
    runner: ModelRunner, tiny_base: BaseDirectory
) -> None:
    prompt = random_prompt(random.Random(5), tiny_base.tokenizer.get_vocab_size(), 60)
    whole = logits_of(runner, [prefill(make_sequence(prompt, slot=1))])[0]
    chunked = make_sequence(prompt, slot=1)
    cut = len(prompt) // 2
    place([chunked])
    runner.execute(Batch((Work(chunked, 0, cut),)))
    last = logits_of(runner, [Work(chunked, cut, len(prompt) - cut)])[0]
    torch.testing.assert_close(last, whole, rtol=RTOL, atol=RTOL)
