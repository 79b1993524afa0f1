"""Which forward pass a base gets, and what is decided for the machine."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
import torch

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.models.choice import Placement, make_model
from hotswap.serving.models.generic import Generic
from hotswap.serving.models.llama import Llama
from hotswap.serving.models.native_llama import NativeLlama
from hotswap.serving.settings import Device, Kernels, Quantization, ServingSettings
from tests.peft_adapters import greedy, load_with_peft, make_adapter
from tests.refusals import refused
from tests.serving.conftest import load_adapter
from tests.serving.families import make_family
from tests.serving.sequences import make_sequence, random_prompt, run_to_end
from tests.tiny_base import make_tiny_base

here = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")


def settings(base: BaseDirectory, **changes: object) -> ServingSettings:
    values = {"max_loras": 2, "max_lora_rank": 8, "kv_cache_tokens": 2048, **changes}
    return ServingSettings(base=str(base.path), **values)


def make(base: BaseDirectory, **changes: object) -> object:
    chosen = settings(base, **changes)
    return make_model(chosen, Placement.of(chosen), base)


@here
def test_llama_like_families_run_on_the_native_kernels_else_in_pytorch(tmp_path: Path) -> None:
    for base in (make_tiny_base(tmp_path), make_family(tmp_path, "qwen3")):
        assert isinstance(make(base), NativeLlama)
        assert isinstance(make(base, kernels=Kernels.TORCH), Llama)
        assert isinstance(make(base, quantization=Quantization.NONE), Llama)


@here
def test_other_families_run_through_transformers_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = make_family(tmp_path, "gpt2")
    with caplog.at_level(logging.WARNING, "serving"):
        assert isinstance(make(base), Generic)
    assert "one sequence after the other: it is of type 'gpt2'" in caplog.text
    with refused(InvalidSettings, "'native'", "'gpt2'"):
        make(base, kernels=Kernels.NATIVE)


def test_requests_on_another_family_get_the_tokens_peft_gives(tmp_path: Path) -> None:
    base = make_family(tmp_path, "gemma2")
    directory = make_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    model = make(base, device=Device.CPU, quantization=Quantization.NONE, dtype="float32")
    runner = ModelRunner(model, probe_tolerance=0.02)
    runner.load(1, runner.prepare(load_adapter(directory)))
    rng = random.Random(31)
    sequences = [
        make_sequence(random_prompt(rng, base.tokenizer.get_vocab_size()), slot=slot, max_tokens=9)
        for slot in (1, 0, 1)
    ]
    run_to_end(runner, sequences)
    for sequence in sequences:
        oracle = load_with_peft(base, directory if sequence.slots else None)
        assert sequence.output_ids == greedy(oracle, sequence.prompt_ids, 9)


@here
def test_without_cuda_the_default_is_int8_on_the_cpu_and_cuda_is_refused(
    tiny_base: BaseDirectory,
) -> None:
    assert Placement.of(settings(tiny_base)) == Placement(torch.device("cpu"), Quantization.INT8)
    with refused(InvalidSettings, "CUDA"):
        Placement.of(settings(tiny_base, device=Device.CUDA))


def test_with_cuda_the_default_is_bitsandbytes_int8_on_it(
    tiny_base: BaseDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert Placement.of(settings(tiny_base)) == Placement(cuda, Quantization.BNB_INT8)
    nf4 = settings(tiny_base, quantization=Quantization.NF4)
    assert Placement.of(nf4) == Placement(cuda, Quantization.NF4)
    on_cpu = settings(tiny_base, device=Device.CPU)
    assert Placement.of(on_cpu) == Placement(cpu, Quantization.INT8)
    with refused(InvalidSettings, "'int8'"):
        Placement.of(settings(tiny_base, quantization=Quantization.INT8))
