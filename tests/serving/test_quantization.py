"""Every quantization against the exact product, and through the whole tiny model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hotswap.serving.adapters.lora import LoraRoom
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.models.choice import NATIVE_BITS
from hotswap.serving.models.llama import Llama
from hotswap.serving.native.layout import GROUP
from hotswap.serving.quantization import FloatProduct, Linear, integer_product, make_linear
from hotswap.serving.settings import Quantization
from tests.serving.sequences import LIMITS, make_sequence, run_to_end

# Relative error of a product in the 2-norm: rounding to 8 bits, to 4 bits of a normal float.
BOUNDS = {
    Quantization.NONE: 1e-5,
    Quantization.INT8: 0.02,
    Quantization.INT4: 0.1,
    Quantization.BNB_INT8: 0.02,
    Quantization.NF4: 0.12,
}


@pytest.mark.parametrize("quantization", Quantization)
@pytest.mark.parametrize("num_rows", [1, 5])
def test_a_product_is_within_its_quantization_of_the_exact_one(
    quantization: Quantization, num_rows: int
) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(128, 256), torch.randn(128), torch.randn(num_rows, 256)
    with torch.inference_mode():
        got = make_linear(weight, bias, quantization, torch.float32)(x)
    exact = x.double() @ weight.double().T + bias
    assert got.dtype == torch.float32
    assert (got - exact).norm() / exact.norm() < BOUNDS[quantization]


@pytest.mark.parametrize("make_product", [FloatProduct, integer_product])
@pytest.mark.parametrize("num_rows", [1, 2, 17])
def test_sums_of_the_largest_integers_are_exact_on_every_processor(
    make_product: Callable[[torch.Tensor], Linear], num_rows: int
) -> None:
    torch.manual_seed(0)
    weight = torch.where(torch.rand(32, GROUP) < 0.8, 127, -127).to(torch.int8)
    x = torch.where(torch.rand(num_rows, GROUP) < 0.9, 127.0, -126.0)
    with torch.inference_mode():
        got = make_product(weight)(x)
    assert torch.equal(got.double(), x.double() @ weight.double().T)


@pytest.mark.parametrize("quantization", Quantization)
def test_the_whole_model_runs_in_every_quantization(
    tiny_base: BaseDirectory, quantization: Quantization
) -> None:
    dtype = torch.float32 if quantization in NATIVE_BITS else torch.bfloat16
    room = LoraRoom(num_slots=1, max_rank=4, dtype=dtype)
    model = Llama(tiny_base, quantization, dtype, room, num_pages=LIMITS.num_pages, max_rows=64)
    runner = ModelRunner(model, probe_tolerance=1.0)
    sequence = make_sequence([5, 6, 7], max_tokens=4)
    run_to_end(runner, [sequence])
    assert len(sequence.output_ids) == 4
