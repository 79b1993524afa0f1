"""Adapters in the forms other engines read: merged into the base, and as a GGUF LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.settings import read_home
from hotswap.serving.adapters.export import check_exportable, export_gguf, export_merged
from hotswap.serving.base_model import BUILT_IN_BASES, BaseDirectory, package_file, provide_base
from hotswap.serving.errors import BaseMismatch, NotServable
from hotswap.serving.rendering import render
from hotswap.serving.settings import ServingHome
from tests.peft_adapters import load_with_peft, make_adapter
from tests.refusals import refused
from tests.serving.families import make_family

PROMPTS = ([5, 6, 7, 8], [40, 41], [9] * 12)


@pytest.mark.parametrize("index", [0, 1, 2, 3, 5])
@pytest.mark.usefixtures("names_are_synced")
def test_a_merged_model_equals_base_and_adapter_through_peft(
    tiny_base: BaseDirectory, adapter_dirs: list[Path], tmp_path: Path, index: int
) -> None:
    directory = adapter_dirs[index]
    export_merged(directory, Bundle.read(directory).lora, tiny_base, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    oracle = load_with_peft(tiny_base, directory)
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            torch.testing.assert_close(
                merged(input_ids=ids).logits, oracle(input_ids=ids).logits, rtol=1e-4, atol=1e-4
            )


def test_an_adapter_of_transposed_layers_is_merged_as_peft_applies_it(tmp_path: Path) -> None:
    """GPT-2 keeps weights as (in, out), also the square ones, where a mistake would not show."""
    base = make_family(tmp_path, "gpt2")
    directory = make_adapter(
        base, tmp_path / "adapter", target_modules="all-linear", fan_in_fan_out=True
    )
    export_merged(directory, Bundle.read(directory).lora, base, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    oracle = load_with_peft(base, directory)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        expected = oracle(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    with refused(NotServable, "'gpt2'", "GGUF"):
        export_gguf(directory, Bundle.read(directory).lora, base, tmp_path / "adapter.gguf")


def test_an_adapter_of_layers_that_the_weight_files_do_not_name_is_not_merged(
    tiny_base: BaseDirectory, adapter_dirs: list[Path], tmp_path: Path
) -> None:
    other = make_family(tmp_path, "gpt2")
    shape = Bundle.read(adapter_dirs[0]).lora
    with refused(NotServable, "'model.layers.0.mlp.down_proj'"):
        export_merged(adapter_dirs[0], shape, other, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_is_a_base_of_its_own(
    tiny_base: BaseDirectory, adapter_dirs: list[Path], tmp_path: Path
) -> None:
    directory = adapter_dirs[0]
    export_merged(directory, Bundle.read(directory).lora, tiny_base, tmp_path / "merged")
    found = provide_base(str(tmp_path / "merged"), tmp_path).fingerprint()
    assert tiny_base.fingerprint().mismatches(found) == ["weights_digest"]


def test_a_dora_adapter_is_not_exported_for_llama_cpp(
    adapter_dirs: list[Path], tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    shape = Bundle.read(adapter_dirs[5]).lora
    with refused(NotServable, "DoRA"):
        export_gguf(adapter_dirs[5], shape, tiny_base, tmp_path / "adapter.gguf")


def test_nothing_is_overwritten(
    tiny_base: BaseDirectory, adapter_dirs: list[Path], tmp_path: Path
) -> None:
    shape = Bundle.read(adapter_dirs[0]).lora
    (tmp_path / "there").mkdir()
    (tmp_path / "there.gguf").write_text("mine")
    with refused(InvalidRequest, tmp_path / "there"):
        export_merged(adapter_dirs[0], shape, tiny_base, tmp_path / "there")
    with refused(InvalidRequest, tmp_path / "there.gguf"):
        export_gguf(adapter_dirs[0], shape, tiny_base, tmp_path / "there.gguf")
    assert (tmp_path / "there.gguf").read_text() == "mine"


def test_another_base_is_refused_by_field(
    tiny_base: BaseDirectory, adapter_dirs: list[Path]
) -> None:
    other = tiny_base.fingerprint().model_copy(update={"weights_digest": Digest.of(b"other")})
    manifest: Manifest = Bundle.read(adapter_dirs[0]).manifest(base=other)
    with refused(BaseMismatch, "weights_digest"):
        check_exportable(manifest, tiny_base)


def test_what_cannot_be_applied_cannot_be_exported(
    tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    directory = make_adapter(tiny_base, tmp_path / "bias", bias="lora_only")
    with refused(NotServable, "bias"):
        check_exportable(Bundle.read(directory).manifest(), tiny_base)


@pytest.mark.real
@pytest.mark.parametrize("config", [{"r": 8}, {"r": 4, "use_rslora": True}])
def test_llama_cpp_gives_the_exported_adapter_the_same_next_tokens(
    tmp_path: Path, config: dict[str, object]
) -> None:
    llama_cpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install xllamacpp")
    base = provide_base("smollm2-135m", read_home(ServingHome).bases)
    directory = make_adapter(base, tmp_path / "adapter", strength=0.2, **config)
    export_gguf(directory, Bundle.read(directory).lora, base, tmp_path / "adapter.gguf")
    prompts = [
        render(base.prompt_format(), [{"role": "user", "content": text}])
        for text in ("What is the capital of France?", "Count to five.", "Name a colour.")
    ]
    answers = _ask_llama_cpp(llama_cpp, tmp_path / "adapter.gguf", prompts)
    adapted, alone = load_with_peft(base, directory), load_with_peft(base, None)
    for prompt, found in zip(prompts, answers, strict=True):
        ids = torch.tensor([base.tokenizer.encode(prompt, add_special_tokens=False).ids])
        with torch.no_grad():
            near = _divergence(adapted(input_ids=ids).logits[0, -1], found)
            far = _divergence(alone(input_ids=ids).logits[0, -1], found)
        # Measured: below 0.003; without the order of q and k that llama.cpp wants, above 0.1.
        assert near < 0.02
        assert far > 5 * near


def _ask_llama_cpp(llama_cpp: object, lora: Path, prompts: list[str]) -> list[dict[int, float]]:
    """Log-probabilities of the likeliest first tokens, by token id."""
    params = llama_cpp.CommonParams()
    params.model.path = str(package_file(BUILT_IN_BASES["smollm2-135m"]))
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 2
    params.lora_adapters = [llama_cpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    server = llama_cpp.Server(params)
    answers = []
    for prompt in prompts:
        asked = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 12}
        answer = server.handle_completions(asked)
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        (first,) = answer["choices"][0]["logprobs"]["content"]
        answers.append({top["id"]: top["logprob"] for top in first["top_logprobs"]})
    return answers


def _divergence(logits: torch.Tensor, found: dict[int, float]) -> float:
    """KL (nats) from llama.cpp's top tokens and the rest to those of `logits` (vocab,)."""
    q = torch.softmax(logits.double(), -1)[list(found)]
    p = torch.tensor(list(found.values()), dtype=torch.float64).exp()
    p, q = (torch.cat([x, (1 - x.sum()).clamp_min(1e-6)[None]]) for x in (p, q))
    return float((p * (p / q).log()).sum())
