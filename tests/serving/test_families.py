"""Every Llama-like family against transformers and PEFT, and its native kernels against the twin.

Prompts are longer than the windows and than a page; they are read at once, in chunks and decoded.
"""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseNotFound
from hotswap.serving.models import AdapterRows, Model, Segment, StepInput
from hotswap.serving.models.weights import Shape
from hotswap.serving.settings import Kernels, Quantization
from tests.peft_adapters import load_with_peft, make_adapter
from tests.refusals import refused
from tests.serving.conftest import load_adapter, make_tiny_model
from tests.serving.families import LLAMA_LIKE, WINDOW, make_family
from tests.tiny_base import LLAMA_SIZES, make_tiny_base

# As in test_native: bf16 keys, values and adapters against float32, amplified by int8 rounding.
TOLERANCE = 0.08
NUM_TOKENS = 45
VOCAB = 300
CUTS = (16, 20, 21, 22, 37)

each_family = pytest.mark.parametrize("family", LLAMA_LIKE)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseDirectory]:
    root = tmp_path_factory.mktemp("families")
    return {name: make_family(root, name) for name in LLAMA_LIKE}


@pytest.fixture(scope="module")
def adapters(bases: dict[str, BaseDirectory]) -> dict[str, Path]:
    """An adapter on all linear layers of each family."""
    return {
        name: make_adapter(base, base.path.parent / f"{name}-adapter", use_rslora=True)
        for name, base in bases.items()
    }


@pytest.fixture
def prompt() -> list[int]:
    rng = random.Random(23)
    return [rng.randrange(3, VOCAB) for _ in range(NUM_TOKENS)]


def run(model: Model, prompt: list[int], cuts: tuple[int, ...] = ()) -> torch.Tensor:
    """The logits of every token, twice at once: through the base, and through slot 1."""
    found: list[torch.Tensor] = []
    for start, end in zip((0, *cuts), (*cuts, len(prompt)), strict=True):
        n = end - start
        step = StepInput(
            token_ids=prompt[start:end] * 2,
            segments=[
                Segment(0, n, start, array("i", range(4))),
                Segment(n, 2 * n, start, array("i", range(4, 8))),
            ],
            adapters=[AdapterRows(1, n, 2 * n)],
            wanted=range(2 * n),
        )
        found.append(model.forward(step).logits.clone().view(2, n, -1))
    return torch.cat(found, 1)


def with_adapter(
    base: BaseDirectory, adapter: Path, kernels: Kernels, quantization: Quantization
) -> Model:
    model = make_tiny_model(base, kernels, quantization)
    model.load(1, model.prepare(load_adapter(adapter)))
    return model


@each_family
def test_logits_equal_transformers_and_peft_at_once_in_chunks_and_decoded(
    bases: dict[str, BaseDirectory], adapters: dict[str, Path], family: str, prompt: list[int]
) -> None:
    base, adapter = bases[family], adapters[family]
    model = with_adapter(base, adapter, Kernels.TORCH, Quantization.NONE)
    with torch.no_grad():
        ids = torch.tensor([prompt])
        expected = torch.cat(
            [load_with_peft(base, which)(input_ids=ids).logits for which in (None, adapter)]
        )
    assert (expected[0] - expected[1]).norm() > 0.1 * expected[0].norm()
    for cuts in ((), CUTS):
        torch.testing.assert_close(run(model, prompt, cuts), expected, rtol=1e-4, atol=1e-4)


@each_family
def test_native_logits_are_the_twins_and_the_same_bits_however_the_prompt_is_cut(
    bases: dict[str, BaseDirectory], adapters: dict[str, Path], family: str, prompt: list[int]
) -> None:
    base, adapter = bases[family], adapters[family]
    native = with_adapter(base, adapter, Kernels.NATIVE, Quantization.INT8)
    twin = with_adapter(base, adapter, Kernels.TORCH, Quantization.INT8)
    got, expected = run(native, prompt), run(twin, prompt)
    assert float((got - expected).norm() / expected.norm()) < TOLERANCE
    assert torch.equal(run(native, prompt, CUTS), got)


def test_a_token_behind_the_window_changes_nothing_and_one_inside_does(
    bases: dict[str, BaseDirectory], adapters: dict[str, Path], prompt: list[int]
) -> None:
    """Two layers of windows reach 2 · (WINDOW - 1) tokens back."""
    reach = 2 * (WINDOW - 1)
    for kernels in (Kernels.NATIVE, Kernels.TORCH):
        model = with_adapter(
            bases["mistral-window"], adapters["mistral-window"], kernels, Quantization.INT8
        )
        last = run(model, prompt)[:, -1]
        for distance, is_seen in ((reach + 1, False), (reach, True)):
            changed = list(prompt)
            changed[-1 - distance] = (changed[-1 - distance] + 7) % VOCAB
            assert torch.equal(run(model, changed)[:, -1], last) != is_seen


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu"}, "activation is 'gelu'"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                    "short_factor": [1.0] * 16,
                    "long_factor": [2.0] * 16,
                }
            },
            "rotary embedding is 'longrope'",
        ),
    ],
)
def test_what_the_forward_pass_does_not_do_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    base = make_tiny_base(tmp_path, config=LlamaConfig(**{**LLAMA_SIZES, **changes}))
    with refused(BaseNotFound, reason):
        Shape.of(base)
