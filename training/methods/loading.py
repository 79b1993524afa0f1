"""The base as a method needs it, with fresh LoRA layers. Knows no loss and no optimiser."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.loss import attention_for, refuse_logit_changes, trainable
from hotswap.training.spec import TrainingSpec

# Subspace iterations of the fast SVD of PiSSA; Meng et al. 2024, table 2: at 16 it is the exact one
# for training's purposes.
_PISSA_INIT = "pissa_niter_16"
_ADAPTER = "default"


def load_base(base: BaseDirectory, spec: TrainingSpec, attention: str, *, nf4: bool = False) -> Any:
    """transformers' model of the base in `spec.dtype`; with `nf4` its linear layers are NF4 with
    double-quantized scales (Dettmers et al. 2023)."""
    dtype = getattr(torch, spec.dtype)
    options = {"quantization_config": _nf4(dtype)} if nf4 else {}
    model = AutoModelForCausalLM.from_pretrained(
        base.path, dtype=dtype, attn_implementation=attention, **options
    )
    if nf4:
        _keep_unpacked(model)
    return model


def add_lora(model: Any, spec: TrainingSpec) -> PeftModel:
    """The model with LoRA layers as the method starts them; PiSSA and OLoRA change its weights.

    Its first output is the base's, for PiSSA and OLoRA up to the rounding of the weights.
    """
    peft_model = with_lora(model, lora_config(spec))
    if spec.method in ("pissa", "olora"):
        for layer in lora_layers(peft_model).values():
            _take_out(layer, spec)
    return peft_model


def with_lora(model: Any, config: LoraConfig) -> PeftModel:
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.24 has renamed.
        warnings.filterwarnings("ignore", r".*is_gradient_checkpointing", FutureWarning)
        return get_peft_model(model, config)


def lora_config(spec: TrainingSpec) -> LoraConfig:
    modules = spec.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.r,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        use_rslora=spec.use_rslora,
        use_dora=spec.method == "dora",
        init_lora_weights=True if spec.lora_init == "uniform" else spec.lora_init,
    )


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers by their names in the base."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer")
    }


@torch.no_grad()
def _take_out(layer: Any, spec: TrainingSpec) -> None:
    """Start A and B from the weight's principal part, and leave the rest W - s · B · A in the base.

    PEFT's factors are rounded to the dtype they are trained in first: the rest then belongs to what
    a server will have of them, and not to numbers that nobody keeps.
    """
    dtype = getattr(torch, spec.dtype)
    weight = layer.get_base_layer().weight
    whole = weight.detach().float().clone()  # OLoRA takes its part out in place
    if spec.method == "pissa":
        layer.pissa_init(_ADAPTER, _PISSA_INIT)
    else:
        layer.olora_init(_ADAPTER)
    a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    for factor in (a, b):
        factor.data = factor.detach().to(dtype).float().contiguous()
    principal = layer.scaling[_ADAPTER] * (b @ a)  # (out, in)
    rest = whole - (principal.T if layer.fan_in_fan_out else principal)
    layer.get_base_layer().weight.data = rest.to(dtype)


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_unpacked(model: nn.Module) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes repacks a layer's weight at its first call in eval
    mode and never unpacks it: every gradient after the first validation would be wrong."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_lora_model(
    base: BaseDirectory, spec: TrainingSpec, longest_row: int
) -> tuple[PeftModel, list[torch.Tensor]]:
    """The base with fresh LoRA layers, and their first weights in float32, one per trainable
    parameter and in that order.

    Chance comes from torch's global generator; the model equals its base. Raises
    NotServable for an architecture whose logits are not simply the head's output.
    """
    model = load_base(base, spec, attention_for(longest_row), nf4=spec.method == "qlora")
    refuse_logit_changes(model)
    peft_model = add_lora(model, spec)
    masters = [p.detach().float().clone() for p in trainable(peft_model)]
    for parameter in trainable(peft_model):
        parameter.data = parameter.data.to(getattr(torch, spec.dtype))
    return peft_model, masters
