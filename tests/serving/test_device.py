"""The forward passes in PyTorch on a device that is not the CPU: no tensor is left behind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from hotswap.registry.domain.manifest import Probe, TopTokens
from hotswap.serving.adapters.lora import CPU, LoraRoom
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.sequence import Logprobs
from hotswap.serving.execution.probes import disagreement
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.models.generic import Generic
from hotswap.serving.models.llama import Llama
from hotswap.serving.settings import Quantization
from tests.elsewhere import MixedDevices, elsewhere, process
from tests.peft_adapters import make_adapter
from tests.serving.conftest import MAX_RANK, MAX_ROWS, NUM_PAGES, NUM_SLOTS, load_adapter
from tests.serving.families import make_family
from tests.serving.sequences import make_sequence, run_to_end

Answers = list[tuple[list[int], list[Logprobs]]]
MODELS = {"llama": Llama, "gpt2": Generic, "gemma2": Generic}


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with process() as pool:
        yield pool


@pytest.fixture(scope="module")
def parts(
    tiny_base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[BaseDirectory, list[Path]]]:
    """A base of each kind, with a LoRA and a DoRA for it."""
    root = tmp_path_factory.mktemp("device")
    bases = {"llama": tiny_base}
    bases |= {name: make_family(root, name) for name in MODELS if name not in bases}
    return {
        name: (
            base,
            [
                make_adapter(
                    base,
                    root / f"{name}-{is_dora}",
                    target_modules="all-linear",
                    use_dora=is_dora,
                    fan_in_fan_out=name == "gpt2",
                )
                for is_dora in (False, True)
            ],
        )
        for name, base in bases.items()
    }


def answers(
    name: str,
    base: BaseDirectory,
    adapters: list[Path],
    quantization: Quantization,
    device: torch.device,
) -> Answers:
    """A mix of long and short prompts, adapters, stacks, scales and ways to sample, to the end."""
    room = LoraRoom(NUM_SLOTS, MAX_RANK, torch.float32, device)
    model = MODELS[name](
        base, quantization, torch.float32, room, num_pages=NUM_PAGES, max_rows=MAX_ROWS
    )
    runner = ModelRunner(model, probe_tolerance=0.02)
    for slot, directory in enumerate(adapters, start=1):
        runner.load(slot, runner.prepare(load_adapter(directory)))
    probe = Probe(
        messages=({"role": "user", "content": "?"},),
        token_ids=(5, 6, 7, 8),
        num_prompt_tokens=2,
        top=(TopTokens(token_ids=(7, 8), logprobs=(-0.5, -1.5)),) * 3,
    )
    replayed = disagreement(model, 1, [probe], MAX_ROWS)
    assert len(list(replayed)) == 1
    rng = random.Random(5)
    sampled = {"temperature": 0.8, "seed": 3, "top_p": 0.9, "top_k": 40, "min_p": 0.01}
    changed = {"logit_bias": {5: 1.0}, "presence_penalty": 0.5, "min_tokens": 3, "logprobs": 2}
    kinds = [
        (45, {"slot": 1, "prompt_logprobs": 1}),
        (5, {"slot": 2, "logprobs": 3}),
        (50, {}),
        (20, {"slot": 1, **sampled, **changed, "stop_token_ids": frozenset({9})}),
        (9, {"slot": 2, "scale": 0.5}),
        (7, {"slot": 1, "stacked": ((2, 0.5),), "repetition_penalty": 1.2}),
    ]
    sequences = [
        make_sequence([rng.randrange(3, 200) for _ in range(length)], max_tokens=6, **kind)
        for length, kind in kinds
    ]
    told: Answers = []
    for sequence in sequences:
        told.append((sequence.output_ids, sequence.prompt_logprobs))
    run_to_end(runner, sequences)
    return told


def answers_elsewhere(
    name: str, base: BaseDirectory, adapters: list[Path], quantization: Quantization
) -> tuple[Answers, Answers]:
    here = answers(name, base, adapters, quantization, CPU)
    with elsewhere() as device:
        return here, answers(name, base, adapters, quantization, device)


@pytest.mark.parametrize("name", MODELS)
def test_a_mix_is_answered_as_on_the_cpu(
    other_process: ProcessPoolExecutor,
    parts: dict[str, tuple[BaseDirectory, list[Path]]],
    name: str,
) -> None:
    task = other_process.submit(answers_elsewhere, name, *parts[name], Quantization.NONE)
    here, there = task.result()
    assert [ids for ids, _ in there] == [ids for ids, _ in here]
    assert len({tuple(ids) for ids, _ in here}) > 3
    (of_prompt,) = [told for _, told in here if told]
    (found,) = [told for _, told in there if told]
    assert [each.chosen for each in found] == pytest.approx(
        [each.chosen for each in of_prompt], abs=1e-4
    )


def mix() -> None:
    with elsewhere() as device:
        torch.ones(2, device=device) + torch.ones(2)


def test_what_lies_on_the_cpu_cannot_be_used_with_what_lies_elsewhere(
    other_process: ProcessPoolExecutor,
) -> None:
    with pytest.raises(MixedDevices, match="is on the CPU"):
        other_process.submit(mix).result()
