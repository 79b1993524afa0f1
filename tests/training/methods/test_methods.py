"""Each method trains as it says and ends in a plain LoRA; PEFT and the engine are the checks."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.peft_config import CONFIG_FILE, WEIGHTS_FILE
from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.sequence import Sequence, Work
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.quantization import Quantization
from hotswap.serving.settings import Kernels
from hotswap.training.batches import collate
from hotswap.training.errors import TrainingInterrupted
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.optimizer import MasterWeights
from hotswap.training.loop.progress import Silence
from hotswap.training.loss import measure, train_pass, trainable
from hotswap.training.methods.adapted import Adapted, adapt
from hotswap.training.methods.extraction import factors
from hotswap.training.methods.layers import find_targets, refuse_wasteful_rank
from hotswap.training.methods.plain import PlainLora
from hotswap.training.prepare import prepare
from hotswap.training.runs.checkpoints import CheckpointFile
from hotswap.training.runs.publish import adapter_config, publish
from hotswap.training.spec import TrainingSpec
from tests.peft_adapters import load_reference, load_with_peft
from tests.refusals import refused
from tests.serving.conftest import load_adapter, make_tiny_model
from tests.serving.sequences import make_sequence, place
from tests.training.conftest import WriteRows
from tests.training.rows import counting, tokenized

# PEFT 0.21 reads an attribute that transformers 5.24 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.arange(3, 60).view(3, 19)
METHODS: list[dict[str, Any]] = [
    {"method": "lora", "lora_init": "gaussian"},
    {"method": "lora", "lora_init": "orthogonal", "use_rslora": True},
    {"method": "lora", "lora_plus_ratio": 4.0},
    {"method": "qlora"},
    {"method": "dora"},
    {"method": "dora", "use_rslora": True},
    {"method": "pissa"},
    {"method": "pissa", "use_rslora": True},
    {"method": "olora"},
    {"method": "full"},
]
each_method = pytest.mark.parametrize(
    "options", METHODS, ids=lambda options: "-".join(map(str, options.values()))
)


def spec_of(**values: Any) -> TrainingSpec:
    known = {"data": Path("rows.jsonl"), "r": 4, "dtype": "float32", "learning_rate": 0.01}
    return TrainingSpec.parse({**known, **values})


def logits_of(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits.float()


def train_steps(
    adapted: Adapted, spec: TrainingSpec, base: BaseDirectory, prompt: PromptFormat, num_steps: int
) -> None:
    rows = tokenized(8, prompt, base)
    weights = MasterWeights(trainable(adapted.model), adapted.masters, spec, adapted.rate_factors)
    adapted.model.train()
    for _ in range(num_steps):
        train_pass(adapted.model, collate(rows, pad_id=2), sum(r.num_supervised for r in rows))
        weights.gather()
        weights.step(spec.learning_rate)


@dataclass(frozen=True)
class Trained:
    adapted: Adapted
    adapter: PlainLora
    directory: Path


def trained(base: BaseDirectory, prompt: PromptFormat, directory: Path, **options: Any) -> Trained:
    """A few steps, then the adapter's directory."""
    spec = spec_of(**options)
    torch.manual_seed(0)
    adapted = adapt(base, spec, longest_row=64)
    train_steps(adapted, spec, base, prompt, num_steps=6)
    adapted.model.eval()
    adapter = adapted.plain_lora(adapted.snapshot())
    directory.mkdir()
    save_file(adapter.tensors, directory / WEIGHTS_FILE)
    config = adapter_config(adapter.config_values(), base)
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    return Trained(adapted, adapter, directory)


def engine_logits(base: BaseDirectory, directory: Path, prompt_ids: list[int]) -> torch.Tensor:
    """Of the last token, from our own forward pass with the adapter in slot 1."""
    model = make_tiny_model(base, Kernels.TORCH, Quantization.NONE)
    runner = ModelRunner(model, probe_tolerance=0.02)
    runner.load(1, runner.prepare(load_adapter(directory)))
    sequence: Sequence = make_sequence(prompt_ids, slot=1)
    place([sequence])
    return runner.model.forward(runner.pack([Work(sequence, 0, len(prompt_ids))])).logits[0]


@each_method
def test_the_published_adapter_means_the_same_to_peft_and_to_the_engine(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path, options: dict[str, Any]
) -> None:
    made = trained(base, prompt, tmp_path / "adapter", **options)
    bundle = Bundle.read(made.directory)

    through_peft = logits_of(load_with_peft(base, made.directory))

    assert bundle.lora.not_servable == ()
    assert (through_peft - logits_of(load_reference(base))).abs().max() > 0.1
    for row, ids in enumerate(IDS.tolist()):
        found = engine_logits(base, made.directory, ids)
        torch.testing.assert_close(found, through_peft[row, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    # QLoRA trains on another base; of a full change a LoRA holds a part.
    [options for options in METHODS if options["method"] not in ("qlora", "full")],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_base_with_the_published_adapter_is_the_model_that_was_trained(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path, options: dict[str, Any]
) -> None:
    made = trained(base, prompt, tmp_path / "adapter", **options)

    published = logits_of(load_with_peft(base, made.directory))

    expected = logits_of(made.adapted.model)
    moved = (expected - logits_of(load_reference(base))).abs().mean()
    assert (published - expected).abs().mean() < 1e-4 * moved


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_in_bfloat16_only_the_rounding_of_the_base_is_lost(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path, method: str, use_rslora: bool
) -> None:
    options: dict[str, Any] = {"method": method, "use_rslora": use_rslora, "dtype": "bfloat16"}
    made = trained(base, prompt, tmp_path / "adapter", **options)
    model = copy.deepcopy(made.adapted.model).float()
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer")
    }
    reference = dict(load_reference(base).named_parameters())
    adapter, config = made.adapter.tensors, made.adapter.config
    scale = config.lora_alpha / (config.r**0.5 if use_rslora else config.r)

    for name, layer in layers.items():
        with_adapter = layer.get_base_layer().weight + layer.get_delta_weight("default")
        a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"].float() for x in "AB")
        original = reference[f"{name}.weight"].bfloat16().float()
        lost = (original + scale * (b @ a) - with_adapter).abs()
        assert config.r == 8
        assert lost.max() <= 2**-8 * layer.get_base_layer().weight.abs().max()
        assert (with_adapter - original).abs().max() > 10 * lost.max()


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_at_step_0_the_published_adapter_has_no_effect(base: BaseDirectory, method: str) -> None:
    adapted = adapt(base, spec_of(method=method, dtype="bfloat16"), longest_row=64)

    adapter = adapted.plain_lora(adapted.snapshot())

    for name, a in adapter.tensors.items():
        if ".lora_A." in name:
            b = adapter.tensors[name.replace(".lora_A.", ".lora_B.")]
            assert a.any()
            assert (b.double() @ a.double()).abs().max() < 1e-12


def gradients(adapted: Adapted, rows: list[Any]) -> list[torch.Tensor]:
    adapted.model.train()
    train_pass(adapted.model, collate(rows, pad_id=2), num_supervised=10)
    found = []
    for parameter in trainable(adapted.model):
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.grad = None
    return found


def nf4_gradients(
    base: BaseDirectory, prompt: PromptFormat, *, may_repack: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of one batch before and after an evaluation."""
    rows = tokenized(8, prompt, base)
    adapted = adapt(base, spec_of(method="qlora", dtype="bfloat16"), longest_row=64)
    torch.manual_seed(1)
    for parameter in trainable(adapted.model):
        parameter.data = torch.randn_like(parameter) * 0.1  # B is zero at first and hides A's
    for module in adapted.model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu |= may_repack
    before = gradients(adapted, rows)
    adapted.model.eval()
    measure(adapted.model, collate(rows, pad_id=2))
    return before, gradients(adapted, rows)


def test_an_evaluation_between_steps_changes_no_bit_of_nf4_gradients(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    before, after = nf4_gradients(base, prompt, may_repack=False)

    assert all(gradient.any() for gradient in before)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered:UserWarning")
def test_a_repacked_nf4_base_would_give_other_gradients(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    from bitsandbytes.nn.modules import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("needs a CPU with AVX512-BF16")

    before, after = nf4_gradients(base, prompt, may_repack=True)

    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_qlora_trains_on_double_quantized_nf4_in_every_adapted_layer(
    base: BaseDirectory,
) -> None:
    adapted = adapt(base, spec_of(method="qlora"), longest_row=64)

    layers = [m for m in adapted.model.modules() if hasattr(m, "lora_A")]
    states = [layer.get_base_layer().weight.quant_state for layer in layers]
    assert len(states) == 2 * 7
    assert {(state.quant_type, state.nested) for state in states} == {("nf4", True)}


def test_lora_plus_moves_the_weights_as_pefts_own_optimizer_does(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    spec = spec_of(lora_plus_ratio=8.0, learning_rate=1e-3, max_grad_norm=1e9, weight_decay=0.1)
    torch.manual_seed(0)
    adapted = adapt(base, spec, longest_row=64)
    model = copy.deepcopy(adapted.model)
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8.0, weight_decay=0.1
    )
    for group in theirs.param_groups:
        group["weight_decay"] = 0.1  # it leaves some out; the rates are what is checked
    rows = tokenized(8, prompt, base)

    train_steps(adapted, spec, base, prompt, num_steps=3)
    for _ in range(3):
        train_pass(model, collate(rows, pad_id=2), sum(row.num_supervised for row in rows))
        theirs.step()
        theirs.zero_grad()

    for found, expected in zip(trainable(adapted.model), trainable(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_full_change_is_published_as_the_nearest_one_of_its_rank(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path
) -> None:
    made = trained(base, prompt, tmp_path / "adapter", method="full", use_rslora=True)
    trained_weights = dict(made.adapted.model.named_parameters())
    original = dict(load_reference(base).named_parameters())

    merged = load_with_peft(base, made.directory).merge_and_unload()

    for layer in find_targets(base, spec_of()).layers:
        name = f"{layer.name}.weight"
        change = (trained_weights[name] - original[name]).detach().double().numpy()
        u, s, vh = np.linalg.svd(change, full_matrices=False)
        found = (merged.get_parameter(name) - original[name]).detach().numpy()
        np.testing.assert_allclose(found, (u[:, :4] * s[:4]) @ vh[:4], rtol=1e-3, atol=1e-5)
        kept = made.adapter.energy[layer.name].share
        assert kept == pytest.approx((s[:4] ** 2).sum() / (s**2).sum(), rel=1e-4)


def test_a_change_of_low_rank_is_extracted_whole() -> None:
    torch.manual_seed(0)
    change = torch.randn(30, 3) @ torch.randn(3, 20)

    a, b, energy = factors(change, 3)

    torch.testing.assert_close(b @ a, change, rtol=1e-4, atol=1e-4)
    assert energy.share == pytest.approx(1)


def test_the_energy_kept_is_what_the_rest_leaves_of_the_squared_norm() -> None:
    torch.manual_seed(0)
    change = torch.randn(30, 20)

    a, b, energy = factors(change, 5)

    rest = (change - b @ a).square().sum() / change.square().sum()
    assert energy.total == pytest.approx(float(change.square().sum()), rel=1e-5)
    assert energy.share == pytest.approx(float(1 - rest), rel=1e-5)
    assert torch.linalg.matrix_rank(b @ a) == 5


def test_no_change_is_extracted_as_nothing() -> None:
    a, b, energy = factors(torch.zeros(6, 4), 2)

    assert not (b @ a).any()
    assert energy.share == 1


def test_full_fine_tuning_moves_the_targeted_weights_and_nothing_else(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    spec = spec_of(method="full", target_modules=["q_proj", "down_proj"])
    adapted = adapt(base, spec, longest_row=64)
    reference = dict(load_reference(base).named_parameters())

    train_steps(adapted, spec, base, prompt, num_steps=1)

    moved = {
        name
        for name, parameter in adapted.model.named_parameters()
        if not torch.equal(parameter, reference[name])
    }
    assert len(moved) == 4
    assert all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in moved)


@pytest.mark.parametrize("method", ["full", "qlora", "pissa"])
def test_the_loss_of_the_published_adapter_is_reported_beside_that_of_training(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path, method: str
) -> None:
    spec = spec_of(data=write_rows(counting(30)), method=method, num_epochs=2, learning_rate=3e-3)
    prepared = prepare(spec, base)
    outcome = finetune(spec, base, prepared.train, prepared.validation, Silence(), prepared.probes)

    bundle = publish(tmp_path / "adapter", outcome, spec, base, prepared)

    model = load_with_peft(base, bundle.directory)
    expected = measure(model, collate(prepared.validation, pad_id=2)).loss
    metrics = bundle.metadata.metrics
    assert metrics["published_validation_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["validation_loss"] < metrics["base_validation_loss"]
    if method == "full":
        kept = bundle.metadata.provenance["energy_kept"]
        assert set(kept) == set(bundle.lora.modules)
        assert min(kept.values()) == pytest.approx(metrics["lowest_energy_kept"], abs=1e-6)
        assert metrics["lowest_energy_kept"] <= metrics["energy_kept"] < 1


@pytest.mark.parametrize("method", ["qlora", "dora", "pissa", "olora", "full"])
def test_the_same_spec_and_data_give_the_same_digest_by_every_method(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path, method: str
) -> None:
    spec = spec_of(data=write_rows(counting(16)), method=method, num_epochs=1, dtype="bfloat16")
    prepared = prepare(spec, base)

    digests = set()
    for name in ("first", "second"):
        outcome = finetune(
            spec, base, prepared.train, prepared.validation, Silence(), prepared.probes
        )
        bundle = publish(tmp_path / name, outcome, spec, base, prepared)
        digests.add(bundle.manifest().digest)

    assert len(digests) == 1


@pytest.mark.parametrize("method", ["qlora", "dora", "pissa", "olora", "full"])
def test_an_interrupted_run_resumes_to_the_same_adapter_by_every_method(
    base: BaseDirectory, prompt: PromptFormat, tmp_path: Path, method: str
) -> None:
    spec = spec_of(method=method, num_epochs=2, batch_size=8, dtype="bfloat16")
    rows = tokenized(24, prompt, base)
    states = CheckpointFile(tmp_path / "state.safetensors", identity={})
    parts = base, rows[:16], rows[16:], Silence()
    whole = finetune(spec, *parts)

    with refused(TrainingInterrupted, "1", "4"):
        finetune(spec, *parts, states=states, stop=lambda: True)
    resumed = finetune(spec, *parts, states=states)

    assert whole.best.tensors.keys() == resumed.best.tensors.keys()
    for name, tensor in whole.best.tensors.items():
        assert torch.equal(tensor, resumed.best.tensors[name])


def test_the_targets_are_the_layers_that_peft_adapts(base: BaseDirectory) -> None:
    spec = spec_of()
    adapted = adapt(base, spec, longest_row=64)
    assert isinstance(adapted.model, PeftModel)

    targets = find_targets(base, spec)

    sizes = {
        name.removeprefix("base_model.model."): tuple(m.get_base_layer().weight.shape)
        for name, m in adapted.model.named_modules()
        if hasattr(m, "lora_A")
    }
    assert {layer.name: (layer.num_out, layer.num_in) for layer in targets.layers} == sizes
    assert sum(layer.num_lora(4) for layer in targets.layers) == sum(
        p.numel() for p in trainable(adapted.model)
    )


@pytest.mark.parametrize(
    ("method", "r", "highest"), [("lora", 32, 31), ("full", 40, 31), ("pissa", 16, 15)]
)
def test_a_rank_that_saves_nothing_is_refused_with_its_number(
    base: BaseDirectory, method: str, r: int, highest: int
) -> None:
    layers = find_targets(base, spec_of()).layers

    with refused(InvalidSettings, "4,096", highest):
        refuse_wasteful_rank(layers, spec_of(method=method, r=r))

    refuse_wasteful_rank(layers, spec_of(method=method, r=highest))


def test_targets_that_are_not_there_are_named(base: BaseDirectory) -> None:
    with refused(InvalidSettings, "q_prj"):
        adapt(base, spec_of(target_modules=["q_prj"]), longest_row=64)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"method": "full", "lora_dropout": 0.1}, "lora_dropout"),
        ({"method": "pissa", "lora_init": "gaussian"}, "lora_init"),
        ({"method": "full", "lora_plus_ratio": 4}, "lora_plus_ratio"),
        ({"lora_init": "orthogonal", "r": 3}, "even"),
    ],
)
def test_an_option_that_the_method_cannot_use_is_refused(
    values: dict[str, Any], problem: str
) -> None:
    with refused(InvalidSettings, problem):
        spec_of(**values)
