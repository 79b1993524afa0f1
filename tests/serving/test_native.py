"""The native kernels against their twin in PyTorch, on every instruction set of this machine."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from hotswap.serving.adapters.lora import LoraWeights
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import NotServable
from hotswap.serving.http.app import Serving
from hotswap.serving.models import AdapterRows, Model, Segment, StepInput
from hotswap.serving.models.native_llama import NativeLlama
from hotswap.serving.models.weights import FUSED
from hotswap.serving.native import library
from hotswap.serving.native.layout import LINEARS
from hotswap.serving.native.packing import (
    PackedWeights,
    pack_expand,
    pack_int4,
    pack_int8,
    pack_shrink,
)
from hotswap.serving.native.rounding import quantize_half_groups
from hotswap.serving.settings import Kernels, Quantization
from tests.refusals import refused
from tests.serving.conftest import load_adapter, make_tiny_model
from tests.serving.sequences import random_prompt
from tests.tiny_base import LLAMA_SIZES, make_tiny_base

LEVELS = library.levels()
# bf16 keys, values and adapters against float32 ones, amplified by two layers of int8 rounding.
TOLERANCE = 0.08

each_level = pytest.mark.parametrize("level", LEVELS)


@pytest.fixture(scope="module", params=[Quantization.INT8, Quantization.INT4], ids=str)
def quantization(request: pytest.FixtureRequest) -> Quantization:
    found: Quantization = request.param
    return found


@pytest.fixture(scope="module")
def twin(tiny_base: BaseDirectory, adapter_dirs: list[Path], quantization: Quantization) -> Model:
    return with_adapters(make_tiny_model(tiny_base, Kernels.TORCH, quantization), adapter_dirs)


@pytest.fixture(scope="module")
def native(
    tiny_base: BaseDirectory, adapter_dirs: list[Path], quantization: Quantization
) -> NativeLlama:
    model = with_adapters(make_tiny_model(tiny_base, Kernels.NATIVE, quantization), adapter_dirs)
    assert isinstance(model, NativeLlama)
    return model


def with_adapters(model: Model, adapter_dirs: list[Path]) -> Model:
    for slot, directory in enumerate(adapter_dirs, start=1):
        model.load(slot, model.prepare(load_adapter(directory)))
    return model


def use_level(model: NativeLlama, level: int) -> None:
    model.engine.level = level


def distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def whole(prompts: list[list[int]], adapters: list[AdapterRows]) -> StepInput:
    """All tokens of all prompts, every row's logits wanted."""
    segments, start = [], 0
    for number, prompt in enumerate(prompts):
        pages = array("i", range(number * 8, number * 8 + 8))
        segments.append(Segment(start, start + len(prompt), 0, pages))
        start += len(prompt)
    token_ids = [token_id for prompt in prompts for token_id in prompt]
    return StepInput(token_ids, segments, adapters, range(start))


@pytest.fixture
def prompts(tiny_base: BaseDirectory) -> list[list[int]]:
    rng = random.Random(17)
    return [random_prompt(rng, tiny_base.tokenizer.get_vocab_size(), 42) for _ in range(7)]


@each_level
def test_logits_are_the_twins_to_the_rounding_of_bf16(
    native: NativeLlama, twin: Model, prompts: list[list[int]], level: int
) -> None:
    use_level(native, level)
    ends = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0).tolist()
    adapters = [
        AdapterRows(slot, end - len(prompt), end)
        for slot, (prompt, end) in enumerate(zip(prompts, ends, strict=True))
        if slot
    ]
    step = whole(prompts, adapters)
    got, expected = native.forward(step), twin.forward(step)
    assert got.best == got.logits.argmax(-1).tolist()
    assert distance(got.logits, expected.logits) < TOLERANCE


@each_level
def test_a_tokens_logits_are_the_same_bits_in_a_prompt_in_chunks_and_decoded(
    native: NativeLlama, prompts: list[list[int]], level: int
) -> None:
    use_level(native, level)
    prompt = max(prompts, key=len)
    at_once = native.forward(whole([prompt], [AdapterRows(1, 0, len(prompt))])).logits.clone()
    pages = array("i", range(100, 120))
    start, found = 0, []
    for length in (1, 17, 3, 2, *[1] * len(prompt)):
        end = min(start + length, len(prompt))
        rows = end - start
        step = StepInput(
            prompt[start:end],
            [Segment(0, rows, start, pages)],
            [AdapterRows(1, 0, rows)] if rows else [],
            range(rows),
        )
        if rows:
            found.append(native.forward(step).logits.clone())
        start = end
    assert torch.equal(torch.cat(found), at_once)


@each_level
def test_a_row_is_the_same_bits_whatever_runs_beside_it(
    native: NativeLlama, prompts: list[list[int]], level: int
) -> None:
    use_level(native, level)
    alone = [
        native.forward(
            whole([prompt], [AdapterRows(slot, 0, len(prompt))] if slot else [])
        ).logits.clone()
        for slot, prompt in enumerate(prompts)
    ]
    start, adapters = 0, []
    for slot, prompt in enumerate(prompts):
        if slot:
            adapters.append(AdapterRows(slot, start, start + len(prompt)))
        start += len(prompt)
    mixed = native.forward(whole(prompts, adapters)).logits
    assert torch.equal(mixed, torch.cat(alone))


@pytest.mark.parametrize("other", [library.AVX_VNNI, library.AVX512_VNNI])
def test_avx2_computes_like_vnni_to_the_bit(
    native: NativeLlama, prompts: list[list[int]], other: int
) -> None:
    """The sums of int16 products lose nothing to those of int8, nor do two halves to a whole."""
    if other not in LEVELS:
        pytest.skip("this processor does not have it")
    adapters = [AdapterRows(1, 0, 5), AdapterRows(2, 5, 24)]
    step = whole(prompts[:3], adapters)
    found = []
    for level in (library.AVX2, other):
        use_level(native, level)
        found.append(native.forward(step).logits.clone())
    assert torch.equal(*found)


@pytest.mark.skipif(library.AMX not in LEVELS, reason="this processor has no AMX")
@pytest.mark.parametrize("num_rows", [*range(1, 34), 64, 65, 127, 129])
def test_tiles_of_amx_multiply_like_vectors_to_the_bit(
    native: NativeLlama, tiny_base: BaseDirectory, num_rows: int
) -> None:
    """Whatever number of rows is left for the last tile. Of one token attention gives its value."""
    vocabulary = tiny_base.tokenizer.get_vocab_size()
    segments = [Segment(row, row + 1, 0, array("i", [row])) for row in range(num_rows)]
    token_ids = [7 * row % vocabulary for row in range(num_rows)]
    step = StepInput(token_ids, segments, [AdapterRows(1, 0, num_rows)], range(num_rows))
    found = []
    for level in (library.AVX512_BF16, library.AMX):
        use_level(native, level)
        found.append(native.forward(step).logits.clone())
    assert torch.equal(*found)


@each_level
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim"), [(6, 2, 64), (2, 2, 96), (4, 1, 128), (6, 6, 32)]
)
def test_attention_is_the_twins_for_every_shape_of_heads(
    tmp_path: Path, level: int, num_heads: int, num_kv_heads: int, head_dim: int
) -> None:
    config = LlamaConfig(
        **LLAMA_SIZES
        | {
            "hidden_size": 192,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_kv_heads,
            "head_dim": head_dim,
            "initializer_range": 0.1,
        }
    )
    base = make_tiny_base(tmp_path, config=config)
    twin = make_tiny_model(base, Kernels.TORCH)
    native = make_tiny_model(base, Kernels.NATIVE)
    assert isinstance(native, NativeLlama)
    use_level(native, level)
    rng = random.Random(level)
    step = whole([random_prompt(rng, base.tokenizer.get_vocab_size(), 110) for _ in range(2)], [])
    got, expected = native.forward(step).logits, twin.forward(step).logits
    assert distance(got, expected) < TOLERANCE


def test_stacked_adapters_add_up_with_their_factors(
    native: NativeLlama, twin: Model, prompts: list[list[int]]
) -> None:
    use_level(native, LEVELS[-1])
    prompt = prompts[0]
    stacked = [AdapterRows(1, 0, len(prompt), 0.5), AdapterRows(2, 0, len(prompt), -1.5)]
    step = whole([prompt], stacked)
    got, expected = native.forward(step).logits, twin.forward(step).logits
    assert distance(got, expected) < TOLERANCE
    plain = twin.forward(whole([prompt], [AdapterRows(1, 0, len(prompt))])).logits
    assert distance(got, plain) > 10 * TOLERANCE


@pytest.mark.parametrize("r", [4, 8, 12, 16, 24, 64])
def test_an_adapter_costs_its_own_weights_and_at_most_a_tenth_more(
    native: NativeLlama, r: int
) -> None:
    modules = {}
    for name in LINEARS:
        num_in, widths = native.shape.widths(name)
        for part, num_out in zip(FUSED[name], widths, strict=True):
            for layer in range(2):
                modules[f"model.layers.{layer}.{part}"] = (
                    torch.randn(r, num_in),
                    torch.randn(num_out, r),
                )
    adapter = native.prepare(LoraWeights(modules))
    own = sum(a.numel() + b.numel() for a, b in modules.values()) * 2
    assert own <= adapter.memory.numel() * 2 <= 1.1 * own


def test_a_step_that_would_write_elsewhere_is_refused(native: NativeLlama) -> None:
    with pytest.raises(ValueError, match="257 rows"):
        native.forward(whole([[5] * 257], []))
    with pytest.raises(ValueError, match="8 pages do not cover"):
        native.forward(whole([[5] * 129], []))
    num_words = native.num_embedded
    for wrong in (-1, num_words):
        with pytest.raises(ValueError, match=f"the base's are 0 to {num_words - 1}"):
            native.forward(whole([[5, wrong]], []))


def test_an_adapter_of_another_width_is_refused(native: NativeLlama) -> None:
    wide = LoraWeights(
        {"model.layers.0.self_attn.q_proj": (torch.zeros(4, 999), torch.zeros(128, 4))}
    )
    with refused(NotServable, "999", "128", "64", "128"):
        native.prepare(wide)


def test_packed_weights_stand_where_the_kernels_read_them() -> None:
    torch.manual_seed(0)
    w = torch.randint(-127, 128, (32, 64), dtype=torch.int8)
    packed = pack_int8(w)
    assert packed.shape == (2, 16, 16, 4)
    for n, k in ((0, 0), (17, 5), (31, 63)):
        assert packed[n // 16, k // 4, n % 16, k % 4].item() == w[n, k].item() + 128
    numbers, scale, minimum = quantize_half_groups(torch.randn(32, 128))
    packed = pack_int4(numbers, scale, minimum)
    assert packed.shape == (2, 4, 320)
    for n, k in ((0, 0), (17, 37), (31, 127)):
        half = packed[n // 16, k // 32]
        assert half[:64].view(torch.bfloat16)[[n % 16, 16 + n % 16]].tolist() == [
            scale[n, k // 32],
            minimum[n, k // 32],
        ]
        byte = half[64 + k % 32 // 8 * 64 + n % 16 * 4 + k % 4].item()
        assert (byte >> 4 if k % 8 >= 4 else byte & 15) == numbers[n, k]
    a, b = torch.randn(28, 64).bfloat16(), torch.randn(32, 6).bfloat16()
    assert pack_shrink(a[:16]).view(32, 16, 2)[3, 7, 1] == a[7, 7]
    for rest in (4, 8):
        packed = pack_shrink(a[: 16 + rest])[16 * 64 :].view(-1, 16 // rest, rest, 2)
        for rank, k in ((0, 0), (3, 1), (2, 37), (rest - 1, 63)):
            fold = 2 * 16 // rest
            assert packed[k // fold, k % fold // 2, rank, k % 2] == a[16 + rank, k]
    assert pack_expand(b)[1, 2, 4, 1] == b[20, 5]


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.01), (4, 0.1)])
def test_packed_weights_stand_for_the_weights_they_were_made_of(bits: int, bound: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 128)
    packed = PackedWeights.of(weight, bits)
    got = packed.rows(0, 48)
    assert (got[:40] - weight).norm() / weight.norm() < bound
    assert not got[40:].any()
    assert torch.equal(packed.rows(16, 32), got[16:32])


def test_a_steps_bound_counts_the_keys_that_layers_without_a_window_read(
    native: NativeLlama, serving: Serving
) -> None:
    smollm2 = replace(
        native.shape,
        hidden=576,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate=1536,
        num_layers=30,
        windows=(0,) * 30,
    )
    # 106 million weights, and for each of 30 layers 2 products with each of 576 features.
    assert smollm2.weights_per_key == 106_168_320 / (30 * 2 * 576)
    assert replace(smollm2, windows=(0, 512) * 15).weights_per_key == 2 * smollm2.weights_per_key
    assert replace(smollm2, windows=(512,) * 30).weights_per_key == math.inf
    model = serving.runner.model
    assert serving.engine.limits.keys_per_row == model.keys_per_row < math.inf
