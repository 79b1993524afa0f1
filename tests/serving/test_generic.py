"""Families that transformers' own code runs, against transformers and PEFT alone."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, MambaConfig, PretrainedConfig, RecurrentGemmaConfig

from hotswap.serving.adapters.lora import LoraRoom, LoraWeights
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseNotFound, NotServable
from hotswap.serving.models import AdapterRows, Segment, StepInput
from hotswap.serving.models.generic import Generic
from hotswap.serving.settings import Quantization
from tests.peft_adapters import load_with_peft, make_adapter
from tests.refusals import refused
from tests.serving.conftest import MAX_RANK, MAX_ROWS, NUM_PAGES, NUM_SLOTS, load_adapter
from tests.serving.families import OTHERS, make_family
from tests.tiny_base import make_tiny_base

VOCAB = 300
# Relative, of the logits: about what the same quantization of each layer adds up to.
BOUNDS = {
    Quantization.INT8: 0.15,
    Quantization.INT4: 0.8,
    Quantization.BNB_INT8: 0.15,
    Quantization.NF4: 0.8,
}

each_family = pytest.mark.parametrize("family", OTHERS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseDirectory]:
    root = tmp_path_factory.mktemp("others")
    return {name: make_family(root, name) for name in OTHERS}


@pytest.fixture(scope="module")
def adapters(bases: dict[str, BaseDirectory]) -> dict[str, Path]:
    """An adapter on all linear layers of each family (Mixtral's experts are none)."""
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return {
        name: make_adapter(
            base,
            base.path.parent / f"{name}-adapter",
            target_modules=attention if name == "mixtral" else "all-linear",
            fan_in_fan_out=name == "gpt2",
        )
        for name, base in bases.items()
    }


@pytest.fixture
def prompts() -> list[list[int]]:
    rng = random.Random(29)
    return [[rng.randrange(3, VOCAB) for _ in range(length)] for length in (45, 23, 31)]


def make_model(
    base: BaseDirectory, adapter: Path, quantization: Quantization = Quantization.NONE
) -> Generic:
    """In float32, with the adapter in slot 1."""
    room = LoraRoom(NUM_SLOTS, MAX_RANK, torch.float32)
    model = Generic(base, quantization, torch.float32, room, num_pages=NUM_PAGES, max_rows=MAX_ROWS)
    model.load(1, model.prepare(load_adapter(adapter)))
    return model


def run(model: Generic, prompts: list[list[int]], cuts: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """The logits of every token of prompts that run together; all but the first through slot 1.
    After the cuts (at `cuts`, the same for all) each prompt's rest runs in one step."""
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for start, end in zip((0, *cuts), (*cuts, None), strict=True):
        parts = [prompt[start:end] for prompt in prompts]
        segments, at = [], 0
        for number, part in enumerate(parts):
            pages = array("i", range(number * 4, number * 4 + 4))
            segments.append(Segment(at, at + len(part), start, pages))
            at += len(part)
        adapters = [AdapterRows(1, segments[0].end, at)] if len(prompts) > 1 else []
        tokens = [token for part in parts for token in part]
        logits = model.forward(StepInput(tokens, segments, adapters, range(at))).logits
        for to, segment in zip(found, segments, strict=True):
            to.append(logits[segment.start : segment.end])
    return [torch.cat(parts) for parts in found]


@each_family
def test_a_mix_equals_transformers_and_peft_at_once_in_chunks_and_decoded(
    bases: dict[str, BaseDirectory],
    adapters: dict[str, Path],
    family: str,
    prompts: list[list[int]],
) -> None:
    base, adapter = bases[family], adapters[family]
    model = make_model(base, adapter)
    plain, adapted = load_with_peft(base, None), load_with_peft(base, adapter)
    with torch.no_grad():
        expected = [
            (adapted if number else plain)(input_ids=torch.tensor([prompt])).logits[0]
            for number, prompt in enumerate(prompts)
        ]
        unadapted = plain(input_ids=torch.tensor([prompts[1]])).logits[0]
    assert (unadapted - expected[1]).norm() > 0.1 * expected[1].norm()
    for cuts in ((), (16, 20, 21, 22)):
        for got, logits in zip(run(model, prompts, cuts), expected, strict=True):
            torch.testing.assert_close(got, logits, rtol=1e-3, atol=1e-3)


@each_family
@pytest.mark.parametrize("quantization", BOUNDS)
def test_quantized_layers_stay_near_the_model_and_a_mix_is_each_alone_to_the_bit(
    bases: dict[str, BaseDirectory],
    adapters: dict[str, Path],
    family: str,
    quantization: Quantization,
    prompts: list[list[int]],
) -> None:
    model = make_model(bases[family], adapters[family], quantization)
    mixed = run(model, prompts)
    with torch.no_grad():
        exact = load_with_peft(bases[family], None)(input_ids=torch.tensor([prompts[0]])).logits[0]
    distance = float((mixed[0] - exact).norm() / exact.norm())
    assert 0 < distance < BOUNDS[quantization]
    assert torch.equal(run(model, prompts[:1])[0], mixed[0])
    assert torch.equal(run(model, [prompts[2], prompts[1]])[1], mixed[1])


_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(hidden_size=64, num_hidden_layers=2, state_size=8), "keeps a state beside"),
        (
            RecurrentGemmaConfig(**_SMALL, lru_width=64, num_key_value_heads=1),
            "keeps a state beside",
        ),
        (BertConfig(**_SMALL), "answers otherwise when its prompt is read in parts"),
    ],
)
def test_a_model_that_pages_of_keys_and_values_do_not_make_is_refused(
    tmp_path: Path, config: PretrainedConfig, reason: str
) -> None:
    base = make_tiny_base(tmp_path, config=config)
    room = LoraRoom(1, 4, torch.float32)
    with refused(BaseNotFound, reason):
        Generic(base, Quantization.NONE, torch.float32, room, num_pages=8, max_rows=64)


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_a_dora_adapter_gives_what_peft_gives(
    bases: dict[str, BaseDirectory], family: str, prompts: list[list[int]], tmp_path: Path
) -> None:
    base = bases[family]
    directory = make_adapter(
        base, tmp_path / "dora", target_modules="all-linear", use_dora=True, seed=5
    )
    got = run(make_model(base, directory), prompts)[1]
    with torch.no_grad():
        expected = load_with_peft(base, directory)(input_ids=torch.tensor([prompts[1]])).logits[0]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_an_adapter_of_another_width_is_refused(
    bases: dict[str, BaseDirectory], adapters: dict[str, Path]
) -> None:
    model = make_model(bases["gpt2"], adapters["gpt2"])
    wide = LoraWeights({"transformer.h.0.attn.c_attn": (torch.zeros(4, 999), torch.zeros(192, 4))})
    with refused(NotServable, "999", "192", "64", "192"):
        model.prepare(wide)
